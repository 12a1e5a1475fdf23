"""One agent as a pure state machine: no clock, socket, disk or global generator."""
