"""Wire protocol, sessions and transport between neighbours; knows nothing of money or models."""
