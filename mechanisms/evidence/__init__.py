"""What statements and claims prove."""
