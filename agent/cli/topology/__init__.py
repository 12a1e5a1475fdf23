"""`candor topology`: graphs drawn, described and saved."""
