"""What agents are worth to each other, and which part of a model each earns by it; pure."""
