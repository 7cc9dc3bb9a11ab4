"""The supervisor: runs one order's agent and watches it."""
