"""The event loop never waits: not for the ledger, not for git, not for a folder."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from loopwatch import beating, caught
from managerkit import Make, dead_reservation, order, run

from outpost_core.errors import ConflictError, UsageError
from outpost_core.types import Message, Result, State
from outpost_core.wire import digest
from outpost_manager.doctor import examine
from outpost_manager.ledger import (
    Answer,
    AsyncLedger,
    Claim,
    Ledger,
    Outbox,
    Outcome,
    Reservation,
)
from outpost_manager.ledger.asyncparts import AsyncOutbox
from outpost_manager.manager import Manager
from outpost_manager.offloop import at_once, off_loop
from outpost_manager.orders.making import OrderRequest
from outpost_shared.identity import me
from outpost_testing import FakeOutpost
from outpost_testing.fake import Script

#: Seconds for which another process holds the ledger.
HOLD = 4.0

_HOLDER = """
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
db.execute("COMMIT")
"""


@contextmanager
def held(state: Path, seconds: float = HOLD) -> Iterator[subprocess.Popen[str]]:
    """Have another process hold the write lock of a ledger for a while."""
    argv = [sys.executable, "-c", _HOLDER, str(state / "ledger.db"), str(seconds)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


@asynccontextmanager
async def held_meanwhile(state: Path, seconds: float = HOLD) -> AsyncIterator[None]:
    holding = held(state, seconds)
    await asyncio.to_thread(holding.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(holding.__exit__, None, None, None)


def test_the_loop_goes_on_while_another_process_holds_the_ledger(make: Make) -> None:
    async def body(manager: Manager) -> None:
        await manager.spawn(order("gt-0"))
        async with held_meanwhile(manager.state), beating() as gaps:
            begun = time.monotonic()
            spawned = await manager.spawn(order("gt-1"))
            took = time.monotonic() - begun
        assert spawned.worker.state is State.WORKING
        assert took > HOLD / 2, "it waited for the lock"
        assert max(gaps) < HOLD / 4, "and the loop did not"
        assert len(gaps) > 10

    run(make(FakeOutpost("a")), body)


def test_what_is_only_read_is_answered_while_another_process_holds_the_ledger(make: Make) -> None:
    """Also when a write of this program waits for that lock."""

    async def body(manager: Manager) -> None:
        await manager.spawn(order("gt-0"))
        async with held_meanwhile(manager.state, 60):
            writing = asyncio.create_task(manager.spawn(order("gt-1")))
            await asyncio.sleep(0.2)  # it waits by now; where not, the rest is true all the same
            begun = time.monotonic()
            assert [worker.id for worker in await manager.workers(refresh=False)] == ["gt-0.1"]
            assert (await manager.outposts())[0].active == 1
            assert (await manager.find("gt-0")).id == "gt-0.1"
            assert time.monotonic() - begun < 20
            assert not writing.done()
        assert (await writing).worker.id == "gt-1.1"

    run(make(FakeOutpost("a")), body)


def test_no_verb_of_a_manager_blocks_its_loop(make: Make, tmp_path: Path) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")
    a.script("gt-2.1", Script(output=b"hello\n", result=Result(state=State.DONE)))
    rig = tmp_path / "rig"
    subprocess.run(["git", "init", "-q", str(rig)], check=True)

    async def verbs(manager: Manager) -> None:
        await manager.spawn(order("gt-1"))
        await manager.spawn(order("gt-1"))
        with pytest.raises(ConflictError):
            await manager.spawn(order("gt-1", prompt="something else"))
        await manager.spawn_many([order(f"gt-{n}") for n in range(2, 5)])
        await manager.refresh()
        await manager.workers(all=True)
        await manager.outposts()
        await manager.ping()
        await manager.look_at(["gt-1"])
        await manager.glimpse(await manager.worker("gt-1"))
        a.finish("gt-2.1")
        await manager.wait(["gt-2"], timeout=60)
        assert b"".join([chunk async for chunk in manager.logs("gt-2", follow=True)]) == b"hello\n"
        assert (await manager.clean("gt-2")).removed
        assert b"".join([chunk async for chunk in manager.logs("gt-2")]) == b"hello\n"
        a.finish("gt-1.1", Result(state=State.FAILED, reason="exit_code", exit_code=1))
        await manager.wait(["gt-1"], timeout=60)
        assert await manager.further.failed() == ["gt-1"]
        again = await manager.further.retry("gt-1")
        await manager.spawn(again.order, on=again.on)
        await manager.stop("gt-3")
        await manager.explain(order("gt-9"))
        request = OrderRequest(issue="gt-8", rig=str(rig), prompt="do it", command=("true",))
        await manager.explain(await manager.order(request))
        await manager.around()
        await manager.rig(None)
        await examine(manager)
        letter = await manager.send_mail("a", Message(to="mayor", subject="s", body="b"))
        await manager.inbox()
        await manager.outbox(all=True)
        await manager.flush_mail()
        await manager.drop_mail(letter.id)
        await manager.clean_old()

    async def body(manager: Manager) -> None:
        dead_reservation(manager, order("gt-7"), "b")
        with caught() as blocking:
            await verbs(manager)
        assert not blocking, "\n\n".join(blocking)

    run(make(a, b), body)


def test_a_spawn_that_is_cancelled_while_it_waits_leaves_its_row_to_whoever_comes(
    make: Make,
) -> None:
    async def body(manager: Manager) -> None:
        await manager.spawn(order("gt-0"))
        async with held_meanwhile(manager.state, 2):
            spawning = asyncio.create_task(manager.spawn(order("gt-1")))
            await asyncio.sleep(0.5)
            spawning.cancel()
            with pytest.raises(asyncio.CancelledError):
                await spawning
        claim = await manager.ledger.claim("gt-1.1", f"{me()}/another")
        assert claim in (Claim.GONE, Claim.MINE)
        assert (await manager.spawn(order("gt-2"))).worker.state is State.WORKING

    run(make(FakeOutpost("a")), body)


def test_reservations_that_wait_share_a_transaction(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    reserve = Ledger.reserve

    def counted(self: Ledger, items: Sequence[Reservation]) -> list[Answer]:
        calls.append(len(items))
        return reserve(self, items)

    async def body(manager: Manager) -> None:
        await manager.spawn(order("gt-0"))
        monkeypatch.setattr(Ledger, "reserve", counted)
        async with held_meanwhile(manager.state, 2):
            answers = await asyncio.gather(*(manager.spawn(order(f"gt-{n}")) for n in range(1, 21)))
        assert len({answer.worker.id for answer in answers}) == 20
        assert sum(calls) == 20
        assert len(calls) < 10

    run(make(FakeOutpost("a")), body)


def test_one_refused_amount_of_money_is_no_reason_to_refuse_the_others(make: Make) -> None:
    async def body(manager: Manager) -> None:
        async def reserve(issue: str, cost: float) -> list[Answer]:
            wanted = order(issue)
            item = Reservation(order=wanted, outpost="a", digest=digest(wanted), cost=cost)
            return await manager.ledger.reserve([item])

        await manager.ledger.active()
        good, bad, fine = await asyncio.gather(
            reserve("gt-1", 1.0), reserve("gt-2", -1.0), reserve("gt-3", 1.0),
            return_exceptions=True,
        )  # fmt: skip
        assert isinstance(bad, UsageError)
        assert [answer.outcome for answer in (*good, *fine)] == [Outcome.RESERVED] * 2  # type: ignore[misc]

    run(make(FakeOutpost("a")), body)


def test_closing_does_not_wait_long_for_a_lock(make: Make) -> None:
    manager = make(FakeOutpost("a"))

    async def body() -> float:
        async with manager:
            await manager.spawn(order("gt-0"))
            async with held_meanwhile(manager.state, 60):
                spawning = asyncio.create_task(manager.spawn(order("gt-1")))
                await asyncio.sleep(0.3)
                spawning.cancel()
                begun = time.monotonic()
                await manager.aclose()
                return time.monotonic() - begun

    assert asyncio.run(body()) < 25


def test_what_asks_nobody_runs_without_an_event_loop(make: Make) -> None:
    with make(FakeOutpost("a")) as manager:
        assert at_once(manager.outposts())[0].name == "a"
        with pytest.raises(RuntimeError, match="event loop"):
            at_once(asyncio.sleep(0))


def test_off_loop_runs_in_a_thread_where_an_event_loop_runs() -> None:
    main = threading.get_ident()
    assert at_once(off_loop(threading.get_ident)) == main
    assert asyncio.run(off_loop(threading.get_ident)) != main


def test_every_method_of_the_ledger_can_be_awaited() -> None:
    for plain, awaited in ((Ledger, AsyncLedger), (Outbox, AsyncOutbox)):
        public = {name for name, it in vars(plain).items() if callable(it) and name[0] != "_"}
        here = {name for name in vars(awaited) if name[0] != "_"}
        assert public - here <= {"give_up"}, f"{plain.__name__} can more than {awaited.__name__}"
