"""Drivers that perform what the core and the algorithms ask for."""
