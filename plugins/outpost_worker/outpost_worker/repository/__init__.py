"""Git repositories that an agent may have written to, read and kept without surprises."""
