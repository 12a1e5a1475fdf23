"""Mixing weights: rules, a user's matrix, the fastest ones, and how fast they mix."""
