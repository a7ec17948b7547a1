"""Running backwards: reverse graphs, targets, compiled walks, the ledger."""
