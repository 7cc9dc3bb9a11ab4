"""What the near side and the far side share; the standard library and the core only."""
