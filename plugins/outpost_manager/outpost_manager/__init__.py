"""The near side of Outpost, and the command `outpost`."""
