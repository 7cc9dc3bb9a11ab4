"""A state folder that is gone: what still runs at Google is found by its order, and ended."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from keeperkit import until
from test_faults_containers import begun
from test_faults_modes import things
from wholekit import REGION, Whole, whole

from outpost_cloudrun.keeper import find
from outpost_cloudrun.options import Mode
from outpost_core.errors import ConflictError, OutpostError, UnreachableError
from outpost_core.types import Cleaned, Order

pytestmark = pytest.mark.slow


MODES = ["job", "instance", "service"]


@pytest.fixture
def desk(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Whole]:
    with whole(tmp_path, monkeypatch, mode=Mode(request.param)) as made:
        yield made


def forget(desk: Whole) -> None:
    """Lose what was known, as a disk does."""
    desk.kill()
    shutil.rmtree(desk.context.state_dir)


def knows(desk: Whole, *orders: Order) -> None:
    """Let the ledger know some orders."""

    async def ordered(worker: str) -> Order | None:
        return next((one for one in orders if one.worker == worker), None)

    desk.context = replace(desk.context, ordered=ordered)


def clean(desk: Whole, worker: str = "gt-1.1", *, force: bool = False) -> Cleaned:
    cleaned: Cleaned = desk.asked(lambda o: o.outpost_clean(worker=worker, force=force))
    return cleaned


def until_cleaned(desk: Whole) -> Cleaned:
    for _ in range(5):
        cleaned = clean(desk)
        if cleaned.removed:
            return cleaned
        assert "still there" in cleaned.detail or "it is " in cleaned.detail, cleaned
    raise AssertionError(cleaned)


@pytest.mark.parametrize("desk", MODES, indirect=True)
def test_what_runs_is_ended_before_it_counts_as_removed(desk: Whole) -> None:
    one = desk.order("gt-1", "sleep 600")
    desk.spawn(one)
    begun(desk, "gt-1")
    forget(desk)
    knows(desk, one)
    until_cleaned(desk)
    assert things(desk) == []
    until(lambda: desk.agents() == [], "nobody follows it")
    assert desk.status("gt-1.1") is None
    assert desk.ran("gt-1") == 1


@pytest.mark.parametrize("desk", MODES, indirect=True)
def test_what_has_ended_is_removed_and_nothing_there_is_looked_for(desk: Whole) -> None:
    one, never = desk.order("gt-1"), desk.order("gt-2")
    desk.spawn(one)
    until(lambda: desk.branch("gt-1"), "it is delivered")
    forget(desk)
    knows(desk, one, never)
    until_cleaned(desk)
    assert things(desk) == []
    assert clean(desk, "gt-2.1").removed
    assert desk.ran("gt-2") == 0
    assert clean(desk, "gt-3.1").removed, "nobody has ordered it here"


@pytest.mark.parametrize("desk", MODES, indirect=True)
def test_what_another_machine_has_ordered_is_left_alone(desk: Whole) -> None:
    theirs = desk.order("gt-1", "sleep 600")
    desk.spawn(theirs)
    begun(desk, "gt-1")
    forget(desk)
    mine = desk.context
    desk.context = replace(mine, state_dir=mine.state_dir.with_name("theirs"))
    knows(desk, replace(theirs, owner="cd" * 8))
    cleaned = None
    try:
        cleaned = clean(desk)
    except OutpostError:
        assert desk.more["mode"] is Mode.SERVICE, "a container may refuse to say whose it is"
    assert desk.agents() != [], cleaned
    desk.context = mine
    knows(desk, replace(theirs, prompt="something else"))
    with pytest.raises(ConflictError, match=r"another order|something else"):
        clean(desk)
    assert desk.agents() != []
    knows(desk, theirs)
    until_cleaned(desk)


@pytest.mark.parametrize("desk", ["instance"], indirect=True)
def test_while_nobody_can_look_it_is_not_removed(desk: Whole) -> None:
    one = desk.order("gt-1", "sleep 600")
    desk.spawn(one)
    begun(desk, "gt-1")
    forget(desk)
    knows(desk, one)
    desk.google.knobs.regions_away.add(REGION)
    with pytest.raises(UnreachableError):
        clean(desk)
    assert desk.status("gt-1.1") is None
    assert "not found out" in clean(desk, force=True).detail
    desk.google.knobs.regions_away.clear()
    until_cleaned(desk)
    assert things(desk) == []


@pytest.mark.parametrize("desk", ["job"], indirect=True)
def test_killed_before_it_was_looked_for_the_next_one_looks(
    desk: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = desk.order("gt-1", "sleep 600")
    desk.spawn(one)
    begun(desk, "gt-1")
    forget(desk)
    knows(desk, one)
    monkeypatch.setattr(find, "_fault_told", False)
    monkeypatch.setenv("OUTPOST_FAULT", "keeper.recalled")
    clean(desk)
    assert find._fault_told, "a keeper was killed there, and the question asked again"
    until_cleaned(desk)
    assert things(desk) == []
    until(lambda: desk.agents() == [], "nobody follows it")
