"""What makes lying unprofitable: evidence, payments, the ledger, strategies; pure computations."""
