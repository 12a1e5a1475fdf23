"""`candor cluster`: cluster files, and who joins and leaves."""
