"""The dispatcher: best first, nobody held up, nothing twice, and why something waits."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mayorkit import PATIENCE, Clock, Fleet, order, until

from outpost_core import hookimpl
from outpost_core.errors import ConflictError, OutpostError, UsageError
from outpost_core.types import Order, Result, State, WorkerStatus
from outpost_manager.ledger import Entry
from outpost_manager.ledger.asyncparts import AsyncQueue
from outpost_manager.ledger.turns import SWITCH
from outpost_manager.manager import Manager
from outpost_manager.placing.pending import Spawned
from outpost_manager.placing.placement import UNDER_WAY
from outpost_mayor import batches
from outpost_mayor.dispatch.dispatcher import Dispatcher
from outpost_mayor.retries.settler import Settler
from outpost_testing import FakeOutpost


def each(work: Callable[[Manager], Awaitable[None]], fleet: Fleet, **environ: str) -> None:
    """Do something with a manager of a fleet."""

    async def run() -> None:
        async with fleet.manager(environ) as manager:
            await asyncio.wait_for(work(manager), PATIENCE)

    asyncio.run(run())


async def issues(manager: Manager, state: str) -> list[str]:
    return [entry.issue for entry in await manager.ledger.queue.entries(states=(state,))]


async def _is(manager: Manager, issue: str, state: str) -> bool:
    entry = await manager.ledger.queue.entry(issue)
    return entry is not None and entry.state == state


async def why(manager: Manager, issue: str) -> str:
    entry = await manager.ledger.queue.entry(issue)
    assert entry is not None
    return entry.why


@asynccontextmanager
async def running(manager: Manager) -> AsyncIterator[None]:
    """Have the services of the queue run while the block is entered."""
    tasks = [
        asyncio.create_task(service)
        for service in (Dispatcher(manager).run(), Settler(manager).run())
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in found), found


def test_the_best_take_the_slots_that_there_are(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {"a": 2, "b": 1})

    async def work(manager: Manager) -> None:
        wanted = [order(f"t-{n}", priority=n) for n in (4, 3, 2, 1, 0)]
        await manager.enqueue(wanted)
        assert await Dispatcher(manager).step() == 3
        assert sorted(fleet.spawned()) == ["t-0.1", "t-1.1", "t-2.1"]
        assert await issues(manager, "waiting") == ["t-3", "t-4"]
        for issue in ("t-3", "t-4"):
            assert "a: " in await why(manager, issue)
            assert "b: " in await why(manager, issue)
        assert await Dispatcher(manager).step() == 0
        await fleet.end(manager, "t-0.1")
        assert await Dispatcher(manager).step() == 1
        assert await issues(manager, "waiting") == ["t-4"]
        assert await why(manager, "t-3") == ""

    each(work, fleet)


def test_what_cannot_go_holds_up_nobody(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {"a": 1, "b": 30})

    async def work(manager: Manager) -> None:
        await manager.enqueue([order(f"stuck-{n}", priority=0) for n in range(100)], on="a")
        await manager.enqueue([order(f"free-{n}", priority=4) for n in range(20)], on="b")
        assert await Dispatcher(manager).step() == 21
        assert len(await issues(manager, "running")) == 21
        assert {f"free-{n}.1" for n in range(20)} <= set(fleet.spawned())
        # those that find no room speak for all of their kind: 99 are not tried one by one
        tried = {w for w in fleet.spawned() if w.startswith("stuck")}
        assert len(tried) == 1

    each(work, fleet)


@pytest.mark.parametrize("mend", ["restore", "refuse"])
def test_an_outpost_that_fails_is_waited_for_and_others_go_on(tmp_path: Path, mend: str) -> None:
    fleet = Fleet(tmp_path, {"a": 5, "b": 5})

    async def work(manager: Manager) -> None:
        if mend == "restore":
            fleet.outposts["a"].cut("the cable is out")
        else:
            fleet.outposts["a"].refuse("no disk")
        await manager.enqueue([order("only-a", priority=0)], on="a")
        await manager.enqueue([order("any-1", priority=4), order("any-2", priority=4)])
        # a step ends whatever an outpost does, and what can go has gone
        await asyncio.wait_for(Dispatcher(manager).step(), PATIENCE)
        assert await issues(manager, "running") in (
            ["any-1", "any-2"], ["only-a", "any-1", "any-2"],
        )  # fmt: skip
        if mend == "restore":
            fleet.outposts["a"].restore()
        else:
            assert "no disk" in await why(manager, "only-a")
            fleet.outposts["a"].refuse("")

        async def placed() -> bool:
            await manager.refresh()
            await Dispatcher(manager).step()
            return "only-a.1" in {status.id for status in await fleet.outposts["a"].outpost_list()}

        await until(placed, "it was not placed when its outpost was well again")
        assert fleet.outposts["a"].calls.count(("outpost_spawn", "only-a.1")) <= 4

    each(work, fleet)


def test_what_waits_for_another_or_for_a_moment_starts_then(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {"a": 5})
    clock = Clock()

    async def work(manager: Manager) -> None:
        dispatcher = Dispatcher(manager, clock)
        await manager.enqueue([order("first")])
        await manager.enqueue([order("second")], after=["first"])
        await manager.enqueue([order("later")], not_before=clock.now + 3600)
        assert await dispatcher.step() == 1
        await fleet.end(manager, "first.1", State.FAILED)  # only what is done frees it
        await Settler(manager).step()
        assert await dispatcher.step() == 0
        clock.tick(3600)
        assert await dispatcher.step() == 1
        assert fleet.spawned() == ["first.1", "later.1"]
        clock.tick(-7200)  # a clock that goes back starts nothing again
        assert await dispatcher.step() == 0
        await manager.enqueue([order("first", attempt=2)])
        assert await dispatcher.step() == 1
        await fleet.end(manager, "first.2")
        assert await dispatcher.step() == 1
        assert fleet.spawned()[-1] == "second.1"

    each(work, fleet)


def test_paused_or_draining_places_nothing(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {"a": 5})

    async def work(manager: Manager) -> None:
        queue = manager.ledger.queue
        await manager.enqueue([order("p-1"), order("p-2")])
        for word in ("paused", "draining"):
            await queue.set_switch(SWITCH, word)
            assert await Dispatcher(manager).step() == 0
        await queue.set_switch(SWITCH, "")
        await queue.hold(["p-1"])
        assert await Dispatcher(manager).step() == 1
        await queue.hold(["p-1"], False)
        assert await Dispatcher(manager).step() == 1
        assert fleet.spawned() == ["p-2.1", "p-1.1"]

    each(work, fleet)


@pytest.mark.parametrize("how", ["remove", "pause", "move", "pause all", "drain", "replace"])
def test_what_is_changed_while_a_dispatcher_has_it_in_hand_is_not_placed_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    fleet = Fleet(tmp_path, {"a": 5})

    async def change(queue: AsyncQueue) -> None:
        match how:
            case "remove" | "replace":
                await queue.remove(["p-1"])
            case "pause":
                await queue.hold(["p-1"])
            case "move":
                await queue.move("p-1", 0)
            case _:
                await queue.set_switch(SWITCH, "draining" if how == "drain" else "paused")

    async def work(manager: Manager) -> None:
        queue, place = manager.ledger.queue, manager.spawn_many
        await manager.enqueue([order("p-1", priority=3)])

        async def late(orders: list[Order], **more: Any) -> list[Spawned | OutpostError]:
            monkeypatch.setattr(manager, "spawn_many", place)
            await change(queue)
            if how == "replace":
                await manager.enqueue([order("p-1", agent="other")])
            return await place(orders, **more)

        monkeypatch.setattr(manager, "spawn_many", late)
        await asyncio.wait_for(Dispatcher(manager).step(), PATIENCE)
        entry = await queue.entry("p-1")
        assert entry is not None
        if how in ("move", "replace"):  # it goes in the same step, as it is now
            assert entry.state == "running"
            got = fleet.outposts["a"].order("p-1.1")
            assert (got.issue.priority, got.agent.name) == (
                (0, "") if how == "move" else (2, "other")
            )
        else:
            assert entry.state == ("ended" if how == "remove" else "waiting")
            assert not fleet.spawned()
            assert not await manager.workers(all=True, refresh=False)

    each(work, fleet)


def test_a_batch_that_is_stopped_has_nothing_left_that_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, {"a": 3})

    async def work(manager: Manager) -> None:
        await manager.enqueue([order(f"b-{n}") for n in range(5)], batch="night")
        await Dispatcher(manager).step()
        # one has failed for a reason after which it is tried again, and nobody has decided yet
        lost = Result(state=State.LOST, reason="lost_process")
        fleet.outposts["a"].finish("b-0.1", lost)
        await manager.watch.refresh(["a"])
        remove = AsyncQueue.remove
        placed = []

        async def late(queue: AsyncQueue, wanted: list[str]) -> list[Entry]:
            if not placed:  # it begins while one is about to take it out
                placed.append(await manager.spawn_many([order(wanted[0].strip())], on="a"))
            return await remove(queue, wanted)

        monkeypatch.setattr(AsyncQueue, "remove", late)
        told, refused = await batches.stop(manager, await batches.entries(manager, "night"))
        assert (len(told), refused) == (3, {})
        for _ in range(3):
            await Settler(manager).step()
            await Dispatcher(manager).step()
        found = {one.issue: one.outcome for one in await batches.entries(manager, "night")}
        assert found.pop("b-0") == "lost"
        assert sorted(found.values()) == ["removed", "stopped", "stopped", "stopped"]

    each(work, fleet)


def test_limits_and_weights_of_the_configuration(tmp_path: Path) -> None:
    fleet = Fleet(
        tmp_path, {"a": 12},
        "queue:\n  weights: {x: 2}\n  share: label\n"
        "  per_rig: {'https://git.example/few.git': 1}\n",
    )  # fmt: skip

    async def work(manager: Manager) -> None:
        few = "https://git.example/few.git"
        await manager.enqueue([order(f"few-{n}", rig=few, priority=0) for n in range(3)])
        await manager.enqueue([order(f"x-{n}", labels=("x",)) for n in range(20)])
        await manager.enqueue([order(f"y-{n}", labels=("y",)) for n in range(20)])
        await Dispatcher(manager).step()
        got = [worker.split("-")[0] for worker in fleet.spawned()]
        assert got.count("few") == 1
        assert (got.count("x"), got.count("y")) in ((7, 4), (8, 3), (7, 3), (8, 4)), got

    each(work, fleet)


@pytest.mark.parametrize(("aging", "first"), [("1h", "old"), ("0", "new")])
def test_who_waits_long_enough_goes_first_unless_nothing_ages(
    tmp_path: Path, aging: str, first: str
) -> None:
    fleet = Fleet(tmp_path, {"a": 1}, f"queue:\n  aging: {aging}\n")

    async def work(manager: Manager) -> None:
        await manager.enqueue([order("old", priority=4)])
        with sqlite3.connect(fleet.state / "ledger.db") as db:  # five hours go by
            db.execute("UPDATE queue SET added_at = added_at - 18000, turn = turn - 18000")
        await manager.enqueue([order("new", priority=0)])
        assert await Dispatcher(manager).step() == 1
        assert fleet.spawned() == [f"{first}.1"]

    each(work, fleet)


def test_secrets_are_taken_from_whoever_places_and_a_missing_one_is_named(
    tmp_path: Path,
) -> None:
    fleet = Fleet(tmp_path, {"a": 5})
    said = order("s-1", secrets={"THE_KEY": "hunter2-hunter2"})

    async def put(manager: Manager) -> None:
        await manager.enqueue([said, order("s-2", priority=4)])
        assert await Dispatcher(manager).step() == 1
        assert fleet.spawned() == ["s-2.1"]
        assert "THE_KEY" in await why(manager, "s-1")
        assert await Dispatcher(manager).step() == 0

    async def place(manager: Manager) -> None:
        assert await Dispatcher(manager).step() == 1
        got = fleet.outposts["a"].order("s-1.1")
        assert got.secrets["THE_KEY"] == "hunter2-hunter2"

    each(put, fleet)
    each(place, fleet, THE_KEY="hunter2-hunter2")
    for file in fleet.state.rglob("*"):
        assert not file.is_file() or b"hunter2" not in file.read_bytes(), file


def test_another_order_for_the_same_worker_is_set_aside_and_says_why(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {"a": 5})

    async def work(manager: Manager) -> None:
        await manager.enqueue([order("c-1")])
        # somebody else's worker has that id at the outpost, with another order
        await fleet.outposts["a"].outpost_spawn(order("c-1", agent="codex"))
        await manager.enqueue([order("c-2", priority=4)])
        await asyncio.wait_for(Dispatcher(manager).step(), PATIENCE)
        assert "c-2.1" in fleet.spawned()
        entry = await manager.ledger.queue.entry("c-1")
        assert entry is not None
        assert entry.state != "running"
        assert entry.why

    each(work, fleet)


@pytest.mark.parametrize("issue", ["../../x", "-rf", "a\x1b]0;x\x07", "a b", "x" * 300, "", "é\n"])
def test_hostile_ids_do_not_get_in(tmp_path: Path, issue: str) -> None:
    fleet = Fleet(tmp_path, {"a": 5})

    async def work(manager: Manager) -> None:
        try:
            await manager.enqueue([order(issue)])
        except (UsageError, ConflictError, ValueError):
            assert not await manager.ledger.queue.entries()
            return
        # what got in is placed or says why not, and holds up nobody
        await manager.enqueue([order("good", priority=4)])
        await asyncio.wait_for(Dispatcher(manager).step(), PATIENCE)
        assert "good.1" in fleet.spawned()

    each(work, fleet)


def test_two_dispatchers_place_each_once(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {"a": 40, "b": 40})

    async def work(manager: Manager) -> None:
        await manager.enqueue([order(f"w-{n}") for n in range(60)])
        async with fleet.manager({}) as other:
            await asyncio.gather(Dispatcher(manager).step(), Dispatcher(other).step())
            await Dispatcher(manager).step()
        assert len(await issues(manager, "running")) == 60
        begun = [
            status.id
            for outpost in fleet.outposts.values()
            for status in await outpost.outpost_list()
        ]
        assert sorted(begun) == sorted(f"w-{n}.1" for n in range(60))

    each(work, fleet)


@pytest.mark.parametrize("limit", ["per_rig", "per_account"])
def test_two_dispatchers_at_once_pass_no_limit(
    limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, {"a": 40}, f"queue: {{{limit}: {{'*': 2}}}}\n")

    async def work(manager: Manager) -> None:
        spawn_many, faster = manager.spawn_many, [True]

        async def late(orders: Sequence[Order], **more: Any) -> list[Spawned | OutpostError]:
            """Place what was chosen once another dispatcher has placed what came meanwhile."""
            if faster and faster.pop():
                await manager.enqueue([order(f"v-{n}", agent="it", priority=0) for n in range(2)])
                async with fleet.manager({}) as other:
                    assert await Dispatcher(other).step() == 2
            return await spawn_many(orders, **more)

        monkeypatch.setattr(manager, "spawn_many", late)
        await manager.enqueue([order(f"w-{n}", agent="it") for n in range(2)])
        assert await Dispatcher(manager).step() == 0
        assert await issues(manager, "running") == ["v-0", "v-1"]
        assert await issues(manager, "waiting") == ["w-0", "w-1"]
        await fleet.end(manager, "v-0.1")
        assert await Dispatcher(manager).step() == 1

    each(work, fleet)


def test_an_outpost_that_takes_long_to_start_a_worker_keeps_no_slot_of_another_empty(
    tmp_path: Path,
) -> None:
    class Slow(FakeOutpost):
        @hookimpl
        async def outpost_spawn(self, order: Order) -> WorkerStatus:
            self.calls.append(("outpost_spawn", order.worker))
            await asyncio.sleep(3600)
            return await super().outpost_spawn(order)

    fleet = Fleet(tmp_path, {"slow": 2, "quick": 1})
    fleet.outposts["slow"] = Slow("slow")

    async def work(manager: Manager) -> None:
        async with running(manager):
            await manager.enqueue([order("s-1", priority=0), order("s-2", priority=0)], on="slow")
            await manager.enqueue([order(f"q-{n}") for n in range(3)], on="quick")
            for n in range(3):  # each takes the slot that the one before left

                async def begun(n: int = n) -> bool:
                    return len([w for w in fleet.spawned() if w.startswith("q-")]) > n

                await until(begun, "the slow one held it up")
                worker = [w for w in fleet.spawned() if w.startswith("q-")][-1]
                await until(lambda w=worker: _is(manager, w.partition(".")[0], "running"))
                await fleet.end(manager, worker)
            tried = [worker for worker in fleet.spawned() if worker.startswith("s-")]
            assert sorted(tried) == ["s-1.1", "s-2.1"]  # each once, however often one looks

    each(work, fleet)


def test_what_gathers_at_an_outpost_that_hangs_holds_up_no_other(tmp_path: Path) -> None:
    class Hangs(FakeOutpost):
        @hookimpl
        async def outpost_spawn(self, order: Order) -> WorkerStatus:
            self.calls.append(("outpost_spawn", order.worker))
            await asyncio.sleep(3600)
            return await super().outpost_spawn(order)

    fleet = Fleet(tmp_path, {"hangs": 400, "quick": 9})
    fleet.outposts["hangs"] = Hangs("hangs")

    async def work(manager: Manager) -> None:
        await manager.enqueue([order(f"h-{n}", priority=0) for n in range(UNDER_WAY)], on="hangs")
        await manager.enqueue([order(f"i-{n}", priority=0) for n in range(32)], on="hangs")
        await manager.enqueue([order(f"q-{n}") for n in range(3)], on="quick")
        await manager.enqueue([order(f"a-{n}", priority=4) for n in range(3)])  # any of them
        async with running(manager):

            async def begun() -> bool:
                there = {status.id for status in await fleet.outposts["quick"].outpost_list()}
                return there == {f"{issue}-{n}.1" for issue in "qa" for n in range(3)}

            await until(begun, "the one that hangs held them up")
            assert fleet.spawned().count("h-0.1") == 1
            there = [w for hook, w in fleet.outposts["hangs"].calls if hook == "outpost_spawn"]
            assert len(there) == UNDER_WAY

            async def told() -> bool:
                return "128 orders are on their way there" in await why(manager, "i-31")

            await until(told)

    each(work, fleet)


def test_the_services_fill_slots_as_they_become_free(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {"a": 3})

    async def work(manager: Manager) -> None:
        async with running(manager):
            await manager.enqueue([order(f"r-{n}") for n in range(12)])
            at_once = 0
            for _ in range(12):

                async def one() -> bool:
                    return bool(await issues(manager, "running"))

                await until(one)
                busy = await manager.ledger.queue.entries(states=("running",))
                at_once = max(at_once, len(busy))
                begun = {s.id for s in await fleet.outposts["a"].outpost_list()}
                worker = next((e.worker for e in busy if e.worker in begun), None)
                if worker is None:
                    await asyncio.sleep(0.02)
                    continue
                await fleet.end(manager, worker)

            async def over() -> bool:
                for entry in await manager.ledger.queue.entries(states=("running",)):
                    if entry.worker in {s.id for s in await fleet.outposts["a"].outpost_list()}:
                        await fleet.end(manager, entry.worker)
                return not await manager.ledger.queue.entries()

            await until(over, "the queue did not become empty")
            assert at_once <= 3
        assert sorted(set(fleet.spawned())) == sorted(f"r-{n}.1" for n in range(12))

    each(work, fleet)


def test_a_moment_that_comes_wakes_the_service(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {"a": 3})

    async def work(manager: Manager) -> None:
        async with running(manager):
            moment = time.time() + 0.5
            await manager.enqueue([order("soon")], not_before=moment)

            async def placed() -> bool:
                return bool(await issues(manager, "running"))

            await until(placed)
            (entry,) = await manager.ledger.queue.entries(states=("running",))
            assert entry.moved_at >= moment

    each(work, fleet)


def test_an_empty_order_list_changes_nothing(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {"a": 3})

    async def work(manager: Manager) -> None:
        none: list[Order] = []
        assert await manager.enqueue(none) == []
        assert await Dispatcher(manager).step() == 0

    each(work, fleet)
