"""Federated SGD among competing writers."""
