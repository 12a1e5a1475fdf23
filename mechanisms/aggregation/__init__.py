"""Vectors of a neighbourhood combined so that a few of them cannot pull the result away."""
