"""Optimisation algorithms, each written once as a generator of effects."""
