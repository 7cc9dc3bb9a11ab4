"""Work that ran into a usage limit: which account it goes on with, where, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from retrykit import Course, claude, failed, manager, run

from outpost_core.errors import PlacementError
from outpost_core.types import Order, Result, State, Usage
from outpost_manager.ledger import Entry
from outpost_manager.manager import Manager
from outpost_manager.placing.pending import Turn, WithdrawnError
from outpost_mayor.dispatch.dispatcher import Dispatcher
from outpost_mayor.dispatch.draining import drain
from outpost_mayor.retries.moving import Mover
from outpost_shared import faults
from outpost_testing import FakeOutpost

ACCOUNTS = "accounts:\n  - {name: one, agent: claude}\n  - {name: two, agent: claude}\n"
LIMIT = 3600.0
PATIENCE = 600.0


def limited(**more: Any) -> Result:
    more.setdefault("retry_at", time.time() + LIMIT)
    return failed("rate_limited", message="the limit is reached", session="s-1", **more)


async def parked(at: Manager, *fakes: FakeOutpost, **more: Any) -> tuple[Course, Entry]:
    """Return an order that ran into a limit at the first outpost, and waits with its session."""
    course = Course(at, *fakes)
    await course.add(claude(), **more)
    await at.spawn(await waiting(at), on=fakes[0].name)
    entry = await course.finish(limited())
    assert entry.place == fakes[0].name
    return course, entry


async def waiting(at: Manager) -> Order:
    order = await at.ledger.queue.order("gt-1")
    assert order is not None
    return order


async def order_of(at: Manager) -> tuple[str, bool]:
    """Return the prompt of what waits, and whether its agent goes on with its session."""
    order = await waiting(at)
    return order.prompt, "--resume" in order.agent.argv


def killed_at(point: str) -> Callable[[str], None]:
    def crash(name: str) -> None:
        if name == point:
            raise Killed

    return crash


class Killed(BaseException):
    pass


# --- which account -----------------------------------------------------------------------------


def test_the_session_goes_on_at_once_with_another_account(tmp_path: Path) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def body(at: Manager) -> None:
        course, _ = await parked(at, a, b)
        assert await order_of(at) == (
            "The limit of your provider is over. Continue with the task where you stopped.", True,
        )  # fmt: skip
        assert await Dispatcher(at).step() == 1
        worker = await at.ledger.worker("gt-1.2")
        assert worker is not None
        assert (worker.outpost, await at.ledger.account("gt-1.2")) == ("a", "two")
        (decided,) = await course.decided()
        assert (decided["what"], decided["account"]) == ("park", "one")

    run(manager(tmp_path, a, b, config=ACCOUNTS), body)


def test_where_that_is_not_wanted_it_waits_for_its_own(tmp_path: Path) -> None:
    a = FakeOutpost("a")

    async def body(at: Manager) -> None:
        await parked(at, a)
        assert await Dispatcher(at).step() == 0
        entry = await at.ledger.queue.entry("gt-1")
        assert entry is not None
        assert "account one is parked until " in entry.why
        await at.spawn(claude("gt-2"))  # others use the other one
        assert await at.ledger.account("gt-2.1") == "two"
        await at.ledger.parking.unpark("one")
        assert await Dispatcher(at).step() == 1
        assert await at.ledger.account("gt-1.2") == "one"

    run(manager(tmp_path, a, config=ACCOUNTS + "retries: {other_accounts: false}\n"), body)


def test_where_all_are_parked_it_waits_for_the_first_of_them(tmp_path: Path) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def body(at: Manager) -> None:
        course, _ = await parked(at, a, b)
        await course.place()
        entry = await course.finish(limited(retry_at=time.time() + 2 * LIMIT))
        with pytest.raises(PlacementError, match=r"account one is parked.*account two is parked"):
            await course.place()
        a.refuse("it is full")
        mover = Mover(at)
        assert await mover.step(time.time() + LIMIT - 60) == 0
        assert mover.next_moment == pytest.approx(time.time() + LIMIT + PATIENCE, abs=20)
        assert (await course.entry()).worker == entry.worker == "gt-1.3"

    run(manager(tmp_path, a, b, config=ACCOUNTS), body)


# --- elsewhere ---------------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["full", "unreachable", "gone"])
def test_what_its_outpost_does_not_take_goes_on_elsewhere(why: str, tmp_path: Path) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def before(at: Manager) -> None:
        await parked(at, a, b)

    run(manager(tmp_path, a, b, config=ACCOUNTS), before)
    left = (b,) if why == "gone" else (a, b)

    async def body(at: Manager) -> None:
        course, now = Course(at, a, b), time.time()
        mover = Mover(at)
        if why == "unreachable":
            await at.ledger.set_reachable("a", False, "no way", now)
        if why == "full":
            await at.ledger.parking.unpark("one")
            for number in range(2, 2 + 99):
                (answer,) = await at.spawn_many([claude(f"gt-{number}")], on="a")
                assert not isinstance(answer, Exception), answer
        if why != "gone":
            assert await mover.step(now) == 0
            assert mover.next_moment == pytest.approx(now + PATIENCE, abs=20)
            assert (await course.entry()).place == "a", "it may be back soon"
        if why == "unreachable":
            await at.ledger.set_reachable("a", False, "no way", now + PATIENCE)
        assert await mover.step(now + PATIENCE + 5) == 1
        entry = await course.entry()
        assert (entry.worker, entry.place, entry.tries) == ("gt-1.2", None, 1)
        assert await order_of(at) == ("Do it.", False)
        decided = await course.decided()
        assert [one["what"] for one in decided] == ["park", "elsewhere"]
        assert decided[1]["outpost"] == "a"
        assert await mover.step(now + 2 * PATIENCE) == 0
        a.refuse("no")
        assert await course.place() == "b"

    run(manager(tmp_path, *left, config=ACCOUNTS), body)


def test_it_stays_where_its_outpost_takes_it_or_nobody_else_does(tmp_path: Path) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def body(at: Manager) -> None:
        course, _ = await parked(at, a, b)
        late = time.time() + PATIENCE + 5
        assert await Mover(at).step(late) == 0, "its own takes it, as soon as it is its turn"
        await at.ledger.set_reachable("a", False, "no way", time.time() + PATIENCE)
        await at.ledger.set_reachable("b", False, "no way", time.time() + PATIENCE)
        assert await Mover(at).step(late) == 0
        assert (await course.entry()).place == "a"
        assert (await order_of(at))[1]

    run(manager(tmp_path, a, b, config=ACCOUNTS), body)


def test_what_somebody_sent_to_one_outpost_stays_there(tmp_path: Path) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def body(at: Manager) -> None:
        course, _ = await parked(at, a, b, place="a")
        await at.ledger.set_reachable("a", False, "no way", time.time() + PATIENCE)
        assert await Mover(at).step(time.time() + 10 * PATIENCE) == 0
        assert (await course.entry()).place == "a"

    run(manager(tmp_path, a, b, config=ACCOUNTS), body)


def test_two_movers_move_it_once_and_a_placed_one_not_at_all(tmp_path: Path) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def body(at: Manager) -> None:
        course, _ = await parked(at, a, b)
        await at.ledger.set_reachable("a", False, "no way", time.time() + PATIENCE)
        late = time.time() + PATIENCE + 5
        assert sum(await asyncio.gather(*(Mover(at).step(late) for _ in range(2)))) == 1
        assert len(await course.decided()) == 2
        await course.place()
        assert await Mover(at).step(late) == 0

    run(manager(tmp_path, a, b, config=ACCOUNTS), body)


@pytest.mark.parametrize("point", ["retries.decided", "retries.settled"])
def test_a_crash_at_any_point_moves_it_once(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def body(at: Manager) -> None:
        course, _ = await parked(at, a, b)
        await at.ledger.set_reachable("a", False, "no way", time.time() + PATIENCE)
        late = time.time() + PATIENCE + 5
        with monkeypatch.context() as patched:
            patched.setattr(faults, "point", killed_at(point))
            with pytest.raises(Killed):
                await Mover(at).step(late)
        await Mover(at).step(late)
        assert [one["what"] for one in await course.decided()] == ["park", "elsewhere"]
        a.refuse("no")
        assert await course.place() == "b"

    run(manager(tmp_path, a, b, config=ACCOUNTS), body)


def test_what_a_dispatcher_had_in_hand_meanwhile_is_not_placed_as_it_was(tmp_path: Path) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def body(at: Manager) -> None:
        course, entry = await parked(at, a, b)
        order = await waiting(at)
        await at.ledger.set_reachable("a", False, "no way", time.time() + PATIENCE)
        assert await Mover(at).step(time.time() + PATIENCE + 5) == 1
        await at.ledger.set_reachable("a", True, "", time.time())
        (answer,) = await at.spawn_many(
            [order], on="a", turns={order.worker: Turn(entry=entry.digest)}
        )
        assert isinstance(answer, WithdrawnError)
        await at.spawn(order, on="a")  # nor does it confuse anybody, if a person does so
        await course.finish(Result(state=State.LOST, reason="lost_process"))
        assert await order_of(at) == ("Do it.", False)

    run(manager(tmp_path, a, b, config=ACCOUNTS), body)


def test_working_on_the_queue_waits_for_its_patience_and_no_longer(tmp_path: Path) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def body(at: Manager) -> None:
        course, _ = await parked(at, a, b)
        a.refuse("its disk is full")
        work = asyncio.create_task(drain(at))
        async with asyncio.timeout(60):
            while not any(one.id == "gt-1.2" for one in await b.outpost_list()):
                assert not work.done(), "it is not stuck"
                await asyncio.sleep(0.05)
            assert not (await course.entry()).place
            b.finish("gt-1.2", Result(state=State.DONE))
            assert await work == []
        assert (await course.entry()).outcome == "done"
        assert [one["what"] for one in await course.decided()] == ["park", "elsewhere", "end"]

    run(manager(tmp_path, a, b, config=ACCOUNTS + "retries: {patience: 3s}\n"), body)


# --- a session that cannot be resumed ----------------------------------------------------------


def test_a_session_that_cannot_be_resumed_begins_anew(tmp_path: Path) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def body(at: Manager) -> None:
        course, _ = await parked(at, a, b)
        await course.place()
        entry = await course.finish(failed("agent_failed", message="No conversation found"))
        assert (entry.state, entry.worker, entry.place) == ("waiting", "gt-1.3", None)
        assert await order_of(at) == ("Do it.", False)
        assert (await course.decided())[-1]["what"] == "anew"
        # nor is it tried there again
        await at.spawn(await waiting(at), on="a")
        entry = await course.finish(limited())
        assert (entry.state, entry.place) == ("waiting", None)
        assert (await order_of(at))[1] is False

    run(manager(tmp_path, a, b, config=ACCOUNTS), body)


def test_what_a_resumed_agent_judged_itself_stays_its_judgement(tmp_path: Path) -> None:
    a = FakeOutpost("a")

    async def body(at: Manager) -> None:
        course, _ = await parked(at, a)
        await course.place()
        entry = await course.finish(failed("agent_failed", usage=Usage(output_tokens=5)))
        assert (entry.state, entry.outcome) == ("ended", "failed")

    run(manager(tmp_path, a, config=ACCOUNTS), body)
