"""Claims, bills and ledgers of one agent, edge by edge."""
