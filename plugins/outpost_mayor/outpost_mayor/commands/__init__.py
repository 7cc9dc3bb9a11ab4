"""The commands of the mayor, a file a family; the only place that knows click."""
