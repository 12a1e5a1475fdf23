"""Candor's agent: one daemon per host that trains, gossips, witnesses and settles."""

__version__ = "0.1.0"
