"""The commands of this package; the only place that knows click."""
