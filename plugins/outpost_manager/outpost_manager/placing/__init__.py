"""Orders on their way: placed, followed, ended."""
