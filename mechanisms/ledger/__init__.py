"""The ledger of an edge: channel, records, exports and their audit."""
