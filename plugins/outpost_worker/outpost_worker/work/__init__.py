"""A worker's working tree: prepared, saved, delivered."""
