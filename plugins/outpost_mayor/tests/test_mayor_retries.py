"""Retries: by the table and within ceilings, from the queue, over real ledgers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from retrykit import Course, claude, command, failed, manager, run

from outpost_core.discovery import PluginReport
from outpost_core.errors import LedgerError, PlacementError
from outpost_core.types import REASONS, Event, Result, Secrets, State, Worker
from outpost_k8s.near.codes import REASONS as KUBERNETES
from outpost_manager.config.retries import Park, RetriesConfig
from outpost_manager.hints import BACKENDS
from outpost_manager.ledger import Entry, Ledger
from outpost_manager.manager import Manager
from outpost_manager.placing.pending import Turn
from outpost_manager.plugins.services import Services
from outpost_mayor import plugin
from outpost_mayor.retries import table
from outpost_mayor.retries.decide import Decision, End, History, Pause, Retry, decide
from outpost_mayor.retries.settler import Settler
from outpost_shared import faults
from outpost_testing import FakeOutpost

NOW = 1_000_000.0
ENTRY = Entry(
    issue="gt-1", seq=1, state="settling", worker="gt-1.1", digest="", kind="", place=None,
    avoid="", title="", priority=2, turn=0.0, rig="", agent="", account="", model="", share="",
    labels=(), batch="", not_before=0.0, held=False, waits_for=0, tries=0, why="", added_at=0.0,
    moved_at=0.0, outcome="",
)  # fmt: skip


def ended(reason: str, state: State = State.FAILED, **more: object) -> Worker:
    result = Result(state=state, reason=reason, **more)  # type: ignore[arg-type]
    return Worker(
        id="gt-1.1", issue="gt-1", attempt=1, outpost="a", digest="", state=state, result=result
    )


def after(
    worker: Worker,
    entry: Entry = ENTRY,
    config: RetriesConfig = RetriesConfig(),  # noqa: B008 - frozen
    **more: object,
) -> Decision:
    return decide(config, entry, worker, History(**more), NOW)  # type: ignore[arg-type]


# --- the table ---------------------------------------------------------------------------------


def test_every_reason_has_its_row() -> None:
    wanted = {*REASONS, *KUBERNETES, *BACKENDS}
    assert set(table.TABLE) == wanted
    for reason, rule in table.TABLE.items():
        assert rule.why, reason
        assert not (rule.asked and rule.times), reason


def test_the_page_is_made_from_it() -> None:
    page = table.page()
    for reason in table.TABLE:
        assert f"| `{reason}` |" in page
    assert "| `rate_limited` | parks, 50 × at most |" in page
    assert all(line.count("|") == 6 for line in page.splitlines() if line.startswith("| `"))


@pytest.mark.parametrize(
    "reason",
    ["agent_failed", "permission_denied", "budget_reached", "stopped", "timeout", "base_not_found"],
)
def test_what_an_agent_or_a_person_judged_is_never_tried_again(reason: str) -> None:
    found = after(ended(reason))
    assert isinstance(found, End)
    assert (found.outcome, found.why.partition(":")[0]) == ("failed", reason)


def test_it_is_where_somebody_asked_for_it() -> None:
    asked = replace(ENTRY, retries=2)
    assert isinstance(after(ended("agent_failed"), asked), Retry)
    assert isinstance(after(ended("agent_failed"), asked, by_reason={"agent_failed": 2}), End)
    config = RetriesConfig(reasons={"agent_failed": 1, "lost_process": 0})
    assert isinstance(after(ended("agent_failed"), config=config), Retry)
    assert isinstance(after(ended("lost_process", State.LOST), config=config), End)
    # no person's stop is undone by what was asked of the agent
    assert isinstance(after(ended("stopped", State.STOPPED), asked), End)


def test_done_is_done_and_delivered_work_is_left_alone() -> None:
    assert after(ended("nothing_to_commit", State.DONE)) == End(
        outcome="done", why="nothing_to_commit"
    )
    found = after(ended("lost_process", State.LOST, commit="a" * 40, branch="b"))
    assert isinstance(found, End)
    assert found.outcome == "lost"


def test_where_it_goes_and_when() -> None:
    first = after(ended("lost_process", State.LOST))
    assert first == Retry(
        at=NOW + 30.0, avoid="a", why="lost_process: the machine was lost, not the work"
    )
    second = after(ended("lost_process", State.LOST), by_reason={"lost_process": 1})
    assert isinstance(second, Retry)
    assert second.at == NOW + 60.0
    early = decide(RetriesConfig(), ENTRY, ended("lost_process", State.LOST), History(), NOW, 0.0)
    assert isinstance(early, Retry)
    assert early.at == NOW + 15.0
    alone = after(ended("lost_process", State.LOST), others=False)
    assert isinstance(alone, Retry)
    assert alone.avoid == ""
    capped = after(
        ended("agent_failed"), config=RetriesConfig(reasons={"agent_failed": 1000}),
        by_reason={"agent_failed": 900},
    )  # fmt: skip
    assert isinstance(capped, Retry)
    assert capped.at == NOW + 3600.0


def test_what_must_go_elsewhere_ends_where_it_cannot() -> None:
    assert isinstance(after(ended("command_not_found")), Retry)
    for found in (
        after(ended("command_not_found"), others=False),
        after(ended("command_not_found"), replace(ENTRY, place="a")),
    ):
        assert isinstance(found, End)
        assert "elsewhere" in found.why


def test_ceilings() -> None:
    lost = ended("lost_process", State.LOST)
    assert isinstance(after(lost, retries=3), Retry)
    assert isinstance(after(lost, retries=4), End)
    assert isinstance(after(lost, attempts=12), End)
    limited = ended("rate_limited")
    assert isinstance(after(limited, retries=99), Pause)  # pauses do not count
    assert isinstance(after(limited, by_reason={"rate_limited": 50}), End)
    off = RetriesConfig(park=Park.OFF)
    assert isinstance(after(limited, config=off), Retry)
    assert isinstance(after(limited, config=off, by_reason={"rate_limited": 3}), End)


def test_a_reason_that_nobody_knows_goes_by_the_state() -> None:
    assert isinstance(after(ended("acme_went_home")), End)
    assert isinstance(after(ended("acme_went_home"), replace(ENTRY, retries=1)), Retry)
    assert isinstance(after(ended("acme_went_home", State.LOST)), Retry)
    assert isinstance(after(ended("acme_went_home", State.STOPPED)), End)


# --- the settler -------------------------------------------------------------------------------


def test_a_lost_worker_goes_to_another_outpost(tmp_path: Path) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def body(at: Manager) -> None:
        course = Course(at, a, b)
        await course.add(command())
        assert await course.place() == "a"
        entry = await course.finish(Result(state=State.LOST, reason="lost_process"))
        assert (entry.state, entry.worker, entry.avoid) == ("waiting", "gt-1.2", "a")
        assert entry.not_before == pytest.approx(time.time() + 30, abs=10)
        assert await course.place() == "b"
        entry = await course.finish(Result(state=State.DONE))
        assert (entry.state, entry.outcome, entry.tries) == ("ended", "done", 2)
        decided = await course.decided()
        assert [one["what"] for one in decided] == ["retry", "end"]
        assert (decided[0]["next"], decided[0]["avoid"]) == ("gt-1.2", "a")

    run(manager(tmp_path, a, b), body)


def test_an_avoided_outpost_is_no_candidate(tmp_path: Path) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def body(at: Manager) -> None:
        b.refuse("no")
        (answer,) = await at.spawn_many([command()], turns={"gt-1.1": Turn(avoid="a")})
        assert isinstance(answer, PlacementError)
        assert "is to go elsewhere" in answer.message
        (answer,) = await at.spawn_many([command()])
        assert not isinstance(answer, Exception)
        assert answer.worker.outpost == "a"

    run(manager(tmp_path, a, b), body)


def test_an_attempt_that_never_began_keeps_its_number(tmp_path: Path) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def body(at: Manager) -> None:
        course = Course(at, a, b)
        await course.add(command())
        await course.place()
        entry = await course.finish(failed("never_started", agent_began=False))
        assert (entry.state, entry.worker) == ("waiting", "gt-1.1")
        assert await course.place() == "b"
        assert (await course.finish(Result(state=State.DONE))).outcome == "done"

    run(manager(tmp_path, a, b), body)


def test_secrets_are_names_while_it_waits(tmp_path: Path) -> None:
    a = FakeOutpost("a")

    async def body(at: Manager) -> None:
        course = Course(at, a)
        await course.add(claude(secrets=Secrets({"KEY": "value-1"})))
        (answer,) = await at.spawn_many([claude(secrets=Secrets({"KEY": "value-1"}))])
        assert not isinstance(answer, Exception)
        entry = await course.finish(failed("idle_timeout"))
        assert entry.state == "waiting"
        following = await at.ledger.queue.order("gt-1")
        assert following is not None
        assert (following.attempt, [*following.secrets]) == (2, ["KEY"])

    run(manager(tmp_path, a), body)
    for file in (tmp_path / "state").rglob("*"):
        assert not file.is_file() or b"value-1" not in file.read_bytes()


def yesterday(ledger: Ledger) -> None:
    """Have all that was decided be of the day before."""
    with ledger._store.write() as db:
        db.execute("UPDATE events SET at = at - 86400 WHERE kind = 'decided'")


def test_the_ceiling_of_a_day_holds_over_all_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = FakeOutpost("a")

    async def body(at: Manager) -> None:
        course = Course(at, a)
        for issue in ("gt-1", "gt-2", "gt-3"):
            await course.add(command(issue))
            await course.place(issue)
            a.finish(f"{issue}.1", Result(state=State.LOST, reason="lost_process"))
        await at.refresh()
        assert await course.settler.step() == 2
        assert await course.settler.step() == 0
        counts = await at.ledger.queue.counts()
        assert counts == {"waiting": 2, "settling": 1}
        entry = await course.entry("gt-3")
        assert entry.why == "2 retries in 24 hours are all that per_day of retries allows"
        # what is beyond it is not decided anew with each event, and holds up nothing else
        settle, seen = course.settler._settle, list[str]()

        async def look(entry: Entry, attempts: Any) -> Any:
            seen.append(entry.issue)
            return await settle(entry, attempts)

        monkeypatch.setattr(course.settler, "_settle", look)
        await course.add(command("gt-4"))
        await course.place("gt-4")
        assert (await course.finish(Result(state=State.DONE), "gt-4")).outcome == "done"
        assert seen == ["gt-4"]
        assert course.settler.next_moment == pytest.approx(time.time() + 86_400, abs=600)
        later = time.time() + 86_400 + 600
        course.settler._clock = lambda: later
        await at.ledger.run(yesterday)
        assert await course.settler.step() == 1
        assert (await course.entry("gt-3")).state == "waiting"

    run(manager(tmp_path, a, config="retries: {per_day: 2}\n"), body)


def test_two_settlers_decide_once(tmp_path: Path) -> None:
    import asyncio

    a = FakeOutpost("a")

    async def body(at: Manager) -> None:
        course = Course(at, a)
        await course.add(command())
        await course.place()
        a.finish("gt-1.1", Result(state=State.LOST, reason="lost_process"))
        await at.refresh()
        second = Settler(at)
        assert sum(await asyncio.gather(course.settler.step(), second.step())) == 1
        assert len(await course.decided()) == 1
        assert (await course.entry()).worker == "gt-1.2"

    run(manager(tmp_path, a), body)


@pytest.mark.parametrize("point", ["retries.decided", "retries.settled"])
@pytest.mark.parametrize("reason", ["lost_process", "agent_failed"])
def test_a_crash_at_any_point_decides_once(
    point: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def crash(name: str) -> None:
        if name == point:
            raise Killed

    a = FakeOutpost("a")

    async def body(at: Manager) -> None:
        course = Course(at, a)
        await course.add(command())
        await course.place()
        state = State.LOST if reason == "lost_process" else State.FAILED
        a.finish("gt-1.1", Result(state=state, reason=reason))
        await at.refresh()
        with monkeypatch.context() as patched:
            patched.setattr(faults, "point", crash)
            with pytest.raises(Killed):
                await course.settler.step()
        await course.settler.step()
        assert len(await course.decided()) == 1
        entry = await course.entry()
        assert entry.state == ("waiting" if reason == "lost_process" else "ended")

    run(manager(tmp_path, a), body)


def test_what_was_ordered_besides_the_queue_ends_the_entry(tmp_path: Path) -> None:
    a = FakeOutpost("a")

    async def body(at: Manager) -> None:
        course = Course(at, a)
        await course.add(command())
        await course.place()
        a.finish("gt-1.1", Result(state=State.LOST, reason="lost_process"))
        await at.refresh()
        await at.spawn(replace(command(), attempt=2))
        assert await course.settler.step() == 1
        entry = await course.entry()
        assert (entry.state, entry.outcome) == ("ended", "lost")
        assert "gt-1.2" in entry.why

    run(manager(tmp_path, a), body)


def test_what_waits_for_a_failed_one_says_so_and_does_not_start(tmp_path: Path) -> None:
    a = FakeOutpost("a")

    async def body(at: Manager) -> None:
        course = Course(at, a)
        await course.add(command("gt-1"))
        await course.add(command("gt-2"), after=("gt-1",))
        await course.place("gt-1")
        await course.finish(failed("agent_failed"))
        entry = await course.entry("gt-2")
        assert (entry.state, entry.waits_for) == ("waiting", 1)
        assert entry.why == "after gt-1, which ended as failed"

    run(manager(tmp_path, a), body)


# --- usage limits ------------------------------------------------------------------------------


def limited(at: float | None = None, reason: str = "rate_limited", **more: object) -> Result:
    return failed(reason, retry_at=at, message="the limit is reached", **more)


def test_a_usage_limit_parks_its_account_and_the_session_goes_on(tmp_path: Path) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def body(at: Manager) -> None:
        course = Course(at, a, b)
        await course.add(claude())
        await course.place()
        until = time.time() + 7200
        entry = await course.finish(limited(until, session="s-1"))
        assert (entry.state, entry.place, entry.not_before) == ("waiting", "a", 0.0)
        (parked,) = await at.ledger.parking.all()
        assert (parked.account, parked.model) == ("claude", "")
        assert parked.until == pytest.approx(until)
        following = await at.ledger.queue.order("gt-1")
        assert following is not None
        assert "--resume" in following.agent.argv
        assert "s-1" in following.agent.argv
        with pytest.raises(
            PlacementError,
            match=r"account claude is parked until .*: its limit is reached, says gt-1\.1",
        ):
            await course.place()
        # nothing else goes into the same wall, by hand neither
        with pytest.raises(PlacementError, match="parked"):
            await at.spawn(claude("gt-9"))
        assert await at.ledger.parking.unpark("claude") == 1
        assert await course.place() == "a"
        why = await at.ledger.explanation("gt-1.2")
        assert why is not None
        assert why.rule == "its agent goes on with its session at a"
        a.finish("gt-1.2", failed("agent_failed"))
        await at.refresh()
        assert (await at.further.retry("gt-1")).on is None  # nobody has asked for it
        kinds = [event.kind for event in await at.ledger.read(lambda ledger: ledger.events())]
        assert kinds.count("parked") == kinds.count("unparked") == 1

    run(manager(tmp_path, a, b), body)


def test_after_a_pause_another_reason_begins_with_the_first_prompt_again(tmp_path: Path) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def body(at: Manager) -> None:
        course = Course(at, a, b)
        await course.add(claude())
        for session in ("s-1", "s-2"):
            await course.place()
            await course.finish(limited(session=session))
            await at.ledger.parking.unpark("claude")
        following = await at.ledger.queue.order("gt-1")
        assert following is not None
        assert (following.prompt, following.attempt) == (
            "The limit of your provider is over. Continue with the task where you stopped.", 3,
        )  # fmt: skip
        await course.place()
        entry = await course.finish(Result(state=State.LOST, reason="lost_process", session="s-3"))
        assert (entry.place, entry.avoid) == (None, "a")
        following = await at.ledger.queue.order("gt-1")
        assert following is not None
        assert (following.prompt, following.attempt) == ("Do it.", 4)
        assert "--resume" not in following.agent.argv

    run(manager(tmp_path, a, b), body)


def test_another_account_is_used_where_there_is_one(tmp_path: Path) -> None:
    a = FakeOutpost("a")
    accounts = "accounts:\n  - {name: one, agent: claude}\n  - {name: two, agent: claude}\n"

    async def body(at: Manager) -> None:
        course = Course(at, a)
        await course.add(claude())
        await course.place()
        await course.finish(limited(time.time() + 3600, session="s"))
        assert await course.place() == "a"
        assert await at.ledger.account("gt-1.2") == "two"

    run(manager(tmp_path, a, config=accounts), body)


def test_parking_can_be_switched_off(tmp_path: Path) -> None:
    a = FakeOutpost("a")

    async def body(at: Manager) -> None:
        course = Course(at, a)
        await course.add(claude())
        await course.place()
        entry = await course.finish(limited(time.time() + 3600, session="s"))
        assert entry.not_before == pytest.approx(time.time() + 900, abs=20)
        await at.spawn(claude("gt-2"))
        assert (await course.decided())[0]["what"] == "retry"

    run(manager(tmp_path, a, config='retries: {park: "off"}\n'), body)


def test_a_bare_command_parks_nothing_but_itself(tmp_path: Path) -> None:
    a = FakeOutpost("a")

    async def body(at: Manager) -> None:
        course = Course(at, a)
        await course.add(command())
        await course.place()
        until = time.time() + 1800
        entry = await course.finish(limited(until))
        assert entry.not_before == pytest.approx(until)
        assert await at.ledger.parking.all() == []
        await at.spawn(command("gt-2"))

    run(manager(tmp_path, a), body)


# --- what people see ---------------------------------------------------------------------------


def test_show_tells_the_attempts_as_a_story(tmp_path: Path) -> None:
    import click

    from outpost_manager.cli import story

    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def told(course: Course) -> str:
        ledger = course.at.ledger
        lines = story.lines(
            await ledger.attempts("gt-1"),
            await ledger.queue.decisions("gt-1"),
            await ledger.queue.entry("gt-1"),
            {"gt-1.1": "team"},
        )
        return click.unstyle("\n".join(lines))

    async def body(at: Manager) -> None:
        course = Course(at, a, b)
        await course.add(claude())
        await course.place()
        await course.finish(limited(time.time() + 7200, session="s"))
        text = await told(course)
        assert "gt-1.1 at a with account team: failed (rate_limited)" in text
        assert "the limit is reached" in text
        assert "→ account claude is parked until " in text
        assert (
            " UTC; it goes on as gt-1.2, with its session: rate_limited: the limit is reached"
            in text
        )
        assert "next: gt-1.2 waits for a: " in text
        await at.ledger.parking.unpark("claude")
        await course.place()
        lost = "the machine\x1b[31m is gone"
        await course.finish(Result(state=State.LOST, reason="lost_process", message=lost))
        text = await told(course)
        assert "\x1b" not in text
        assert "→ tried again from " in text
        assert "as gt-1.3, not at a: lost_process: the machine was lost" in text
        assert "next: gt-1.3 waits until " in text
        await course.place()
        await course.finish(failed("agent_failed"))
        text = await told(course)
        assert "→ ended as failed: agent_failed: the agent says itself that it failed" in text
        assert "next:" not in text
        shown = story.as_json(await at.ledger.queue.decisions("gt-1"))
        assert [(one["worker"], one["what"], one["next"]) for one in shown] == [
            ("gt-1.1", "park", "gt-1.2"), ("gt-1.2", "retry", "gt-1.3"), ("gt-1.3", "end", None),
        ]  # fmt: skip

    run(manager(tmp_path, a, b), body)


def test_who_listens_no_longer_is_told_of_and_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log of events could not be read once: a failed service, and not silence."""

    async def body(at: Manager) -> None:
        events, failing = at.events, [True]

        async def broken(after: int | None = None) -> AsyncIterator[Event]:
            if failing and failing.pop():
                raise LedgerError("the disk is full")
            async for event in events(after):
                yield event

        monkeypatch.setattr(at, "events", broken)
        report = PluginReport(entry_point="mayor", package="outpost-mayor", version="1")
        at.plugins.add(plugin, report)
        services = Services(at.plugins, at, pause_first=0.01, only={"settle"})
        async with services:
            async with asyncio.timeout(60):
                while not (services.notes[0].failures and services.notes[0].state == "running"):
                    await asyncio.sleep(0.01)
        assert services.notes[0].failures == 1
        assert "the disk is full" in services.notes[0].error

    a = FakeOutpost("a")
    run(manager(tmp_path, a), body)


def test_an_order_says_how_often_what_its_agent_judged_is_repeated(tmp_path: Path) -> None:
    a = FakeOutpost("a")

    async def body(at: Manager) -> None:
        await at.enqueue([command()], retries=1)
        course = Course(at, a)
        await course.place()
        assert (await course.finish(failed("agent_failed"))).state == "waiting"
        await course.place()
        assert (await course.finish(failed("agent_failed"))).state == "ended"

    run(manager(tmp_path, a), body)
