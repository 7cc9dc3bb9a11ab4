"""Codex CLI by OpenAI."""
