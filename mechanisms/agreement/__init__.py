"""What agents of a run agree on without anyone whom all trust: a common coin, and one vector."""
