"""Bringing outposts up when work waits for them, and down when nothing is to be done there."""
