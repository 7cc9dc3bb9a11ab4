"""Containers that end, at any moment: the agent runs once, and its branch arrives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from wholekit import Whole, whole

from outpost_core.types import State


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Whole]:
    with whole(tmp_path, monkeypatch) as made:
        yield made


def test_the_main_job(desk: Whole) -> None:
    desk.spawn(desk.order("gt-1"))
    result = desk.result("gt-1.1")
    assert (result.state, result.reason) == (State.DONE, "ok"), result
    assert desk.ran("gt-1") == 1
    assert desk.branch("gt-1") == result.commit
    assert desk.log("gt-1.1") == b"began\nended\n"
