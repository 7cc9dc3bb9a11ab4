"""opencode, for models of many providers."""
