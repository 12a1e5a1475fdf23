"""What rounds, simulations, graphs and payments cost."""
