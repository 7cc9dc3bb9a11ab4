"""For tests: an outpost in memory, and the conformance kit that every backend must pass."""

from __future__ import annotations

from outpost_core.testing.fake import FakeOptions, FakeOutpost, Script, fake_backend

__all__ = ["FakeOptions", "FakeOutpost", "Script", "fake_backend"]
