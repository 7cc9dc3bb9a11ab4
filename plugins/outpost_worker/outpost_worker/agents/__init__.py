"""The agent beside its supervisor: its output is followed, its session brought along."""
