"""Experiments on top of everything; nothing leans on them."""
