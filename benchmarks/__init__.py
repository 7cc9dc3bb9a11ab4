"""Measurements, each as a ratio against the raw floor or a named peer in the same run."""
