"""The mayor: the long-running manager, on hooks and on the ledger alone."""
