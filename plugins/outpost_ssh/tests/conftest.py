"""What the tests of faults stand on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from faultkit import World, world


@pytest.fixture
def w(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A network of machines, with a state and a configuration of this side."""
    with world(tmp_path, monkeypatch) as made:
        yield made
