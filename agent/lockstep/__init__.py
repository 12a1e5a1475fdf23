"""Real cores under a seeded scheduler with faults."""
