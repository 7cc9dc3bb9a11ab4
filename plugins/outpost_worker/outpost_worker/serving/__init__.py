"""Serves an outpost on a byte stream."""
