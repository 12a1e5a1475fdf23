"""Graphs, mixing matrices and the cluster file: who is in a run and how they are connected.

Of use without a daemon: docs/topologies.md says how.
"""
