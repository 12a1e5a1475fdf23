"""Pages, drawings and what the terminal shows."""
