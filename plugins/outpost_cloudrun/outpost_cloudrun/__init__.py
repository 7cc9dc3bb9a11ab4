"""Outpost backend for Cloud Run: workers in containers that wake on demand."""
