"""Every agent a row: runs without messages."""
