"""A few seconds of the soak of the benchmarks: work while everything is killed."""

from __future__ import annotations

import pytest

from benchmarks import soak


@pytest.mark.slow
def test_nothing_is_lost_or_runs_twice_while_everything_is_killed() -> None:
    found = soak.soak(8.0, seed=3)
    assert found.broken == []
    assert found.kills
