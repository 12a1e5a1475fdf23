"""The cluster file, and how its members change."""
