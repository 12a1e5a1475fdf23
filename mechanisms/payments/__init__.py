"""Money, payment rules, bills."""
