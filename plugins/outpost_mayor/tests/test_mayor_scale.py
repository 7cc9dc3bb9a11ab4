"""Scaling: what is decided, and that nothing is ever stopped under a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as some
from mayorkit import Clock, Fleet, order, until

from outpost_core.errors import ConfigError, OutpostError, UsageError
from outpost_core.types import Result, State, WorkerStatus
from outpost_manager.config.scaling import ScalingConfig, inside, span
from outpost_manager.ledger.scaling import AGAIN, AGAIN_MOST, Phase, Scaled, pause
from outpost_manager.manager import Manager
from outpost_manager.placing import ifup
from outpost_manager.placing.ifup import comes_up
from outpost_mayor.dispatch.dispatcher import Dispatcher
from outpost_mayor.scaling.decide import Demand, Place, decide, outlook
from outpost_mayor.scaling.scaler import Scaler

NOW = 1_800_000_000.0


def place(
    name: str = "a", phase: Phase = Phase.DOWN, *, slots: int | None = 2, active: int = 0,
    idle: float = 0.0, running: int | None = None, rule: ScalingConfig | None = None,
    row: dict[str, object] | None = None, always: bool = False, limit: int = 1,
) -> Place:  # fmt: skip
    up = int(phase is Phase.UP) if running is None else running
    made = Scaled(outpost=name, phase=phase, desired=up, running=up, since=NOW - 3600,
                  busy_at=NOW - idle)  # fmt: skip
    return Place(row=replace(made, **(row or {})), rule=rule or ScalingConfig(), active=active,
                 slots=slots, always=always, limit=limit, price=0.5)  # fmt: skip


def decided(places: list[Place], *demands: Demand, free: dict[str, int | None] | None = None,
            now: float = NOW) -> dict[str, int]:  # fmt: skip
    found = decide(now, places, demands, free or {})
    return {one.outpost: one.to for one in found.decisions}


def test_what_waits_brings_up_the_first_that_the_policy_would_take_and_no_more() -> None:
    two = [place("a"), place("b")]
    assert decided(two, Demand(count=1, ranked=("b", "a"))) == {"b": 1}
    assert decided(two, Demand(count=3, ranked=("b", "a"))) == {"b": 1, "a": 1}
    assert decided(two, Demand(count=3, ranked=("b",))) == {"b": 1}
    assert decided(two) == {}


def test_room_that_is_there_or_to_come_brings_up_nothing() -> None:
    two = [place("a", Phase.STARTING), place("b")]
    assert decided(two, Demand(count=2, ranked=("a", "b"))) == {}
    assert decided(two, Demand(count=3, ranked=("a", "b"))) == {"b": 1}
    assert decided([place("b")], Demand(count=2, ranked=("b", "here")), free={"here": 2}) == {}
    assert decided([place("b")], Demand(count=2, ranked=("b", "here")), free={"here": None}) == {}


def test_what_failed_is_left_alone_for_a_while_and_the_next_one_is_taken() -> None:
    failed = place("a", row={"retry_at": NOW + 20, "failures": 1})
    assert decided([failed, place("b")], Demand(count=1, ranked=("a", "b"))) == {"b": 1}
    # a clock that was set back by an hour makes no pause of an hour
    assert decided([failed], Demand(count=1, ranked=("a",)), now=NOW - 3600) == {"a": 1}
    assert [pause(n) for n in (1, 2, 3, 99)] == [AGAIN, AGAIN * 2, AGAIN * 4, AGAIN_MOST]


def test_idle_for_long_enough_it_is_brought_down_and_never_while_somebody_works_there() -> None:
    rule = ScalingConfig(idle=600, cooldown=60)
    assert decided([place("a", Phase.UP, idle=599, rule=rule)]) == {}
    assert decided([place("a", Phase.UP, idle=601, rule=rule)]) == {"a": 0}
    assert decided([place("a", Phase.UP, idle=9999, active=1, rule=rule)]) == {}
    wanted = Demand(count=1, ranked=("a",))
    up = [place("a", Phase.UP, idle=9999, rule=rule)]
    assert decided(up, wanted, free={"a": 2}) == {}
    cooling = {"since": NOW - 30, "decision": "mayor"}
    assert decided([place("a", Phase.UP, idle=9999, rule=rule, row=cooling)]) == {}
    keeps = ScalingConfig(idle=1, min=1)
    assert decided([place("a", Phase.UP, idle=9999, rule=keeps)]) == {}
    assert decided([place("a", rule=keeps)]) == {"a": 1}


def test_hours_bind_whatever_waits() -> None:
    monday = datetime(2027, 1, 4, 9, 30, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
    rule = ScalingConfig(hours=("Mon-Fri 08:00-18:00",), timezone="Europe/Berlin")
    wanted = Demand(count=1, ranked=("a",))
    assert decided([place("a", rule=rule)], wanted, now=monday) == {"a": 1}
    night = monday + 12 * 3600
    assert decided([place("a", rule=rule)], wanted, now=night) == {}
    working = place("a", Phase.UP, active=2, rule=rule)
    assert decided([working], now=night) == {"a": 0}  # it drains: its workers end by themselves
    kept = ScalingConfig(keep_up=("Mon-Fri 08:00-18:00",), timezone="Europe/Berlin")
    assert decided([place("a", rule=kept)], now=monday) == {"a": 1}
    assert decided([place("a", rule=kept)], now=night) == {}


def test_what_drains_is_taken_back_when_something_waits_for_it() -> None:
    wanted = Demand(count=1, ranked=("a",))
    assert decided([place("a", Phase.DRAINING)], wanted) == {"a": 1}
    assert decided([place("a", Phase.STOPPING)], wanted) == {}


def test_what_takes_work_at_none_has_as_many_as_are_needed_warm() -> None:
    rule = ScalingConfig(max=4, idle=60)

    def warm(running: int, active: int, idle: float = 0.0) -> Place:
        return place("run", Phase.UP, running=running, active=active, slots=8, rule=rule,
                     always=True, limit=10, idle=idle)  # fmt: skip

    assert decided([warm(0, 0)]) == {}
    assert decided([warm(0, 3)]) == {"run": 2}
    assert decided([warm(0, 8)]) == {"run": 4}
    assert decided([warm(4, 1)]) == {}
    assert decided([warm(4, 0, idle=61)]) == {"run": 0}
    assert decided([warm(0, 0)], Demand(count=3, ranked=("run",)), free={"run": 8}) == {"run": 2}


@given(
    some.lists(
        some.tuples(
            some.sampled_from(list(Phase)), some.integers(0, 3), some.integers(0, 3),
            some.floats(-4000, 4000), some.booleans(),
        ),
        max_size=5,
    ),
    some.lists(some.tuples(some.integers(1, 9), some.lists(some.integers(0, 4))), max_size=3),
)  # fmt: skip
def test_whatever_is_so_no_decision_is_absurd(
    rows: list[tuple[Phase, int, int, float, bool]], waits: list[tuple[int, list[int]]]
) -> None:
    places = [
        place(f"o{n}", phase, active=active, slots=slots, idle=idle,
              rule=ScalingConfig(min=int(least)))
        for n, (phase, active, slots, idle, least) in enumerate(rows)
    ]  # fmt: skip
    demands = [
        Demand(count=count, ranked=tuple(f"o{n}" for n in dict.fromkeys(ranked)))
        for count, ranked in waits
    ]
    found = decide(NOW, places, demands, {})
    by_name = {one.name: one for one in places}
    assert len({one.outpost for one in found.decisions}) == len(found.decisions)
    for one in found.decisions:
        there = by_name[one.outpost]
        assert 0 <= one.to <= there.most
        assert one.why
        assert one.price == one.to * 0.5
        assert there.row.phase not in (Phase.STARTING, Phase.STOPPING)
        if not one.more:
            assert not there.active
            assert one.outpost not in found.busy
    assert all(outlook(one, NOW) for one in places)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("", "no time of the week"), ("Someday 08:00-09:00", "no day"), ("8-9", "no day"),
     ("Mon 25:00-26:00", "no time of the day"), ("Mon Tue 08:00-09:00", "no time of the week"),
     ("Mon-Fun", "no day"), ("24:30-25:00", "no time")],
)  # fmt: skip
def test_a_time_that_is_none_is_refused(text: str, wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        span(text)


def test_times_of_the_week_go_by_the_clock_on_the_wall() -> None:
    zone = ZoneInfo("America/New_York")

    def at(text: str) -> float:
        return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()

    def within(spans: tuple[str, ...], text: str) -> bool:
        return inside(spans, "America/New_York", at(text))

    night = ("Fri 22:00-06:00",)
    assert within(night, "2027-01-08T23:00")
    assert within(night, "2027-01-09T05:59")
    assert not within(night, "2027-01-09T06:00")
    assert not within(night, "2027-01-08T05:00")
    assert within(("Sat,Sun",), "2027-01-10T00:00")
    assert within(("Fri-Mon",), "2027-01-11T12:00")
    assert not within(("Fri-Mon",), "2027-01-12T12:00")
    assert within(("08:00-24:00",), "2027-07-12T23:59")


# --- a fleet in memory --------------------------------------------------------------------------

SCALED = "{name: %s, type: fake, max_workers: %d, units: %d, scaling: {%s}}"
Body = Callable[[Fleet, Manager, Scaler, Clock], Awaitable[None]]


def scaled(
    tmp_path: Path, body: Body, rule: str = "idle: 5m, cooldown: 0s", units: int = 0
) -> None:
    """Run a test over `here`, which has one slot, and `far`, which is scaled."""
    fleet = Fleet(tmp_path, {"here": 1, "far": 2})
    fleet.config.write_text(
        fleet.config.read_text().replace(
            "{name: far, type: fake, max_workers: 2}", SCALED % ("far", 2, units, rule)
        )
    )
    far = fleet.outposts["far"]
    far._world.units = units
    if not units:
        far.cut("it is off")

    async def run() -> None:
        clock = Clock()
        async with fleet.manager() as manager:
            await body(fleet, manager, Scaler(manager, clock), clock)

    asyncio.run(run())


async def phase(manager: Manager, name: str = "far") -> Phase:
    return (await manager.ledger.scaling.all())[name].phase


async def queue(manager: Manager, *issues: str) -> None:
    from outpost_manager.placing.queueing import queue_items

    orders = [order(issue) for issue in issues]
    await manager.ledger.queue.add(queue_items(manager.config, orders, on=None, batch=""))


async def kinds(manager: Manager) -> list[str]:
    return [event.kind for event in await manager.ledger.events_after(0)]


def test_it_comes_up_when_work_waits_takes_it_and_goes_down_when_there_is_none(
    tmp_path: Path,
) -> None:
    async def body(fleet: Fleet, manager: Manager, scaler: Scaler, clock: Clock) -> None:
        dispatcher = Dispatcher(manager)
        await scaler.step()
        assert await phase(manager) is Phase.DOWN
        (view,) = [one for one in await manager.outposts() if one.name == "far"]
        assert (view.state, view.detail) == ("down", "starts when needed")
        await queue(manager, "a", "b", "c")
        assert await dispatcher.step() == 1  # one at `here`; nobody was sent to what is off
        assert fleet.outposts["far"].calls == [("outpost_scale", "")]
        await scaler.step()
        await scaler.finish()
        assert await phase(manager) is Phase.UP
        assert await dispatcher.step() == 2
        assert {w.outpost for w in await manager.ledger.workers(active=True)} == {"here", "far"}
        clock.tick(3600)
        await scaler.step()
        assert await phase(manager) is Phase.UP  # never under a worker
        for issue in ("a", "b", "c"):
            await fleet.end(manager, f"{issue}.1")
        await scaler.step()
        await scaler.finish()
        assert await phase(manager) is Phase.UP
        clock.tick(301)
        await scaler.step()
        await scaler.finish()
        assert await phase(manager) is Phase.DOWN
        assert ("outpost_scale", "0") in fleet.outposts["far"].calls
        assert [k for k in await kinds(manager) if k.startswith("scal")] == [
            "scaled_down", "scaling", "scaled_up", "scaling", "scaled_down",
        ]  # fmt: skip
        notes = await manager.ledger.outposts()
        assert not await manager.watch.refresh(["far"])
        assert notes["far"].reachable  # what is meant to be off is not unreachable

    scaled(tmp_path, body)


def test_one_that_has_just_come_up_is_waited_for_though_it_was_silent_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(_: Fleet, manager: Manager, __: Scaler, clock: Clock) -> None:
        await manager.ledger.scaling.seen("far", 1, clock(), always=False)
        await manager.look()
        (view,) = [one for one in await manager.outposts() if one.name == "far"]
        assert view.state == "unreachable"
        assert await comes_up(manager.placement, order("a"), "far", unknown=False)
        monkeypatch.setattr(ifup, "_FRESH", 0.0)
        assert not await comes_up(manager.placement, order("a"), "far", unknown=False)

    scaled(tmp_path, body)


def test_what_cannot_go_hides_nothing_that_waits_behind_it(tmp_path: Path) -> None:
    async def body(fleet: Fleet, manager: Manager, scaler: Scaler, clock: Clock) -> None:
        del fleet, clock
        await scaler.step()
        # more than are looked at together, the first in turn, and none has its secret
        stuck = [order(f"s-{n}", priority=0, secrets={"NOWHERE": ""}) for n in range(300)]
        await manager.enqueue(stuck)
        await manager.enqueue([order(f"a-{n}", priority=4) for n in range(3)])
        await scaler.step()
        await scaler.finish()
        assert await phase(manager) is Phase.UP

    scaled(tmp_path, body)


def test_what_cannot_be_started_is_told_of_and_tried_again_later(tmp_path: Path) -> None:
    async def body(fleet: Fleet, manager: Manager, scaler: Scaler, clock: Clock) -> None:
        fleet.outposts["far"].refuse_to_scale("no quota is left")
        await scaler.step()
        await queue(manager, "a", "b")
        await Dispatcher(manager).step()
        for _ in range(3):
            await scaler.step()
            await scaler.finish()
        row = (await manager.ledger.scaling.all())["far"]
        assert (row.phase, row.failures) == (Phase.DOWN, 1)
        assert "no quota" in row.error
        assert "scale_refused" in await kinds(manager)
        fleet.outposts["far"].refuse_to_scale("")
        clock.tick(AGAIN + 1)
        await scaler.step()
        await scaler.finish()
        assert await phase(manager) is Phase.UP
        assert await Dispatcher(manager).step() == 1

    scaled(tmp_path, body)


def test_no_worker_is_reserved_where_it_drains_and_work_there_ends_first(tmp_path: Path) -> None:
    async def body(fleet: Fleet, manager: Manager, scaler: Scaler, clock: Clock) -> None:
        await scaler.step()
        assert await phase(manager) is Phase.UP
        spawned = await manager.spawn(order("a"), on="far")
        assert await manager.ledger.scaling.begin(
            "far",
            Phase.UP,
            0,
            now=clock(),
            reason="by hand",
            price=None,
            decision="hand",
            more=False,
        )
        with pytest.raises(OutpostError, match="far is draining: by hand"):
            await manager.spawn(order("b"), on="far")
        for _ in range(2):
            await scaler.step()
            await scaler.finish()
        assert await phase(manager) is Phase.DRAINING
        await fleet.end(manager, spawned.worker.id)
        await scaler.step()
        await scaler.finish()
        assert await phase(manager) is Phase.DOWN

    scaled(tmp_path, body, units=1)


@pytest.mark.parametrize("state", [State.WORKING, State.FAILED])
def test_it_stays_up_for_what_others_have_there(tmp_path: Path, state: State) -> None:
    async def body(fleet: Fleet, manager: Manager, scaler: Scaler, clock: Clock) -> None:
        result = Result(state=state, agent_began=True) if state.terminal else None
        fleet.outposts["far"].put(WorkerStatus(id="x.1", state=state, result=result))
        await scaler.step()
        clock.tick(3600)
        await scaler.step()
        await scaler.finish()
        row = (await manager.ledger.scaling.all())["far"]
        assert row.phase is Phase.UP
        if state is State.FAILED:
            assert "x.1 of somebody else has work there that no remote took" in row.error
            assert (view := (await manager.outposts())[1]).state == "ready", view
        assert ("outpost_scale", "0") not in fleet.outposts["far"].calls

    scaled(tmp_path, body, units=1)


def test_work_that_no_remote_has_is_rescued_before_the_stop(tmp_path: Path) -> None:
    async def body(fleet: Fleet, manager: Manager, scaler: Scaler, clock: Clock) -> None:
        await scaler.step()
        spawned = await manager.spawn(order("a"), on="far")
        fleet.outposts["far"].finish(
            spawned.worker.id, Result(state=State.FAILED, reason="push_failed", agent_began=True)
        )
        await manager.refresh()
        clock.tick(3600)
        await scaler.step()
        await scaler.finish()
        calls = fleet.outposts["far"].calls
        assert calls.index(("outpost_clean", "a.1")) < calls.index(("outpost_scale", "0"))
        assert await phase(manager) is Phase.DOWN

    scaled(tmp_path, body, units=1)


def test_a_place_that_does_not_answer_is_not_stopped(tmp_path: Path) -> None:
    async def body(fleet: Fleet, manager: Manager, scaler: Scaler, clock: Clock) -> None:
        await scaler.step()
        fleet.outposts["far"].cut("no route")
        clock.tick(3600)
        await scaler.step()
        await scaler.finish()
        row = (await manager.ledger.scaling.all())["far"]
        assert row.phase is Phase.UP
        assert "nobody knows what is there" in row.error

    scaled(tmp_path, body, units=1)


@pytest.mark.parametrize(("at", "ends"), [(Phase.STARTING, Phase.UP), (Phase.STOPPING, Phase.DOWN),
                                          (Phase.DRAINING, Phase.DOWN)])  # fmt: skip
def test_whoever_comes_next_goes_on_with_what_was_under_way(
    tmp_path: Path, at: Phase, ends: Phase
) -> None:
    async def body(fleet: Fleet, manager: Manager, scaler: Scaler, clock: Clock) -> None:
        await scaler.step()
        scaling = manager.ledger.scaling
        more = at is Phase.STARTING
        await scaling.begin("far", await phase(manager), int(more), now=clock(), reason="r",
                            price=0.5, decision="mayor", more=more)  # fmt: skip
        if at is Phase.STOPPING:
            assert await scaling.empty("far", clock())
        two = Scaler(manager, clock)
        for each in (scaler, two, scaler):
            await each.step()
        await scaler.finish()
        await two.finish()
        assert await phase(manager) is ends
        asked = [to for hook, to in fleet.outposts["far"].calls if hook == "outpost_scale" and to]
        assert asked == [str(int(more))]

    scaled(tmp_path, body, units=0 if at is Phase.STARTING else 1)


@pytest.mark.parametrize("there", ["off", "works", "unpushed", "silent"])
def test_whoever_goes_on_with_a_stop_asks_again_before_it(tmp_path: Path, there: str) -> None:
    """Since it was drained, another machine has sent a worker, or the line was cut."""

    async def body(fleet: Fleet, manager: Manager, scaler: Scaler, clock: Clock) -> None:
        far = fleet.outposts["far"]
        await scaler.step()
        scaling = manager.ledger.scaling
        await scaling.begin("far", Phase.UP, 0, now=clock(), reason="r", price=0.5,
                            decision="mayor", more=False)  # fmt: skip
        assert await scaling.empty("far", clock())
        state = State.WORKING if there in ("works", "off") else State.FAILED
        result = Result(state=state, agent_began=True) if state.terminal else None
        far.put(WorkerStatus(id="x.1", state=state, result=result))
        if there == "off":
            far._world.units = 0
        if there in ("off", "silent"):
            far.cut("the line is cut")
        await scaler.step()
        await scaler.finish()
        assert ("outpost_scale", "0") not in far.calls
        row = (await scaling.all())["far"]
        if there == "off":  # what it says when the line is there again counts
            assert (row.phase, row.running) == (Phase.DOWN, 0)
            assert "not told to stop" in row.reason
            far._world.units = 1
            await scaler.learn(["far"])
            assert await phase(manager) is Phase.UP
        else:
            assert row.phase is Phase.UP
            assert {"works": "x.1 runs there", "unpushed": "that no remote took",
                    "silent": "the line is cut"}[there] in row.error  # fmt: skip

    scaled(tmp_path, body, units=1)


def test_a_clock_that_jumps_ends_nothing_early_and_keeps_nothing_for_ever(tmp_path: Path) -> None:
    async def body(fleet: Fleet, manager: Manager, scaler: Scaler, clock: Clock) -> None:
        await scaler.step()
        spawned = await manager.spawn(order("a"), on="far")
        clock.tick(3600)  # ahead, with work there
        await scaler.step()
        await scaler.finish()
        assert await phase(manager) is Phase.UP
        await fleet.end(manager, spawned.worker.id)
        clock.tick(-3600)  # and back
        await scaler.step()
        assert (await manager.ledger.scaling.all())["far"].busy_at == clock()
        clock.tick(301)  # its `idle`, and no hour
        await scaler.step()
        await scaler.finish()
        assert await phase(manager) is Phase.DOWN

    scaled(tmp_path, body, units=1)


def test_somebody_else_may_start_and_stop_it(tmp_path: Path) -> None:
    async def body(fleet: Fleet, manager: Manager, scaler: Scaler, clock: Clock) -> None:
        await scaler.step()
        far = fleet.outposts["far"]
        far.restore()
        far._world.units = 1
        await scaler.learn(["far"])
        assert await phase(manager) is Phase.UP
        assert (await manager.spawn(order("a"), on="far")).worker.outpost == "far"

    scaled(tmp_path, body)


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [("min: 2, max: 1", "min is 2, and max 1"), ("hours: [Fooday]", "no day of the week"),
     ("timezone: Mars/Base", "no time zone"), ("idle: soon", "idle"), ("nap: 1", "no key 'nap'"),
     ("price: -1", "price")],
)  # fmt: skip
def test_a_mistake_in_the_rule_is_told_with_its_place(
    tmp_path: Path, rule: str, wrong: str
) -> None:
    async def body(fleet: Fleet, manager: Manager, scaler: Scaler, clock: Clock) -> None:
        raise AssertionError

    with pytest.raises(ConfigError, match=wrong) as caught:
        scaled(tmp_path, body, rule=rule)
    assert caught.value.line == 3


def test_a_rule_that_is_taken_away_leaves_nothing(tmp_path: Path) -> None:
    async def body(fleet: Fleet, manager: Manager, scaler: Scaler, clock: Clock) -> None:
        await scaler.step()
        assert "far" in await manager.ledger.scaling.all()
        entries = tuple(replace(one, scaling=None) for one in manager.config.outposts)
        manager.config = replace(manager.config, outposts=entries)
        await scaler.step()
        assert await manager.ledger.scaling.all() == {}
        # what was done by hand stays, until there is no such outpost any more
        scaling = manager.ledger.scaling
        for name, number in ("far", 1), ("gone", 1), ("going", 1):
            await scaling.seen(name, number, clock(), always=False)
            await scaling.begin(name, Phase.UP, 0, now=clock(), reason="by hand", price=None,
                                decision="hand", more=False)  # fmt: skip
            if name != "going":
                await scaling.refused(name, Phase.UP, "it stays up", clock())
        await scaler.step()
        assert {*await scaling.all()} == {"far"}

    scaled(tmp_path, body, units=1)


def test_the_service_does_all_of_it_by_itself(tmp_path: Path) -> None:
    async def body(fleet: Fleet, manager: Manager, scaler: Scaler, clock: Clock) -> None:
        tasks = [asyncio.create_task(scaler.run()), asyncio.create_task(Dispatcher(manager).run())]
        await queue(manager, "a", "b")

        async def all_run() -> bool:
            return len(await manager.ledger.workers(active=True)) == 2

        await until(all_run)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    scaled(tmp_path, body)
