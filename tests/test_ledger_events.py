"""The event log in the ledger: one order for all processes, and cursors that survive."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from outpost_core import wire
from outpost_core.types import Agent, Event, Issue, Message, Order, State, WorkerStatus
from outpost_manager.ledger import Ledger, Reservation, schema
from outpost_manager.ledger.cursors import STALE
from outpost_manager.ledger.store import Store
from outpost_shared import identity

GONE = "other-boot:1:1/x"


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "state")
    yield ledger
    ledger.close()


def reservation(issue="gt-1", **more):
    order = Order(issue=Issue(id=issue), agent=Agent(argv=("true",)))
    return Reservation(order=order, outpost="local", digest=wire.digest(order), **more)


def note(ledger, kind, **more):
    ledger.note(Event(kind=kind, at=time.time(), outpost="local", **more))


def tell(ledger, name, owner):
    """Tell an observer all there is; return the kinds."""
    kinds, told = [], 0
    while (event := ledger.cursors.step(name, owner, told).event) is not None:
        kinds.append(event.kind)
        told = event.id
    return kinds


def test_ids_ascend_in_the_order_of_the_writes_and_lead_from_one_event_to_the_next(ledger):
    assert ledger.last_event() == 0
    ledger.reserve([reservation("gt-1"), reservation("gt-2")])
    ledger.mark_spawned([("local", WorkerStatus(id="gt-1.1", state=State.WORKING))])
    found = ledger.events_after(0)
    assert [event.id for event in found] == [1, 2, 3, 4]
    assert [(event.kind, event.worker) for event in found] == [
        ("reserved", "gt-1.1"), ("reserved", "gt-2.1"), ("spawned", "gt-1.1"), ("state", "gt-1.1"),
    ]  # fmt: skip
    assert [event.id for event in ledger.events_after(1, limit=2)] == [2, 3]
    assert ledger.events_after(4) == []
    assert ledger.last_event() == 4


def test_a_refusal_and_the_fate_of_mail_are_written_with_what_they_tell_of(ledger):
    ledger.reserve([reservation(max_workers=0)])
    for number in (1, 2):
        ledger.outbox.post(
            "local", Message(id=f"m{number}", to="x", subject="s", body="b"), "me", 60
        )
    ledger.outbox.delivered("m1")
    ledger.outbox.delivered("m1")
    ledger.outbox.failed("m2", "somebody else", "no such address")
    ledger.outbox.failed("m2", "me", "no such address")
    told = [(event.kind, dict(event.data)) for event in ledger.events_after(0)]
    assert told == [
        ("refused", {"reason": "0 of 0 slots of local are taken"}),
        ("mail_delivered", {"id": "m1", "to": "x", "detail": ""}),
        ("mail_failed", {"id": "m2", "to": "x", "detail": "no such address"}),
    ]


def test_events_of_an_older_ledger_keep_their_order_and_orders_are_still_known(tmp_path):
    old = Store(tmp_path, migrations=schema.MIGRATIONS[:4])
    body = wire.dumps(reservation("a").order)
    with old.write() as db:
        for worker, n, at, kind, text in (
            ("a.1", 1, 10.0, "reserved", body),
            ("a.1", 2, 30.0, "spawned", None),
            ("a.1", 3, 20.0, "state", None),  # the clock was set back
            ("b.1", 1, 25.0, "adopted", None),
            ("", 1, 5.0, "reachable", None),
        ):
            db.execute(
                "INSERT INTO events VALUES (?, ?, ?, ?, 'local', '{}', ?, NULL)",
                (worker, n, at, kind, text),
            )
    old.close()
    ledger = Ledger(tmp_path)
    kinds = [event.kind for event in ledger.events_after(0)]
    assert kinds == ["reachable", "reserved", "adopted", "spawned", "state"]
    assert [event.kind for event in ledger.events("a.1")] == ["reserved", "spawned", "state"]
    assert ledger.order("a.1") == reservation("a").order
    note(ledger, "new")
    assert ledger.events_after(5)[0].kind == "new"
    ledger.close()


def test_the_events_of_a_worker_are_found_without_a_walk_through_all(ledger):
    plan = ledger._store.read(
        "EXPLAIN QUERY PLAN SELECT body FROM events WHERE worker = ? AND body IS NOT NULL"
        " ORDER BY id DESC LIMIT 1",
        ("gt-1.1",),
    )
    assert "events_of_worker" in str(plan)
    assert "TEMP B-TREE" not in str(plan)


# --- cursors -------------------------------------------------------------------------------------


def test_an_observer_is_told_what_happens_since_it_is_known_each_event_once(ledger):
    note(ledger, "before")
    ledger.cursors.register(["mine"])
    assert not ledger.cursors.is_behind("mine")
    note(ledger, "one")
    note(ledger, "two")
    assert ledger.cursors.is_behind("mine")
    assert tell(ledger, "mine", f"{identity.me()}/a") == ["one", "two"]
    assert tell(ledger, "mine", f"{identity.me()}/b") == []
    ledger.cursors.register(["mine", "other"])
    note(ledger, "three")
    assert tell(ledger, "other", f"{identity.me()}/b") == ["three"]
    (mine, other) = ledger.cursors.notes()
    assert (mine.name, mine.told, mine.waiting) == ("mine", 3, 1)
    assert (other.told, other.waiting) == (4, 0)


def test_only_one_process_tells_an_observer_until_it_leaves_or_dies(ledger):
    ledger.cursors.register(["mine"])
    note(ledger, "one")
    note(ledger, "two")
    first, second = f"{identity.me()}/a", f"{identity.me()}/b"
    step = ledger.cursors.step("mine", first)
    assert step.event is not None
    assert ledger.cursors.step("mine", second).event is None
    ledger.cursors.leave("mine", second, 99)
    ledger.cursors.leave("mine", first, step.event.id)
    assert tell(ledger, "mine", second) == ["two"]


def test_an_event_is_told_again_once_when_its_process_died_and_then_passed_over(ledger):
    ledger.cursors.register(["mine"])
    note(ledger, "deadly")
    note(ledger, "next")
    for _ in range(2):
        step = ledger.cursors.step("mine", GONE)
        assert step.event is not None
        assert step.event.kind == "deadly"
    step = ledger.cursors.step("mine", f"{identity.me()}/a")
    assert step.given_up == ("deadly",)
    assert step.event is not None
    assert step.event.kind == "next"


def test_what_is_old_is_told_to_nobody(ledger):
    ledger.cursors.register(["mine"])
    ledger.note(Event(kind="old", at=time.time() - STALE - 60))
    note(ledger, "new")
    assert tell(ledger, "mine", f"{identity.me()}/a") == ["new"]


CROWD = """
import os, sys
from pathlib import Path
from outpost_core.types import Event
from outpost_manager.ledger import Ledger
from outpost_shared import identity
import time
ledger = Ledger(Path(sys.argv[1]))
out = open(sys.argv[2], "a")
told = 0
for number in range(25):
    ledger.note(Event(kind=f"{os.getpid()}-{number}", at=time.time()))
    while (event := ledger.cursors.step("mine", f"{identity.me()}/x", told).event) is not None:
        out.write(f"{event.id}\\n")
        out.flush()
        told = event.id
"""


def test_a_crowd_of_processes_tells_each_event_once(ledger, tmp_path):
    ledger.cursors.register(["mine"])
    out = tmp_path / "told"
    children = [
        subprocess.Popen([sys.executable, "-c", CROWD, str(tmp_path / "state"), str(out)])
        for _ in range(6)
    ]
    assert [child.wait(timeout=120) for child in children] == [0] * 6
    tell(ledger, "mine", f"{identity.me()}/last")
    ids = [int(line) for line in out.read_text().split()]
    assert len(ids) == len(set(ids))
    assert ids == sorted(ids)
    assert len(ids) >= 6 * 25 - 6, "what another one was just telling is left to the next"
