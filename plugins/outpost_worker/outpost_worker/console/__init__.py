"""A person at a worker: what its terminal shows, and typing to it."""
