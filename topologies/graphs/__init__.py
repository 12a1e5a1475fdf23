"""Graphs: families, generators, files of other programs, functions."""
