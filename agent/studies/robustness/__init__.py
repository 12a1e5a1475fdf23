"""What attacks do to what honest agents learn, by aggregator and graph."""
