"""Schedules: each firing once, whatever the clock, the calendar and other mayors do."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from servekit import LOCAL, Town, until

from outpost_manager.config.schedules import FIELDS, CatchUp, ScheduleConfig, cron_mistake
from outpost_manager.ledger import Ledger
from outpost_manager.manager import Manager
from outpost_manager.orders.making import OrderRequest
from outpost_mayor.schedules.scheduler import Scheduler
from outpost_mayor.schedules.times import due, following, issue_of, next_times

UTC = ZoneInfo("UTC")
HOUR = 3600.0


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def schedule(cron: str, zone: str = "UTC", catch_up: CatchUp = CatchUp.LAST, most: int = 10,
             ) -> ScheduleConfig:  # fmt: skip
    return ScheduleConfig(
        name="s", cron=cron, timezone=zone, catch_up=catch_up, catch_up_limit=most,
        order={"prompt": "x"},
    )  # fmt: skip


def utc(moments: list[float]) -> list[str]:
    return [f"{datetime.fromtimestamp(moment, UTC):%m-%dT%H:%M}" for moment in moments]


def test_a_time_that_the_clocks_leave_out_fires_right_after_and_one_that_comes_twice_once() -> None:
    spring = next_times(schedule("30 2 * * *", "Europe/Berlin"), at("2026-03-28T12:00"), 2)
    assert utc(spring) == ["03-29T01:00", "03-30T00:30"]
    autumn = next_times(schedule("30 2 * * *", "Europe/Berlin"), at("2026-10-24T12:00"), 2)
    assert utc(autumn) == ["10-25T00:30", "10-26T01:30"]
    every = next_times(schedule("*/30 * * * *", "Europe/Berlin"), at("2026-10-25T00:00"), 4)
    assert utc(every) == ["10-25T00:30", "10-25T01:00", "10-25T01:30", "10-25T02:00"]


@pytest.mark.parametrize(
    "zone",
    ["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"],
)
@pytest.mark.parametrize("cron", ["30 2 * * *", "*/15 * * * *", "0 */3 * * *", "15 1,2,3 * * SUN"])
def test_looking_back_finds_what_looking_ahead_does(zone: str, cron: str) -> None:
    one = schedule(cron, zone, CatchUp.ALL, 1000)
    for start in ("2026-03-06T00:00", "2026-03-27T00:00", "2026-04-03T00:00", "2026-09-25T00:00",
                  "2026-10-02T00:00", "2026-10-23T00:00", "2026-10-30T00:00"):  # fmt: skip
        begin = at(start)
        end = begin + 4 * 86400
        ahead = []
        for moment in following(one, begin):
            if moment > end:
                break
            ahead.append(moment)
        assert due(one, begin, end) == ahead


def test_what_is_made_up_for_is_as_the_rule_says() -> None:
    last, now = at("2026-05-01T00:00"), at("2026-05-01T05:30")
    hourly = [schedule("0 * * * *", catch_up=rule, most=3) for rule in CatchUp]
    assert [utc(due(one, last, now)) for one in hourly] == [
        [], ["05-01T05:00"], ["05-01T03:00", "05-01T04:00", "05-01T05:00"],
    ]  # fmt: skip
    on_time = at("2026-05-01T06:00") + 20
    assert [utc(due(one, now, on_time)) for one in hourly] == [["05-01T06:00"]] * 3
    begun = time.perf_counter()
    due(schedule("* * * * *"), at("2020-01-01T00:00"), now)
    assert time.perf_counter() - begun < 1.0


Body = Callable[[Manager, Scheduler], Awaitable[None]]


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def town_with(tmp_path: Path, *entries: str) -> Town:
    town = Town(tmp_path)
    town.config.write_text(LOCAL + "schedules:\n" + "".join(f"  - {e}\n" for e in entries))
    return town


ORDER = "order: {command: [sh, -c, 'exit 0'], no_rig: true}"


def work(town: Town, clock: Clock, body: Body) -> None:
    async def run() -> None:
        manager = Manager.open(
            config=town.config, state=town.state, environ=dict(town.env), cwd=town.home
        )
        async with manager:
            await body(manager, Scheduler(manager, clock))

    asyncio.run(run())


def queued(town: Town) -> list[str]:
    ledger = Ledger(town.state)
    try:
        return sorted(entry.issue for entry in ledger.queue.entries())
    finally:
        ledger.close()


def test_a_clock_that_jumps_an_hour_each_way_fires_each_once(tmp_path: Path) -> None:
    town = town_with(tmp_path, f"{{name: half, cron: '*/30 * * * *', catch_up: all, {ORDER}}}")
    clock = Clock(at("2026-05-01T10:10"))

    async def body(_: Manager, scheduler: Scheduler) -> None:
        assert await scheduler.step() == []
        clock.now += HOUR  # it jumps: 10:30 and 11:00 are there at once
        assert await scheduler.step() == ["half-20260501T103000Z", "half-20260501T110000Z"]
        clock.now -= HOUR  # and back: they come again, and do not fire again
        made = []
        for _ in range(100):
            clock.now += 60
            made += await scheduler.step()
        assert made == ["half-20260501T113000Z"]

    work(town, clock, body)
    assert len(queued(town)) == 3


def test_a_clock_that_was_years_ahead_does_not_silence_a_schedule(tmp_path: Path) -> None:
    town = town_with(tmp_path, f"{{name: day, cron: '@daily', {ORDER}}}")
    clock = Clock(at("2026-05-01T10:10"))

    async def body(_: Manager, scheduler: Scheduler) -> None:
        await scheduler.step()
        clock.now = at("2031-05-01T10:10")
        assert await scheduler.step() == ["day-20310501T000000Z"]
        clock.now = at("2026-05-01T10:12")
        assert await scheduler.step() == []
        clock.now = at("2026-05-02T00:00")
        assert await scheduler.step() == ["day-20260502T000000Z"]

    work(town, clock, body)


def test_two_mayors_at_once_fire_each_once(tmp_path: Path) -> None:
    town = town_with(tmp_path, f"{{name: m, cron: '* * * * *', catch_up: all, {ORDER}}}")
    clock = Clock(at("2026-05-01T10:00"))

    async def body(manager: Manager, one: Scheduler) -> None:
        await one.step()
        other = Manager.open(
            config=town.config, state=town.state, environ=dict(town.env), cwd=town.home
        )
        async with other:
            two = Scheduler(other, clock)
            made: list[str] = []
            for _ in range(20):
                clock.now += 60
                for issues in await asyncio.gather(one.step(), two.step()):
                    made += issues
            assert len(made) == len(set(made)) == 20
            assert len(await manager.ledger.queue.entries()) == 20

    work(town, clock, body)


def test_a_schedule_that_is_new_or_changed_makes_nothing_up_for_the_past(tmp_path: Path) -> None:
    town = town_with(tmp_path, f"{{name: a, cron: '@yearly', catch_up: all, {ORDER}}}")
    clock = Clock(at("2026-05-01T10:00"))

    async def nothing(_: Manager, scheduler: Scheduler) -> None:
        assert await scheduler.step() == []

    work(town, clock, nothing)
    clock.now += 86400
    town.config.write_text(town.config.read_text().replace("@yearly", "* * * * *"))
    work(town, clock, nothing)
    off = town.config.read_text().replace("catch_up: all", "catch_up: all, enabled: false")
    town.config.write_text(off)
    clock.now += 86400
    work(town, clock, nothing)


def test_an_order_that_cannot_be_made_now_fires_once_it_can(tmp_path: Path) -> None:
    town = town_with(
        tmp_path,
        "{name: a, cron: '* * * * *', order: {command: [env], no_rig: true, secrets: [KEY]}}",
    )
    clock = Clock(at("2026-05-01T10:00"))

    async def waits(_: Manager, scheduler: Scheduler) -> None:
        await scheduler.step()
        clock.now += 60
        assert await scheduler.step() == []

    async def fires(_: Manager, scheduler: Scheduler) -> None:
        assert await scheduler.step() == ["a-20260501T100100Z"]

    work(town, clock, waits)
    town.env["KEY"] = "hunter2"
    work(town, clock, fires)
    assert b"hunter2" not in b"".join(p.read_bytes() for p in town.state.glob("ledger*"))


def test_an_issue_that_was_ordered_by_hand_holds_up_nothing(tmp_path: Path) -> None:
    town = town_with(tmp_path, f"{{name: a, cron: '* * * * *', {ORDER}}}")
    clock = Clock(at("2026-05-01T10:00"))

    async def body(manager: Manager, scheduler: Scheduler) -> None:
        await scheduler.step()
        request = OrderRequest(issue="a-20260501T100100Z", no_rig=True, command=("false",))
        await manager.spawn(await manager.order(request))
        clock.now += 60
        assert await scheduler.step() == []
        clock.now += 60
        assert await scheduler.step() == ["a-20260501T100200Z"]

    work(town, clock, body)


def test_a_mayor_that_is_killed_when_it_has_fired_fires_nothing_twice(tmp_path: Path) -> None:
    town = town_with(tmp_path, f"{{name: a, cron: '* * * * *', catch_up: all, {ORDER}}}")
    with town.mayor() as mayor:
        mayor.ready()
        until(lambda: Ledger(town.state).firings.last())
        mayor.kill()
    ledger = Ledger(town.state)
    (key,) = ledger.firings.last()
    with ledger._store.write() as db:
        db.execute("UPDATE firings SET at = ?", (time.time() - 180,))
    ledger.close()
    seen: list[str] = []
    for _ in range(3):
        with town.mayor(OUTPOST_FAULT="mayor.fired") as mayor:
            until(lambda: mayor.process.poll() is not None)
            assert mayor.process.returncode == -signal.SIGKILL
            now = Ledger(town.state)
            entries = now.queue.entries(states=("waiting", "running", "settling", "ended"))
            issues = [entry.issue for entry in entries]
            assert len(issues) == len(seen) + 1
            now.close()
            seen = issues
    assert len(set(seen)) == 3
    assert key.startswith("a\n")


def test_the_command_lists_the_next_times_and_runs_one_by_hand(tmp_path: Path) -> None:
    town = town_with(
        tmp_path,
        f"{{name: nightly, cron: '0 2 * * *', timezone: Europe/Berlin, {ORDER}}}",
        "{name: bad, cron: '0 2 * * *', order: {agent: nobody, prompt: x}}",
    )
    said = town.run("schedule", "list")
    assert "02:00" in said
    assert "bad: " in said
    (one, bad) = town.json("schedule", "list", "--count", "5")["schedules"]
    assert len(one["next"]) == 5
    assert one["error"] is None
    assert "nobody" in bad["error"]
    issue = town.json("schedule", "run", "nightly")["issue"]
    assert queued(town) == [issue]
    assert "did you mean" in town.run("schedule", "run", "nigtly", code=4)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("{name: a, cron: '0 2 * *', order: {prompt: x}}", "has 4 fields"),
        ("{name: a, cron: '61 2 * * *', order: {prompt: x}}", "'61' is no minute"),
        ("{name: a, cron: '0 2 * * *', timezone: Europe/Berln, order: {prompt: x}}",
         "Europe/Berlin"),
        ("{name: a, cron: '0 2 * * *', order: {promt: x}}", "did you mean 'prompt'"),
        ("{name: a, cron: '0 2 * * *', order: x}", "order is a map"),
        ("{name: a, cron: '0 2 * * *'}", "needs order"),
        ("{name: a, cron: '0 2 * * *', on: lokal, order: {prompt: x}}", "'lokal' is not the name"),
        (f"{{name: {'a' * 63}b, cron: '0 2 * * *', order: {{prompt: x}}}}", "is not a name"),
        ("{name: a, cron: '0 2 * * *', catch_up: some, order: {prompt: x}}", "some"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_schedule_is_said_with_its_place(
    tmp_path: Path, entry: str, why: str
) -> None:
    town = town_with(tmp_path, entry)
    said = town.run("config", "check", code=2)
    assert why in said
    assert "outposts.yaml:4:" in said


def test_the_fields_of_an_order_are_those_of_a_request() -> None:
    other = {"issue", "attempt", "again", "from_base", "interactive"}
    assert {*FIELDS} - {"body"} == OrderRequest.__dataclass_fields__.keys() - other


@pytest.mark.parametrize(
    "cron",
    ["0 2 * * *", "*/15 9-17 * * MON-FRI", "0 0 1,15 * *", "5 4 * * sun", "0 0 L * *", "0 0 LW * *",
     "0 0 * * 5#2", "0 0 * * 5L", "0 22 * JAN-MAR,DEC 1-5", "10-50/10 * * * 7"],
)  # fmt: skip
def test_what_the_configuration_takes_fires(cron: str) -> None:
    assert cron_mistake(cron) == ("", "")
    assert len(next_times(schedule(cron), at("2026-05-01T00:00"), 3)) == 3


@pytest.mark.parametrize(
    "cron",
    ["", "* * * * * *", "a * * * *", "*/0 * * * *", "5-1 * * * *", "0 0 32 * *", "0 0 * 0 *"],
)
def test_what_it_refuses_is_no_time(cron: str) -> None:
    assert cron_mistake(cron)[0]


def test_an_issue_says_its_firing() -> None:
    assert issue_of(schedule("* * * * *"), at("2026-05-01T10:00")) == "s-20260501T100000Z"
