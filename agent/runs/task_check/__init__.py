"""`candor task check`: what a task is like on this host, and what is wrong with it."""
