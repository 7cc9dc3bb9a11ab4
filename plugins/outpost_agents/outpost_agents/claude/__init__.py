"""Claude Code by Anthropic."""
