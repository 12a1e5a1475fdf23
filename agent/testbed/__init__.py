"""N real daemons on one machine."""
