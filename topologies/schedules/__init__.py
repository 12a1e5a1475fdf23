"""Graphs that change from round to round, and what each round weighs and costs."""
