"""The agent beside its supervisor: its output is followed."""
