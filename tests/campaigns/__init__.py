"""Attacks that take minutes: `make fuzz` and `make crash`. Short forms of them are tests."""
