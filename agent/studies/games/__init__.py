"""The theory of when lies pay, held against games as played."""
