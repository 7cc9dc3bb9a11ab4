"""Queue, retries, parking, budgets and breakers as one machine, against a simple reference.

The ledger's own code runs on a file, with a clock that only the test moves. The reference knows
each entry by a few words, and what may never be: an order lost or run twice at once, a ceiling
passed, somebody of lower priority waiting for ever, or more money held than a budget has.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fuzzkit import many
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from outpost_core import wire
from outpost_core.types import Agent, Issue, Json, Limits, Order, Result, State, Usage, WorkerStatus
from outpost_manager.config.queue import AGING, QueueRules
from outpost_manager.config.retries import RetriesConfig
from outpost_manager.ledger import (
    Account,
    Budget,
    Entry,
    Ledger,
    Outcome,
    QueueItem,
    Reservation,
)
from outpost_manager.ledger.breakers import CLOSED, OPEN, RULES
from outpost_manager.ledger.endings import DAY
from outpost_manager.ledger.parking import LONGEST
from outpost_mayor.retries.decide import End, History, Pause, Retry, decide

OUTPOSTS = ("a", "b")
SLOTS = 2
CAP = 3.0
WORST = 1.0
ACCOUNT = "claude"
CONFIG = RetriesConfig(per_order=2, per_issue=6, per_day=4)
RULES_OF_QUEUE = QueueRules()
ISSUES = [f"gt-{number}" for number in range(8)]
#: reason → state, and what the agent is said to have spent
ENDS: dict[str, State] = {
    "ok": State.DONE,
    "agent_failed": State.FAILED,
    "lost_process": State.LOST,
    "never_started": State.FAILED,
    "rate_limited": State.FAILED,
    "overloaded": State.FAILED,
    "stopped": State.STOPPED,
    "push_failed": State.FAILED,
}
MOMENTS = st.sampled_from([1.0, 60.0, 1800.0, 7200.0, AGING, DAY])


@dataclass
class Known:
    """What the reference knows of one entry."""

    state: str = "waiting"
    worker: str = ""
    retries: int = 0
    attempts: int = 0
    asked: int = 0


class Mayor(RuleBasedStateMachine):
    """Rules are what processes do; each is one step of the real ledger."""

    now = 2e9

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mayor-model-"))
        type(self).now = 2e9
        self.ledger = Ledger(self.folder)
        self.known: dict[str, Known] = {}
        self.place: dict[str, str] = {}  # worker that runs → outpost
        self.decided: list[float] = []  # when something was tried again
        self.ended_money: list[tuple[float, float]] = []
        self.until = 0.0  # the account is parked
        for number, issue in enumerate(ISSUES[:5]):
            self.ledger.queue.add([QueueItem(order=order(issue, number), retries=1)])
            self.known[issue] = Known(worker=f"{issue}.1", asked=1)

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    # --- what people and processes do

    @rule(issue=st.sampled_from(ISSUES), priority=st.integers(0, 4), asked=st.integers(0, 1))
    def add(self, issue: str, priority: int, asked: int) -> None:
        if issue in self.known:
            return
        self.ledger.queue.add([QueueItem(order=order(issue, priority), retries=asked)])
        self.known[issue] = Known(worker=f"{issue}.1", asked=asked)

    @rule(seconds=MOMENTS)
    def passes(self, seconds: float) -> None:
        type(self).now += seconds

    @rule(back=st.booleans())
    def reopens(self, back: bool) -> None:
        """The process is killed and another one comes."""
        self.ledger.close()
        self.ledger = Ledger(self.folder)

    @rule(many=st.integers(1, 3))
    def dispatch(self, many: int) -> None:
        """Place who is next; an outpost that refuses passes it to the other one."""
        found = self.ledger.queue.next(RULES_OF_QUEUE, self.now, many)
        self._is_fair(found)
        for entry in found:
            wanted = self.ledger.queue.order(entry.issue)
            assert wanted is not None
            assert wanted.worker == entry.worker == self.known[entry.issue].worker
            for outpost in OUTPOSTS:
                if outpost == entry.avoid or outpost != (entry.place or outpost):
                    continue
                answer = self._reserve(wanted, outpost)
                if answer is Outcome.RESERVED:
                    break

    def _reserve(self, wanted: Order, outpost: str) -> Outcome:
        item = Reservation(
            order=wanted,
            outpost=outpost,
            digest=wire.digest(wanted),
            max_workers=SLOTS,
            agent_cost=WORST,
            budgets=(Budget(name="all", window="day", usd=CAP),),
            accounts=(Account(name=ACCOUNT),),
            owner="model:1:1/x",
        )
        (answer,) = self.ledger.reserve([item])
        parked = self.now < self.until
        assert not (answer.outcome is Outcome.RESERVED and parked), "it went into the wall"
        if answer.outcome is Outcome.RESERVED:
            known = self.known[wanted.issue.id]
            assert known.state == "waiting", known
            assert wanted.worker not in self.place, "it runs twice"
            known.state, self.place[wanted.worker] = "running", outpost
            status = WorkerStatus(id=wanted.worker, state=State.WORKING, digest=wire.digest(wanted))
            self.ledger.record(outpost, [status])
        return answer.outcome

    @precondition(lambda self: self.place)
    @rule(
        data=st.data(),
        reason=st.sampled_from(sorted(ENDS)),
        spent=st.sampled_from([0.0, 0.25, 1.0]),
        named=st.sampled_from([None, 0.5, 3600.0, 400 * DAY]),
    )
    def ends(self, data: Any, reason: str, spent: float, named: float | None) -> None:
        worker = data.draw(st.sampled_from(sorted(self.place)))
        self._ends(worker, reason, spent, named)

    def _ends(self, worker: str, reason: str, spent: float, named: float | None) -> None:
        outpost = self.place.pop(worker)
        limit = reason in ("rate_limited", "overloaded")
        result = Result(
            state=ENDS[reason], reason=reason, finished_at=self.now, cost_usd=0.0,
            retry_at=None if named is None or not limit else self.now + named,
            usage=Usage(cost_usd=spent), agent_began=reason != "never_started",
        )  # fmt: skip
        known = self.ledger.worker(worker)
        assert known is not None
        told = WorkerStatus(id=worker, state=ENDS[reason], digest=known.digest, result=result)
        self.ledger.record(outpost, [told])
        self.ledger.record(outpost, [told])  # it is told twice
        self.ended_money.append((self.now, spent))
        self.known[worker.rpartition(".")[0]].state = "settling"
        if limit:
            parked = [one.until for one in self.ledger.parking.all(self.now)]
            assert all(one <= self.now + LONGEST for one in parked)
            if reason == "rate_limited" and result.agent_began:  # said, so it is kept
                assert parked, "a limit parked nothing"
            self.until = max(parked, default=self.until)

    @rule(twice=st.booleans())
    def settle(self, twice: bool) -> None:
        """Decide of all that has ended; a second settler has seen the same."""
        for entry in self.ledger.queue.settling():
            moved = self._settle(entry)
            if twice and moved:
                assert not self._settle(entry), "it was decided twice"

    def _settle(self, entry: Entry) -> bool:
        known = self.known[entry.issue]
        worker = self.ledger.worker(entry.worker)
        assert worker is not None
        before = self.ledger.queue.decisions(entry.issue, entry.added_at)
        reasons: dict[str, int] = {}
        for one in before:
            if one.text("what") != "end":
                reasons[one.text("reason")] = reasons.get(one.text("reason"), 0) + 1
        history = History(
            retries=sum(one.text("what") == "retry" for one in before),
            by_reason=reasons,
            attempts=len(self.ledger.attempts(entry.issue)),
        )
        found = decide(CONFIG, entry, worker, history, self.now, 1.0)
        assert worker.result is not None
        told: dict[str, Json] = {"reason": worker.result.reason, "why": found.why}
        if isinstance(found, End):
            event = ("decided", {**told, "what": "end"})
            moved = self.ledger.queue.end(entry, found.outcome, found.why, event)
            if moved:
                known.state = "ended"
            return moved
        pauses = isinstance(found, Pause)
        following = replace(self._order(entry), attempt=worker.attempt + 1)
        moved = self.ledger.queue.again(
            entry,
            following,
            not_before=found.at if isinstance(found, Retry) else 0.0,
            why=found.why,
            place=worker.outpost if pauses else None,
            avoid=found.avoid if isinstance(found, Retry) else "",
            told=("decided", {**told, "what": "park" if pauses else "retry"}),
            most_a_day=None if pauses else CONFIG.per_day,
        )
        if moved:
            known.state, known.worker = "waiting", following.worker
            if not pauses:
                known.retries += 1
                self.decided.append(self.now)
        return moved

    @rule(twice=st.booleans())
    def go_elsewhere(self, twice: bool) -> None:
        """What waits for its outpost begins anew; a second one has seen the same."""
        for entry in self.ledger.queue.tied():
            assert entry.place in OUTPOSTS
            anew = replace(self._order(entry), prompt="Begin anew.")
            told: dict[str, Json] = {"what": "elsewhere", "reason": "", "next": entry.worker}
            moved = [
                self.ledger.queue.again(entry, anew, told=("decided", told))
                for _ in range(1 + twice)
            ]
            assert moved == [True, False][: 1 + twice], "it was moved twice"
            now = self.ledger.queue.entry(entry.issue)
            assert now is not None
            assert (now.place, now.worker, now.tries) == (None, entry.worker, entry.tries)

    def _order(self, entry: Entry) -> Order:
        found = self.ledger.queue.order(entry.issue)
        assert found is not None
        return found

    @precondition(lambda self: self.known)
    @rule(
        reasons=st.lists(st.sampled_from(["lost_process", "push_failed", "ok"]), max_size=4),
        seconds=st.sampled_from([0.0, 300.0, 900.0]),
    )
    def a_busy_while(self, reasons: list[str], seconds: float) -> None:
        """Place, let end and decide, again and again: what random single steps rarely reach."""
        for reason in reasons:
            self.dispatch(4)
            for worker in sorted(self.place):
                self._ends(worker, reason, 0.25, None)
            self.settle(True)
            type(self).now += seconds

    @rule()
    def unpark(self) -> None:
        self.ledger.parking.unpark(ACCOUNT)
        self.until = 0.0

    @precondition(lambda self: len(self.place) > 1)
    @rule(outpost=st.sampled_from(OUTPOSTS), times=st.integers(1, 5))
    def unreachable(self, outpost: str, times: int) -> None:
        for _ in range(times):
            self.ledger.breakers.failed("outpost", outpost, "it is away")

    # --- what may never be

    @invariant()
    def no_order_is_lost_and_none_runs_twice(self) -> None:
        entries = {
            entry.issue: entry
            for entry in self.ledger.queue.entries(
                states=("waiting", "running", "settling", "ended")
            )
        }
        assert set(entries) == set(self.known)
        for issue, known in self.known.items():
            assert (entries[issue].state, entries[issue].worker) == (known.state, known.worker)
        active = {worker.id: worker.outpost for worker in self.ledger.workers(active=True)}
        assert active == self.place

    @invariant()
    def ceilings_hold(self) -> None:
        for outpost in OUTPOSTS:
            assert sum(where == outpost for where in self.place.values()) <= SLOTS
        for issue, known in self.known.items():
            assert known.retries <= CONFIG.per_order
            assert len(self.ledger.attempts(issue)) <= CONFIG.per_issue
        lately = [at for at in self.decided if at > self.now - DAY]
        assert len(lately) <= CONFIG.per_day

    @invariant()
    def money_never_passes(self) -> None:
        spent = sum(usd for at, usd in self.ended_money if at > self.now - DAY)
        assert spent + WORST * len(self.place) <= CAP + 1e-9

    @invariant()
    def breakers_are_what_they_can_be(self) -> None:
        for one in self.ledger.breakers.all():
            if one.state == OPEN:
                assert one.failures >= RULES[one.kind].failures
            if one.state == CLOSED:
                assert one.failures < RULES[one.kind].failures

    def _is_fair(self, found: list[Entry]) -> None:
        """Nobody who came so much earlier that aging has made up for its priority stands behind."""
        ready = [
            entry
            for entry in self.ledger.queue.entries(states=("waiting",))
            if entry.not_before <= self.now
        ]
        if not found:
            assert not ready
            return
        chosen = {entry.issue for entry in found}
        for entry in ready:
            if entry.issue in chosen:
                continue
            behind = found[-1]
            turn = entry.added_at + 4 * AGING
            assert not behind.added_at > turn + AGING, "a P4 was passed by for ever"


def order(issue: str, priority: int) -> Order:
    return Order(
        issue=Issue(id=issue, priority=priority),
        agent=Agent(argv=("claude",), name="claude"),
        limits=Limits(max_agent_cost_usd=WORST),
    )


def test_the_mayor_is_what_its_reference_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: Mayor.now)
    run_state_machine_as_test(
        Mayor,
        settings=settings(
            max_examples=many(60), stateful_step_count=40, deadline=None,
            suppress_health_check=[*HealthCheck],
        ),
    )  # fmt: skip
