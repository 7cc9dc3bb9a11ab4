"""Gemini CLI by Google."""
