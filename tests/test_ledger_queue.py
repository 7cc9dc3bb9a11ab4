"""The queue of the ledger: who is next, what moves an entry on, and what a crowd cannot break."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from outpost_core import wire
from outpost_core.errors import ConflictError, NotFoundError, UsageError
from outpost_core.types import Agent, Issue, Order, Result, Secrets, State, WorkerStatus
from outpost_manager.config.queue import QueueRules
from outpost_manager.ledger import Ledger, Outcome, QueueItem, Reservation
from outpost_manager.ledger.endings import Ending

RULES = QueueRules()


def order(issue: str, priority: int = 2, attempt: int = 1, **more: object) -> Order:
    return Order(
        issue=Issue(id=issue, priority=priority),
        agent=Agent(argv=("true",)),
        attempt=attempt,
        **more,  # type: ignore[arg-type]
    )


def put(ledger: Ledger, issue: str, priority: int = 2, **more: object) -> None:
    ledger.queue.add([QueueItem(order=order(issue, priority), **more)])  # type: ignore[arg-type]


def reserve(ledger: Ledger, what: Order, outpost: str = "local") -> Outcome:
    item = Reservation(order=what, outpost=outpost, digest=wire.digest(what))
    return ledger.reserve([item])[0].outcome


def ended(ledger: Ledger, what: Order, state: State, outpost: str = "local") -> None:
    result = Result(state=state, reason="ok" if state is State.DONE else "timeout")
    status = WorkerStatus(id=what.worker, state=state, digest=wire.digest(what), result=result)
    ledger.record(outpost, [status])


def order_of(
    ledger: Ledger, limit: int = 99, now: float | None = None, **more: object
) -> list[str]:
    found = ledger.queue.next(RULES, time.time() if now is None else now, limit, **more)  # type: ignore[arg-type]
    return [entry.issue for entry in found]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def test_the_highest_priority_first_then_the_oldest(ledger: Ledger) -> None:
    for issue, priority in (("a", 2), ("b", 0), ("c", 4), ("d", 2), ("e", 0)):
        put(ledger, issue, priority)
    assert order_of(ledger) == ["b", "e", "a", "d", "c"]
    assert order_of(ledger, 2) == ["b", "e"]


def test_whoever_waits_for_long_enough_goes_before_what_came_later(ledger: Ledger) -> None:
    put(ledger, "low", 4, aging=100.0)
    put(ledger, "high", 0, aging=100.0)
    with ledger._store.write() as db:  # the one has waited for longer than four steps
        db.execute("UPDATE queue SET turn = turn - 401 WHERE issue = 'low'")
    assert order_of(ledger) == ["low", "high"]


def test_shares_take_turns_within_a_priority(ledger: Ledger) -> None:
    for number in range(6):
        put(ledger, f"a{number}", share="a")
    for number in range(3):
        put(ledger, f"b{number}", share="b")
    put(ledger, "urgent", 0, share="a")
    assert order_of(ledger, 7) == ["urgent", "b0", "a0", "b1", "a1", "b2", "a2"]
    rules = QueueRules(weights={"a": 2.0})
    names = [entry.share for entry in ledger.queue.next(rules, time.time(), 7)]
    assert names.count("a") == 5  # the urgent one, and two of three


def test_limits_of_rigs_and_accounts_count_what_runs(ledger: Ledger) -> None:
    for number in range(3):
        what = order(f"r{number}", context={"n": number})
        ledger.queue.add([QueueItem(order=what, account="team")])
    rules = QueueRules(per_account={"team": 2})
    assert [e.issue for e in ledger.queue.next(rules, time.time(), 9)] == ["r0", "r1"]
    first = order("r0", context={"n": 0})
    assert reserve(ledger, first) is Outcome.RESERVED
    assert [e.issue for e in ledger.queue.next(rules, time.time(), 9)] == ["r1"]


def test_a_worker_moves_its_entry_on_whoever_writes_it(ledger: Ledger) -> None:
    put(ledger, "a")
    assert ledger.queue.counts() == {"waiting": 1}
    what = order("a")
    reserve(ledger, what)
    assert ledger.queue.counts() == {"running": 1}
    assert ledger.queue.add([QueueItem(order=what)])[0].new is False
    ended(ledger, what, State.FAILED)
    (entry,) = ledger.queue.settling()
    again = order("a", attempt=2)
    assert ledger.queue.again(entry, again, not_before=time.time() + 60, told=("decided", {}))
    assert not ledger.queue.again(entry, again), "a second caller changes nothing"
    assert not ledger.queue.end(entry, "failed")
    assert order_of(ledger) == []
    assert order_of(ledger, now=time.time() + 61) == ["a"]
    assert ledger.queue.next_moment(time.time()) is not None
    reserve(ledger, again)
    ended(ledger, again, State.DONE)
    (entry,) = ledger.queue.settling()
    assert entry.worker == "a.2"
    assert ledger.queue.end(entry, "done")
    found = ledger.queue.entry("a")
    assert found is not None
    assert (found.state, found.outcome, found.tries) == ("ended", "done", 2)


def test_a_reservation_that_is_given_back_waits_again(ledger: Ledger) -> None:
    put(ledger, "a")
    what = order("a")
    item = Reservation(order=what, outpost="local", digest=wire.digest(what), owner="me/1")
    ledger.reserve([item])
    assert ledger.queue.counts() == {"running": 1}
    assert ledger.release(what.worker, "me/1")
    assert order_of(ledger) == ["a"]


def test_what_waits_for_others_goes_when_they_are_done(ledger: Ledger) -> None:
    ledger.queue.add(
        [QueueItem(order=order("b"), after=("a", "c")), QueueItem(order=order("a")),
         QueueItem(order=order("c"))]
    )  # fmt: skip
    assert order_of(ledger) == ["a", "c"]
    for issue in ("a", "c"):
        reserve(ledger, order(issue))
    ended(ledger, order("a"), State.DONE)
    ended(ledger, order("c"), State.FAILED)
    assert order_of(ledger) == []
    assert ledger.queue.needs("b") == ["c"]
    reserve(ledger, order("by-hand"))
    ended(ledger, order("by-hand"), State.FAILED)
    put(ledger, "too-late", after=("by-hand",))
    told = {entry.issue: entry.why for entry in ledger.queue.entries(states=("waiting",))}
    assert told["too-late"] == "after by-hand, which ended as failed"
    reserve(ledger, order("c", attempt=2))  # by hand
    ended(ledger, order("c", attempt=2), State.DONE)
    assert order_of(ledger) == ["b"]
    put(ledger, "late", after=("a",))
    assert "late" in order_of(ledger), "that is done already"


def test_what_cannot_be_waited_for_is_refused_and_nothing_is_kept(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="never ordered"):
        put(ledger, "a", after=("nobody",))
    with pytest.raises(UsageError, match="itself"):
        put(ledger, "a", after=("a",))
    with pytest.raises(UsageError, match="circle"):
        ledger.queue.add(
            [QueueItem(order=order("a"), after=("b",)), QueueItem(order=order("b"), after=("a",))]
        )
    assert ledger.queue.counts() == {}
    assert ledger.events() == []


def test_another_order_or_an_attempt_that_has_ended_is_a_conflict(ledger: Ledger) -> None:
    put(ledger, "a")
    with pytest.raises(ConflictError, match="another order"):
        ledger.queue.add([QueueItem(order=order("a", 0))])
    reserve(ledger, order("b"))
    put(ledger, "b")
    assert ledger.queue.counts() == {"waiting": 1, "running": 1}
    ended(ledger, order("b"), State.DONE)
    (entry,) = ledger.queue.settling()
    ledger.queue.end(entry, "done")
    with pytest.raises(ConflictError, match="has ended"):
        put(ledger, "b")
    ledger.queue.add([QueueItem(order=order("b", attempt=2))])
    assert order_of(ledger) == ["a", "b"]


def test_by_hand(ledger: Ledger) -> None:
    for issue in ("a", "b", "c"):
        put(ledger, issue)
    ledger.queue.move("c", 0)
    ledger.queue.hold(["a"])
    assert order_of(ledger) == ["c", "b"]
    moved = ledger.queue.order("c")
    assert moved is not None
    assert moved.issue.priority == 0
    ledger.queue.hold(["a"], False)
    (gone,) = ledger.queue.remove(["b"])
    assert gone.outcome == "removed"
    assert order_of(ledger) == ["c", "a"]
    for call in (
        lambda: ledger.queue.move("x", 0),
        lambda: ledger.queue.hold(["a", "x"]),
        lambda: ledger.queue.remove(["a", "x"]),
    ):
        with pytest.raises(NotFoundError):
            call()
    assert order_of(ledger) == ["c", "a"], "all or nothing"
    with pytest.raises(UsageError):
        ledger.queue.move("a", 7)
    reserve(ledger, moved)
    with pytest.raises(ConflictError, match="running"):
        ledger.queue.remove(["c"])
    ledger.queue.set_switch("queue", "paused")
    assert ledger.queue.switch("queue") == "paused"
    ledger.queue.set_switch("queue", "")
    assert ledger.queue.switch("queue") == ""


def test_kinds_that_find_no_room_hold_up_nobody_else(ledger: Ledger) -> None:
    for number in range(100):
        put(ledger, f"a{number}", 0, place="vm1")
    put(ledger, "b", 4)
    kind = ledger.queue.next(RULES, time.time())[0].kind
    assert order_of(ledger, skip=[kind]) == ["b"]


def test_no_secret_is_kept(ledger: Ledger, tmp_path: Path) -> None:
    what = order("a", secrets=Secrets({"KEY": "swordfish-4711"}))
    ledger.queue.add([QueueItem(order=what)])
    ledger.close()
    assert not any(
        b"swordfish" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    )
    found = Ledger(tmp_path).queue.order("a")
    assert found is not None
    assert [*found.secrets] == ["KEY"]


def _take(folder: str, queue: multiprocessing.Queue[str]) -> None:
    ledger = Ledger(Path(folder))
    while found := ledger.queue.next(RULES, time.time(), 5):
        for entry in found:
            what = ledger.queue.order(entry.issue)
            assert what is not None
            if reserve(ledger, what) is Outcome.RESERVED:
                queue.put(what.worker)
    queue.put("")


def test_a_crowd_takes_each_entry_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.queue.add([QueueItem(order=order(f"i{number}")) for number in range(60)])
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[str] = context.Queue()
    crowd = [context.Process(target=_take, args=(str(tmp_path), results)) for _ in range(4)]
    for process in crowd:
        process.start()
    taken, finished = [], 0
    while finished < len(crowd):
        worker = results.get(timeout=120)
        finished += worker == ""
        taken += [worker] if worker else []
    for process in crowd:
        process.join()
    assert sorted(taken) == sorted(f"i{number}.1" for number in range(60))
    assert ledger.queue.counts() == {"running": 60}


def test_many_ends_are_one_write_and_each_is_decided_once(ledger: Ledger) -> None:
    for issue in ("a", "b", "c"):
        put(ledger, issue, batch="night" if issue == "a" else "")
        reserve(ledger, order(issue))
        ended(ledger, order(issue), State.DONE)
    endings = [
        Ending(entry=entry, outcome="done", told=("decided", {"what": "end"}))
        for entry in ledger.queue.settling()
    ]
    assert not ledger.queue.ready()
    assert ledger.queue.end_all(endings[:2]) == 2
    assert ledger.queue.end_all(endings) == 1
    assert ledger.queue.end_all(endings) == 0
    assert ledger.queue.counts() == {"ended": 3}
    assert ledger.queue.counts("night") == {"ended": 1}
    page, more = ledger.queue.page(states=("ended",), limit=2)
    assert ([entry.issue for entry in page], more) == (["a", "b"], 1)
    page, more = ledger.queue.page(states=("ended",), limit=2, after="b")
    assert ([entry.issue for entry in page], more) == (["c"], 0)
    assert sum(event.kind == "decided" for event in ledger.events()) == 3


def test_why_others_wait_is_said_of_those_alone_whose_turn_could_be(ledger: Ledger) -> None:
    put(ledger, "a", kind="one")
    put(ledger, "b", kind="two")
    put(ledger, "c", kind="two", not_before=time.time() + 3600)
    put(ledger, "d", kind="two")
    ledger.queue.hold(["d"])
    ledger.queue.explain({"one": "no room"}, "every slot is taken", time.time())
    said = {entry.issue: entry.why for entry in ledger.queue.entries()}
    assert said == {"a": "no room", "b": "every slot is taken", "c": "", "d": ""}
    newest = ledger.queue.newest()
    put(ledger, "e", kind="one")
    ledger.queue.explain({"one": "still none"}, "all are", time.time(), newest)
    said = {entry.issue: entry.why for entry in ledger.queue.entries()}
    assert said == {
        "a": "no room", "b": "every slot is taken", "c": "", "d": "", "e": "still none"
    }  # fmt: skip


def steps(ledger: Ledger, do: Callable[[], object]) -> int:
    """Return how many hundred steps SQLite goes for something."""
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 1
        return 0

    ledger._store._db.set_progress_handler(count, 100)
    do()
    ledger._store._db.set_progress_handler(None, 100)
    return counted


def test_what_moves_an_entry_costs_no_more_when_thousands_wait(ledger: Ledger) -> None:
    costs = []
    for more in (0, 3000):
        items = [QueueItem(order=order(f"m{number}"), share="x") for number in range(more)]
        ledger.queue.add(items)
        issue = f"first{more}"
        put(ledger, issue, 0)
        what = order(issue, 0)
        item = Reservation(
            order=what, outpost="local", digest=wire.digest(what), entry=wire.digest(what),
            rules=QueueRules(per_rig={"": 5}, per_account={"": 5}),
        )  # fmt: skip
        costs.append([
            steps(ledger, lambda: order_of(ledger, 1)),
            steps(ledger, lambda item=item: ledger.reserve([item])),  # type: ignore[misc]
            steps(ledger, lambda what=what: ended(ledger, what, State.DONE)),  # type: ignore[misc]
            steps(ledger, lambda: ledger.queue.settling(9)),
            steps(ledger, lambda: ledger.queue.entries(limit=5)),
            steps(ledger, ledger.queue.ready),
            steps(ledger, lambda: ledger.queue.next_moment(time.time())),
            steps(ledger, lambda: ledger.queue.explain({"k": "x"}, "y", 0, ledger.queue.newest())),
        ])  # fmt: skip
        assert ledger.queue.entry(issue).state == "settling"  # type: ignore[union-attr]
    few, many = costs
    assert all(late <= early + 10 for early, late in zip(few, many, strict=True)), (few, many)
