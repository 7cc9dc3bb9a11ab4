"""Stop, clean, nudge and doctor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from managerkit import Make, Riddle, order, run

from outpost_core.errors import (
    LedgerError,
    NotFoundError,
    UnreachableError,
    UnsupportedError,
    UsageError,
)
from outpost_core.hookspecs import hookimpl
from outpost_core.types import State, WorkerStatus
from outpost_manager.doctor import examine
from outpost_manager.manager import Manager
from outpost_testing import FakeOutpost
from outpost_testing.fake import FakeOptions


def test_stop_ends_it_and_is_idempotent(make: Make) -> None:
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        await manager.spawn(order())
        assert (await manager.stop("gt-1")).state is State.STOPPED
        assert (await manager.stop("gt-1")).state is State.STOPPED
        with pytest.raises(NotFoundError):
            await manager.stop("gt-9")

    run(make(a), body)


@pytest.mark.parametrize("ref", ["gt-1", "gt-1.1"])
def test_a_damaged_ledger_keeps_nobody_from_a_stop(make: Make, tmp_path: Path, ref: str) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def start(manager: Manager) -> None:
        await manager.spawn(order("gt-1"))
        await manager.spawn(order("gt-11"))

    async def stop(manager: Manager) -> None:
        with pytest.raises(LedgerError, match=r"gt-1\.1 was told to stop all the same"):
            await manager.stop(ref)

    run(make(a, b), start)
    for path in (tmp_path / "state").glob("ledger.db*"):
        path.write_bytes(b"garbage" * 1000)
    run(make(a, b), stop)
    assert [call for call in a.calls if call[0] == "outpost_stop"] == [("outpost_stop", "gt-1.1")]


def test_stopping_an_unfinished_spawn_gives_it_up(make: Make) -> None:
    a = Riddle("a")
    a.starts = False

    async def body(manager: Manager) -> None:
        with pytest.raises(UnreachableError):
            await manager.spawn(order())
        worker = await manager.stop("gt-1")
        assert worker.state is State.STOPPED
        assert (await manager.ledger.active()) == {}

    run(make(a), body)


def test_stopping_a_spawn_whose_answer_was_lost_keeps_its_worker(make: Make) -> None:
    class Silent(Riddle):
        @hookimpl
        async def outpost_list(self) -> Sequence[WorkerStatus]:
            if self.error is not None:
                raise UnreachableError("still no line")
            return await super().outpost_list()

    a = Silent("a")

    async def body(manager: Manager) -> None:
        with pytest.raises(UnreachableError):
            await manager.spawn(order())
        with pytest.raises(UnreachableError):
            await manager.stop("gt-1")
        a.error = None
        worker = await manager.stop("gt-1")
        assert worker.state is State.STOPPED
        assert worker.agent == "command", "it is the row that was reserved"

    run(make(a), body)


def test_clean_refuses_what_runs_and_hides_what_is_gone(make: Make) -> None:
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        await manager.spawn(order())
        with pytest.raises(UsageError, match="has not ended"):
            await manager.clean("gt-1")
        a.finish("gt-1.1")
        assert (await manager.clean("gt-1")).removed
        assert await manager.workers(all=True) == []
        assert (await manager.spawn(order())).adopted, "a cleaned worker still is that order's"

    run(make(a), body)


def test_an_undeclared_verb_is_refused_in_words(make: Make) -> None:
    a = FakeOutpost("a", FakeOptions(capabilities=("clean",)))

    async def body(manager: Manager) -> None:
        await manager.spawn(order())
        with pytest.raises(UnsupportedError, match="cannot nudge") as caught:
            await manager.nudge("gt-1", "hello")
        assert "clean" in caught.value.hint

    run(make(a), body)


def test_doctor_looks_at_the_outposts_although_the_ledger_is_damaged(
    make: Make, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "ledger.db").write_bytes(b"no database" * 100)

    async def body(manager: Manager) -> None:
        found = await examine(manager)
        told = {(subject, finding.check): finding.ok for subject, finding in found}
        assert told["ledger", "ledger"] is False
        assert told["a", "ping"] is True
        assert told["b", "ping"] is False

    a, b = FakeOutpost("a"), FakeOutpost("b")
    b.cut()
    run(make(a, b), body)
