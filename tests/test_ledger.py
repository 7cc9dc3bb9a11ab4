"""The ledger in one process: what is reserved, recorded, fenced and shown."""

from __future__ import annotations

import os
import time

import pytest

from outpost_core import wire
from outpost_core.errors import UsageError
from outpost_core.types import (
    Agent,
    Event,
    Explanation,
    Issue,
    Order,
    Result,
    Secrets,
    State,
    Usage,
    Verdict,
    Worker,
    WorkerStatus,
)
from outpost_manager.ledger import Claim, Ledger, Outcome, Reservation, rows
from outpost_shared import identity


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "state")
    yield ledger
    ledger.close()


def order(issue="gt-1", attempt=1, **more):
    return Order(
        issue=Issue(id=issue, title="Mend the roof", priority=1),
        agent=Agent(argv=("true",), name="claude"),
        attempt=attempt,
        **more,
    )


def reservation(order, outpost="local", **more):
    return Reservation(order=order, outpost=outpost, digest=wire.digest(order), **more)


def status(order, state=State.WORKING, **more):
    if state.terminal:
        more.setdefault("result", Result(state=state))
    return WorkerStatus(id=order.worker, state=state, digest=wire.digest(order), **more)


def spawn(ledger, order, outpost="local", **more):
    (answer,) = ledger.reserve([reservation(order, outpost, **more)])
    assert answer.outcome is Outcome.RESERVED
    ledger.mark_spawned([(outpost, status(order, State.STARTING))])


def kinds(ledger, worker):
    return [event.kind for event in ledger.events(worker)]


# --- reserve ---------------------------------------------------------------------------------


def test_a_reservation_is_a_starting_worker_as_the_ledger_shows_it(ledger):
    one = order(rig="/rigs/roof")
    (answer,) = ledger.reserve([reservation(one, cost=0.25)])
    assert answer.outcome is Outcome.RESERVED
    assert answer.worker == ledger.worker("gt-1.1")
    worker = answer.worker
    assert (worker.state, worker.title, worker.priority) == (State.STARTING, "Mend the roof", 1)
    assert (worker.rig, worker.agent, worker.cost_reserved) == ("/rigs/roof", "claude", 0.25)
    assert abs(worker.created_at - time.time()) < 60
    assert ledger.active() == {"local": 1}


def test_the_same_order_exists_and_another_one_is_a_conflict(ledger):
    ledger.reserve([reservation(order())])
    same, other = ledger.reserve(
        [reservation(order(), "elsewhere"), reservation(order(prompt="else"))]
    )
    assert (same.outcome, same.worker.outpost) == (Outcome.EXISTS, "local")
    assert (other.outcome, other.worker.id) == (Outcome.CONFLICT, "gt-1.1")
    assert "another order" in other.detail


def test_slots_are_taken_by_what_has_not_ended(ledger):
    first, second, third = (order(f"gt-{n}") for n in (1, 2, 3))
    answers = ledger.reserve([reservation(o, max_workers=2) for o in (first, second, third)])
    assert [a.outcome for a in answers] == [Outcome.RESERVED, Outcome.RESERVED, Outcome.FULL]
    assert answers[2].detail == "2 of 2 slots of local are taken"
    assert answers[2].worker is None
    ledger.record("local", [status(first, State.DONE)])
    assert ledger.reserve([reservation(third, max_workers=2)])[0].outcome is Outcome.RESERVED


def test_no_slots_means_none(ledger):
    assert ledger.reserve([reservation(order(), max_workers=0)])[0].outcome is Outcome.FULL


def test_the_cost_cap_is_exact(ledger):
    def take(n):
        return ledger.reserve([reservation(order(f"gt-{n}"), cost=0.1, cost_cap_hourly=0.3)])[0]

    assert [take(n).outcome for n in (1, 2, 3)] == [Outcome.RESERVED] * 3
    refused = take(4)
    assert refused.outcome is Outcome.CAPPED
    assert "0.30 USD of 0.30 USD" in refused.detail
    assert ledger.spent(0) == {"local": 0.3}


def test_a_settled_cost_counts_for_an_hour_and_frees_what_was_too_much(ledger, monkeypatch):
    spawn(ledger, order("gt-1"), cost=1.0, cost_cap_hourly=1.0)
    capped = reservation(order("gt-2"), cost=0.8, cost_cap_hourly=1.0)
    assert ledger.reserve([capped])[0].outcome is Outcome.CAPPED
    result = Result(state=State.DONE, cost_usd=0.3)
    ledger.record("local", [status(order("gt-1"), State.DONE, result=result)])
    assert ledger.worker("gt-1.1").cost_settled == 0.3
    assert ledger.worker("gt-1.1").cost_reserved == 0.0
    assert ledger.reserve([capped])[0].outcome is Outcome.CAPPED
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    assert ledger.spent(now + 1) == {}
    assert ledger.reserve([capped])[0].outcome is Outcome.RESERVED


@pytest.mark.parametrize("charged", [None, -1.0, float("nan"), float("inf")])
def test_without_a_sound_charge_the_worst_case_is_the_cost(ledger, charged):
    spawn(ledger, order(), cost=0.5)
    result = Result(state=State.FAILED, cost_usd=charged)
    ledger.record("local", [status(order(), State.FAILED, result=result)])
    assert ledger.worker("gt-1.1").cost_settled == 0.5


@pytest.mark.parametrize("cost", [-0.01, float("nan"), float("inf"), 1e12])
def test_a_cost_that_is_no_amount_is_refused_before_anything_changes(ledger, cost):
    with pytest.raises(UsageError, match="not an amount of money"):
        ledger.reserve([reservation(order("gt-2")), reservation(order(), cost=cost)])
    assert ledger.workers() == []


def test_no_reservations_are_no_answers(ledger):
    assert ledger.reserve([]) == []
    ledger.mark_spawned([])
    assert ledger.events() == []


# --- move and release --------------------------------------------------------------------------


def test_a_refused_worker_moves_with_its_explanation(ledger):
    why = Explanation(rule="default_preference", verdicts=())
    again = Explanation(
        rule="default_preference",
        verdicts=(Verdict(outpost="far", rank=1, eligible=True, reason="next"),),
        attempts=(("local", "no tmux"),),
    )
    ledger.reserve([reservation(order(), cost=1.0, explanation=why)])
    assert ledger.explanation("gt-1.1") == why
    answer = ledger.move("gt-1.1", reservation(order(), "far", cost=0.5, explanation=again))
    assert (answer.outcome, answer.worker.outpost) == (Outcome.RESERVED, "far")
    assert ledger.active() == {"far": 1}
    assert ledger.spent(0) == {"far": 0.5}
    assert ledger.explanation("gt-1.1") == again
    assert ledger.order("gt-1.1") == order()
    assert kinds(ledger, "gt-1.1") == ["reserved", "moved"]


def test_what_cannot_move_stays_put(ledger):
    ledger.reserve([reservation(order()), reservation(order("gt-2"), "far")])
    answer = ledger.move("gt-1.1", reservation(order(), "far", max_workers=1))
    assert answer.outcome is Outcome.FULL
    assert ledger.worker("gt-1.1").outpost == "local"
    same = ledger.move("gt-1.1", reservation(order(), "local", max_workers=1))
    assert same.outcome is Outcome.RESERVED


def test_a_spawned_worker_does_not_move_and_a_released_one_is_reserved_anew(ledger):
    spawn(ledger, order())
    assert ledger.move("gt-1.1", reservation(order(), "far")).outcome is Outcome.EXISTS
    assert ledger.move("gt-2.1", reservation(order("gt-2"), "far")).outcome is Outcome.RESERVED
    with pytest.raises(UsageError, match="gt-2"):
        ledger.move("gt-1.1", reservation(order("gt-2"), "far"))


def test_a_worker_of_another_process_does_not_move(ledger):
    ledger.reserve([reservation(order(), owner="me/1")])
    answer = ledger.move("gt-1.1", reservation(order(), "far", owner="me/2"))
    assert (answer.outcome, answer.worker.outpost) == (Outcome.EXISTS, "local")


def test_a_release_gives_all_back_and_keeps_the_order(ledger):
    ledger.reserve([reservation(order(), cost=1.0)])
    assert ledger.release("gt-1.1", "")
    assert ledger.worker("gt-1.1") is None
    assert (ledger.active(), ledger.spent(0)) == ({}, {})
    assert ledger.order("gt-1.1") == order()
    assert kinds(ledger, "gt-1.1") == ["reserved", "released"]
    assert not ledger.release("gt-1.1", "")
    assert ledger.reserve([reservation(order(prompt="new"))])[0].outcome is Outcome.RESERVED
    assert ledger.order("gt-1.1").prompt == "new"


def test_what_is_held_is_always_what_the_open_rows_add_up_to(ledger):
    import random

    dice = random.Random(4)
    orders = [order(f"gt-{n}") for n in range(12)]
    for _ in range(300):
        one, place = dice.choice(orders), dice.choice(["local", "far"])
        match dice.randrange(5):
            case 0:
                ledger.reserve([reservation(one, place, cost=dice.random())])
            case 1:
                ledger.move(one.worker, reservation(one, place, cost=dice.random()))
            case 2:
                ledger.release(one.worker, "")
            case 3:
                ledger.record(place, [status(one, State.WORKING)])
            case _:
                ledger.record(place, [status(one, dice.choice([State.IDLE, State.DONE]))])
        held = ledger._store.read("SELECT outpost, slots, cost FROM held WHERE slots > 0")
        rows_say = ledger._store.read(
            "SELECT outpost, count(*), sum(cost_reserved) FROM workers WHERE ended_at IS NULL"
            " GROUP BY outpost"
        )
        assert sorted(held) == sorted(rows_say)


def test_only_its_owner_releases_a_worker(ledger):
    ledger.reserve([reservation(order(), owner="me/1")])
    assert not ledger.release("gt-1.1", "me/2")
    assert ledger.release("gt-1.1", "me/1")


def test_a_spawned_or_ended_worker_is_not_released(ledger):
    spawn(ledger, order())
    assert not ledger.release("gt-1.1", "")
    ledger.record("local", [status(order(), State.DONE)])
    assert not ledger.release("gt-1.1", "")
    assert ledger.worker("gt-1.1").state is State.DONE


# --- record ------------------------------------------------------------------------------------


def test_a_status_is_taken_over_once(ledger):
    spawn(ledger, order())
    news = [status(order(), detail="cloning", started_at=5.0, updated_at=6.0)]
    (changed,) = ledger.record("local", news)
    assert (changed.state, changed.detail, changed.started_at) == (State.WORKING, "cloning", 5.0)
    before = len(ledger.events())
    assert ledger.record("local", news) == []
    heartbeat = status(order(), detail="cloning", started_at=5.0, updated_at=60.0)
    assert ledger.record("local", [heartbeat]) == []
    assert len(ledger.events()) == before


def test_a_listing_finds_the_spawn_that_a_crash_left_unrecorded(ledger):
    ledger.reserve([reservation(order())])
    assert [w.id for w in ledger.unspawned(0)] == ["gt-1.1"]
    assert ledger.unspawned(60) == []
    assert [w.id for w in ledger.record("local", [status(order(), State.STARTING)])] == ["gt-1.1"]
    assert ledger.unspawned(0) == []


def test_a_terminal_state_never_changes(ledger):
    spawn(ledger, order())
    result = Result(
        state=State.DONE, branch="polecat/gt-1", commit="c0ffee", exit_code=0, finished_at=9.0,
        usage=Usage(input_tokens=5, cost_usd=0.2),
    )  # fmt: skip
    (done,) = ledger.record("local", [status(order(), State.DONE, result=result)])
    assert (done.state, done.result, done.finished_at) == (State.DONE, result, 9.0)
    for late in (State.WORKING, State.FAILED, State.LOST):
        assert ledger.record("local", [status(order(), late, updated_at=1e12)]) == []
        ledger.mark_spawned([("local", status(order(), late))])
    assert ledger.worker("gt-1.1") == done
    assert kinds(ledger, "gt-1.1") == ["reserved", "spawned", "state"]
    assert ledger.events("gt-1.1")[-1].data == {"state": "done", "reason": "ok"}


def test_older_news_never_replaces_newer_but_an_end_always_counts(ledger):
    spawn(ledger, order())
    ledger.record("local", [status(order(), State.IDLE, updated_at=50.0)])
    assert ledger.record("local", [status(order(), State.WORKING, updated_at=40.0)]) == []
    assert ledger.worker("gt-1.1").state is State.IDLE
    ledger.record("local", [status(order(), State.FAILED, updated_at=30.0)])
    assert ledger.worker("gt-1.1").state is State.FAILED


def test_an_older_attempt_leaves_a_newer_one_alone(ledger):
    spawn(ledger, order(attempt=1))
    spawn(ledger, order(attempt=2))
    ledger.record("local", [status(order(attempt=1), State.LOST)])
    assert [(w.attempt, w.state) for w in ledger.attempts("gt-1")] == [
        (2, State.STARTING),
        (1, State.LOST),
    ]


def test_statuses_of_other_orders_and_other_outposts_are_ignored(ledger):
    spawn(ledger, order())
    assert ledger.record("local", [status(order(prompt="other"))]) == []
    assert ledger.record("far", [status(order())]) == []
    assert ledger.worker("gt-1.1").state is State.STARTING
    assert ledger.active() == {"local": 1}


def test_unknown_workers_are_adopted_when_their_id_is_one(ledger):
    found = ledger.record(
        "local",
        [
            status(order("gt-7", attempt=3), started_at=77.0),
            status(order("gt-8"), State.DONE),
            WorkerStatus(id="../../etc/passwd", state=State.WORKING),
            WorkerStatus(id="gt-9.01", state=State.WORKING),
        ],
    )
    assert {w.id: w.state for w in found} == {"gt-7.3": State.WORKING, "gt-8.1": State.DONE}
    adopted = ledger.worker("gt-7.3")
    assert (adopted.issue, adopted.attempt, adopted.created_at) == ("gt-7", 3, 77.0)
    assert ledger.active() == {"local": 1}
    assert ledger.order("gt-7.3") is None
    assert ledger.explanation("gt-7.3") is None
    same = ledger.reserve([reservation(order("gt-7", attempt=3))])[0]
    assert same.outcome is Outcome.EXISTS
    assert kinds(ledger, "gt-7.3") == ["adopted", "spawned", "state"]


def test_unchanged_statuses_take_no_lock(ledger, tmp_path):
    import sqlite3

    spawn(ledger, order())
    ended = order("gt-2")
    spawn(ledger, ended)
    ledger.record("local", [status(order()), status(ended, State.DONE)])
    other = sqlite3.connect(tmp_path / "state" / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        assert ledger.record("local", [status(order()), status(ended, State.DONE)]) == []
    finally:
        other.close()


def test_many_unknown_and_many_ended_workers_at_once(ledger):
    many = [status(order(f"gt-{n}"), State.DONE) for n in range(1200)]
    assert len(ledger.record("local", many)) == 1200
    assert ledger.record("local", many) == []
    assert len(ledger.workers(ids=[s.id for s in many], limit=1100)) == 1100


# --- look --------------------------------------------------------------------------------------


def test_missing_are_those_spawned_before_the_question_and_not_shown(ledger):
    spawn(ledger, order("gt-1"))
    spawn(ledger, order("gt-2"))
    spawn(ledger, order("gt-3"), "far")
    ledger.reserve([reservation(order("gt-4"))])
    asked = time.time() + 1
    assert ledger.missing("local", [], 5.0) == []
    assert ledger.missing("local", ["gt-1.1"], asked) == [], "once may be a race"
    assert ledger.missing("local", ["gt-1.1"], 5.0) == [], "asked before the first answer"
    assert [w.id for w in ledger.missing("local", ["gt-1.1"], asked)] == ["gt-2.1"]
    assert ledger.missing("local", {"gt-1.1", "gt-2.1"}, asked) == []
    assert ledger.missing("local", ["gt-1.1"], asked) == [], "it was seen in between"


def test_workers_by_outpost_issue_state_and_number(ledger):
    spawn(ledger, order("gt-1"))
    spawn(ledger, order("gt-1", attempt=2), "far")
    spawn(ledger, order("gt-1.1"))
    spawn(ledger, order("gt-10"))
    ledger.record("local", [status(order("gt-1"), State.DONE)])

    def ids(**which):
        return [worker.id for worker in ledger.workers(**which)]

    assert ids() == ["gt-10.1", "gt-1.1.1", "gt-1.2", "gt-1.1"]
    assert ids(limit=2) == ["gt-10.1", "gt-1.1.1"]
    assert ids(outpost="far") == ["gt-1.2"]
    assert ids(issue="gt-1") == ["gt-1.2", "gt-1.1"]
    assert ids(active=True) == ["gt-10.1", "gt-1.1.1", "gt-1.2"]
    assert ids(active=False) == ["gt-1.1"]
    assert ids(ids=["gt-1.2", "nope.1"]) == ["gt-1.2"]
    assert ids(ids=[]) == []


def test_a_forgotten_worker_is_hidden_and_kept(ledger):
    spawn(ledger, order())
    assert not ledger.forget("gt-1.1"), "it runs"
    ledger.record("local", [status(order(), State.DONE)])
    assert ledger.forget("gt-1.1")
    assert not ledger.forget("gt-1.1")
    assert ledger.workers() == []
    assert [w.id for w in ledger.workers(cleaned=True)] == ["gt-1.1"]
    assert [w.id for w in ledger.attempts("gt-1")] == ["gt-1.1"]
    assert ledger.worker("gt-1.1").state is State.DONE
    assert ledger.record("local", [status(order(), State.DONE)]) == []
    assert ledger.reserve([reservation(order())])[0].outcome is Outcome.EXISTS


def test_secrets_are_kept_by_name_only(ledger, tmp_path):
    secret = order(secrets=Secrets({"TOKEN": "canary-4711"}))
    spawn(ledger, secret)
    assert list(ledger.order("gt-1.1").secrets) == ["TOKEN"]
    ledger.close()
    for file in (tmp_path / "state").iterdir():
        assert b"canary-4711" not in file.read_bytes()


def test_a_row_becomes_the_worker_that_its_constructor_would_make():
    row = (
        "gt-1.2", "gt-1", 2, "local", "d", "working", "thinking", "Title", 3, "/rig", "codex",
        1.0, 2.0, 3.0, None, None, 1_500_000_000, None, 2_000_000_000, 250_000_000, None,
        '{"input_tokens":7}', None,
    )  # fmt: skip
    assert rows.worker(row, {"local": 9.0}) == Worker(
        id="gt-1.2", issue="gt-1", attempt=2, outpost="local", digest="d", state=State.WORKING,
        detail="thinking", title="Title", priority=3, rig="/rig", agent="codex", created_at=1.0,
        started_at=2.0, updated_at=3.0, unreachable_since=9.0, cost_reserved=1.5,
        agent_reserved=2.0, agent_cost=0.25, usage=Usage(input_tokens=7),
    )  # fmt: skip


# --- outposts and events --------------------------------------------------------------------


def test_reachability_keeps_its_beginning_and_marks_the_workers(ledger):
    spawn(ledger, order())
    assert ledger.outposts() == {}
    ledger.set_reachable("local", True, "", 100.0)
    ledger.set_reachable("local", False, "timed out", 200.0)
    ledger.set_reachable("local", False, "refused", 300.0)
    note = ledger.outposts()["local"]
    assert (note.reachable, note.since, note.detail, note.seen_at) == (
        False, 200.0, "refused", 100.0,
    )  # fmt: skip
    worker = ledger.worker("gt-1.1")
    assert (worker.unreachable_since, worker.state) == (200.0, State.STARTING)
    ledger.set_reachable("local", True, "", 250.0)
    assert not ledger.outposts()["local"].reachable, "older news"
    ledger.set_reachable("local", True, "", 400.0)
    assert ledger.worker("gt-1.1").unreachable_since is None
    told = [event.kind for event in ledger.events() if event.outpost and not event.worker]
    assert told == ["reachable", "unreachable", "reachable"]


def test_events_come_in_the_order_in_which_they_happened(ledger):
    for n in range(5):
        ledger.note(Event(kind=f"k{n}", at=float(n), outpost="local", data={"n": [n, None]}))
    ledger.note(Event(kind="mine", at=9.0, worker="gt-1.1"))
    assert [e.kind for e in ledger.events(limit=3)] == ["k3", "k4", "mine"]
    assert ledger.events("gt-1.1") == [Event(kind="mine", at=9.0, worker="gt-1.1")]
    assert ledger.events(limit=6)[0].data == {"n": [0, None]}


# --- the file ------------------------------------------------------------------------------------


def test_the_file_is_private_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        ledger = Ledger(tmp_path / "a" / "state")
        ledger.reserve([reservation(order())])
        files = sorted((tmp_path / "a" / "state").iterdir())
        assert [f.name for f in files] == ["ledger.db", "ledger.db-shm", "ledger.db-wal"]
        assert {f.stat().st_mode & 0o777 for f in files} == {0o600}
        for folder in (tmp_path / "a", tmp_path / "a" / "state"):
            assert folder.stat().st_mode & 0o777 == 0o700
        ledger.close()
    finally:
        os.umask(before)


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path):
    Ledger(tmp_path).close()
    (tmp_path / "ledger.db").chmod(0o644)
    mode = tmp_path.stat().st_mode
    Ledger(tmp_path).close()
    assert (tmp_path / "ledger.db").stat().st_mode & 0o777 == 0o600
    assert tmp_path.stat().st_mode == mode, "a folder that was there is not ours to change"


def test_closing_twice_is_fine(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.close()
    ledger.close()


def renew(ledger, one, owner="me/renew-1"):
    """Put another try in the place of an ended one, as `Renewal` does."""
    assert ledger.claim_ended(one.worker, owner) is Claim.MINE
    (answer,) = ledger.reserve([reservation(one, owner=owner)])
    return answer


UNBEGUN = Result(state=State.FAILED, reason="base_not_found", agent_began=False)


def test_what_was_said_of_the_try_before_is_not_said_of_the_next(ledger):
    """A list that was asked for before, and is taken over late, must not end the new try."""
    one = order()
    spawn(ledger, one)
    old = status(one, State.FAILED, result=UNBEGUN)
    ledger.record("local", [old])
    assert ledger.unbegun([one.worker]) == {one.worker}
    asked_at = time.time()
    assert renew(ledger, one).outcome is Outcome.RESERVED
    assert ledger.record("local", [old], asked_at) == []
    assert ledger.worker(one.worker).state is State.STARTING
    assert ledger.worker(one.worker).result is None
    assert ledger.active() == {"local": 1}
    ledger.mark_spawned([("local", status(one, State.STARTING))])
    ended = status(one, State.DONE)
    assert [w.state for w in ledger.record("local", [ended], time.time())] == [State.DONE]
    assert "renewed" in kinds(ledger, one.worker)


def test_an_ended_row_is_renewed_by_one_and_only_where_there_is_room(ledger):
    one = order()
    spawn(ledger, one)
    ledger.record("local", [status(one, State.FAILED, result=UNBEGUN)])
    alive = f"{identity.me()}/renew-a"
    assert ledger.claim_ended(one.worker, alive) is Claim.MINE
    assert ledger.claim_ended(one.worker, f"{identity.me()}/renew-b") is Claim.THEIRS
    full = reservation(one, max_workers=0, owner=alive)
    (answer,) = ledger.reserve([full])
    assert answer.outcome is Outcome.FULL
    assert ledger.worker(one.worker).result == UNBEGUN  # how it ended is still there
    ledger.disown(one.worker, alive)
    assert ledger.claim_ended(one.worker, f"{identity.me()}/renew-b") is Claim.MINE
    other = reservation(one, owner="someone")
    assert ledger.reserve([other])[0].outcome is Outcome.EXISTS
    running = order("gt-2")
    spawn(ledger, running)
    assert ledger.claim_ended("gt-2.1", alive) is Claim.SPAWNED
    assert ledger.claim_ended("gt-3.1", alive) is Claim.GONE


def test_what_cost_money_keeps_its_number(ledger):
    one = order()
    spawn(ledger, one, cost=1.0)
    ledger.record("local", [status(one, State.FAILED, result=UNBEGUN)])
    assert ledger.unbegun([one.worker]) == set()
