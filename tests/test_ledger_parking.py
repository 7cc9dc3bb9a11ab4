"""Parking: what an agent claims of its provider, and how far that is believed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from outpost_core import wire
from outpost_core.types import Agent, Issue, Order, Result, State, WorkerStatus
from outpost_manager.ledger import Ledger, Outcome, Reservation
from outpost_manager.ledger.parking import LONGEST, end_of

DAY = 86_400.0


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def order(issue: str, agent: str = "claude", model: str = "") -> Order:
    argv = ("claude", *(("--model", model) if model else ()), "--", "{prompt}")
    return Order(issue=Issue(id=issue), agent=Agent(argv=argv, name=agent))


def reserve(ledger: Ledger, wanted: Order, model: str = "", *, parking: bool = True) -> Outcome:
    item = Reservation(
        order=wanted, outpost="a", digest=wire.digest(wanted), model=model, parking=parking
    )
    return ledger.reserve([item])[0].outcome


def end(ledger: Ledger, wanted: Order, state: State = State.FAILED, **more: Any) -> None:
    result = Result(state=state, finished_at=time.time(), **more)
    status = WorkerStatus(id=wanted.worker, state=state, digest=wire.digest(wanted), result=result)
    ledger.record("a", [status])


def limit(ledger: Ledger, wanted: Order, **more: Any) -> None:
    """Run an order into a limit."""
    assert reserve(ledger, wanted, parking=False) is Outcome.RESERVED
    end(ledger, wanted, **{"reason": "rate_limited", **more})


def test_a_claim_parks_its_own_account_until_the_moment_that_it_names(ledger: Ledger) -> None:
    until = time.time() + 3600
    limit(ledger, order("gt-1"), retry_at=until)
    (parked,) = ledger.parking.all()
    assert (parked.account, parked.worker, parked.claims) == ("claude", "gt-1.1", 1)
    assert parked.until == until
    assert reserve(ledger, order("gt-2")) is Outcome.PARKED
    assert reserve(ledger, order("gt-3", agent="codex")) is Outcome.RESERVED
    assert reserve(ledger, order("gt-4"), parking=False) is Outcome.RESERVED
    assert ledger.parking.all(until + 1) == []


def test_a_model_that_the_order_names_is_parked_alone(ledger: Ledger) -> None:
    limit(ledger, order("gt-1", model="opus"), retry_at=time.time() + 3600)
    assert reserve(ledger, order("gt-2", model="opus"), "opus") is Outcome.PARKED
    assert reserve(ledger, order("gt-3", model="haiku"), "haiku") is Outcome.RESERVED


def test_no_claim_lasts_longer_than_a_week(ledger: Ledger) -> None:
    limit(ledger, order("gt-1"), retry_at=time.time() + 300 * DAY)
    (parked,) = ledger.parking.all()
    assert parked.until == pytest.approx(time.time() + LONGEST, abs=60)


def test_a_pause_without_a_moment_doubles_until_one_is_done(ledger: Ledger) -> None:
    now, claim = time.time(), Result(state=State.FAILED, reason="rate_limited")
    pauses = [end_of(claim, claims, now) - now for claims in range(1, 8)]
    assert pauses == pytest.approx([900, 1800, 3600, 7200, 14400, 18000, 18000])
    busy = Result(state=State.FAILED, reason="overloaded")
    assert end_of(busy, 1, now) - now == pytest.approx(120)
    assert end_of(busy, 99, now) - now == pytest.approx(3600)


def test_moments_that_are_near_again_and_again_are_not_believed(ledger: Ledger) -> None:
    now = 5e8
    soon = Result(state=State.FAILED, reason="rate_limited", retry_at=now + 1, finished_at=now)
    assert end_of(soon, 1, now) == now + 1
    assert end_of(soon, 2, now) == now + 60
    assert end_of(soon, 20, now) == now + 3600
    past = Result(state=State.FAILED, reason="rate_limited", retry_at=now - 9, finished_at=now)
    assert end_of(past, 1, now) == now + 900


def test_a_limit_that_is_over_when_one_hears_of_it_parks_nothing(ledger: Ledger) -> None:
    now = time.time()
    wanted = order("gt-1")
    reserve(ledger, wanted)
    result = Result(
        state=State.FAILED, reason="rate_limited", finished_at=now - 7200, retry_at=now - 60
    )
    status = WorkerStatus(
        id=wanted.worker, state=State.FAILED, digest=wire.digest(wanted), result=result
    )
    ledger.record("a", [status])
    assert ledger.parking.all() == []
    assert reserve(ledger, order("gt-2")) is Outcome.RESERVED


def test_a_crowd_that_runs_into_one_limit_says_one_thing(ledger: Ledger) -> None:
    until = time.time() + 3600
    crowd = [order(f"gt-{number}") for number in range(5)]
    for one in crowd:
        reserve(ledger, one)
    for one in crowd:
        end(ledger, one, reason="rate_limited", retry_at=until)
    (parked,) = ledger.parking.all()
    assert (parked.claims, parked.until) == (1, until)
    assert [event.kind for event in ledger.events()].count("parked") == 1


def test_work_that_is_done_ends_the_counting_and_not_the_parking(ledger: Ledger) -> None:
    other = order("gt-2")
    reserve(ledger, other)
    limit(ledger, order("gt-1"), retry_at=time.time() + 3600)
    end(ledger, other, State.DONE, reason="ok")
    assert len(ledger.parking.all()) == 1


@pytest.mark.parametrize(
    "more", [{"reason": "agent_failed", "retry_at": 4e9}, {"agent_began": False}]
)
def test_nothing_else_parks(ledger: Ledger, more: dict[str, Any]) -> None:
    limit(ledger, order("gt-1"), **more)
    limit(ledger, order("gt-2", agent="command"), retry_at=time.time() + 99)
    assert ledger.parking.all() == []


def test_a_person_ends_it(ledger: Ledger) -> None:
    limit(ledger, order("gt-1"), retry_at=time.time() + 3600)
    assert ledger.parking.unpark("codex") == 0
    assert ledger.parking.unpark("claude") == 1
    assert reserve(ledger, order("gt-2")) is Outcome.RESERVED
    limit(ledger, order("gt-3"), retry_at=time.time() + 3600)
    assert ledger.parking.all()[0].claims == 1  # and the counting begins anew
