"""Graphs, mixing matrices and the cluster file: who is in a run and how they are connected.

Public, for use without a daemon: `graphs`, `schedules`, `mixing`, `matrices`, `analysis`,
`consensus`, `spectral`, `specs`; the other modules serve these and the cluster file.
"""
