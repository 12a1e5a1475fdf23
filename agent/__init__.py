"""Candor's agent: one daemon per host that trains, gossips, witnesses and settles."""
