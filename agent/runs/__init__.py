"""What runs share, however they are performed."""
