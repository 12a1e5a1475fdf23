"""Sockets for sealed bulk, beside the transport's own: one to listen on, one to each neighbour."""
