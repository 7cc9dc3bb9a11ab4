"""The entry point of the package: says what it builds, and imports nothing heavy."""

from __future__ import annotations

OUTPOST_API = 1
