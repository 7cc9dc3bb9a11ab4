"""Reservations: slot and money, together, before anything is spawned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from outpost_core.types import Explanation, Json, Order, State, Worker
from outpost_manager.ledger import (
    admission,
    breakers,
    budgets,
    clock,
    machines,
    money,
    rows,
    turns,
    values,
)
from outpost_manager.ledger.accounts import Account
from outpost_manager.ledger.admission import Outcome
from outpost_manager.ledger.budgets import Budget

if TYPE_CHECKING:
    import sqlite3

    from outpost_manager.config.queue import QueueRules

_STARTING: Final = State.STARTING.value
#: Seconds after which it is told again that an outpost refused a worker for the same reason.
REFUSED_EVERY: Final = 600.0
#: What a reservation has to know: the row that is there, what the outpost's workers hold, what was
#: spent there in this hour, whether any account is parked, any breaker not closed or any outpost
#: not up, and what is up of this one costs. One statement, since all other processes wait for it.
_LOOK: Final = (
    "SELECT w.owner, w.ended_at, w.id IS NOT NULL, coalesce(h.slots, 0), coalesce(h.cost, 0),"  # noqa: S608
    f" iif(?, {rows.SETTLED_AT}, 0),"
    " EXISTS (SELECT 1 FROM parked) OR EXISTS (SELECT 1 FROM breakers WHERE state <> 'closed')"
    " OR EXISTS (SELECT 1 FROM scaling WHERE phase <> 'up'),"
    f" iif(?, {machines.COSTS}, 0)"
    " FROM (SELECT 1) LEFT JOIN workers w ON w.id = ? LEFT JOIN held h ON h.outpost = ?"
)
_INSERT: Final = (
    "INSERT INTO workers (id, issue, attempt, outpost, digest, state, title, priority, rig,"
    " agent, created_at, reserved_at, cost_reserved, agent_reserved, owner, account)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reservation:
    """A slot and money for one worker at one outpost.

    Args:
        order: what is to be done.
        outpost: where.
        digest: `wire.digest(order)`.
        max_workers: slots of that outpost; None for no limit.
        cost: USD that the outpost charges at worst.
        agent_cost: USD that the agent spends at worst; None when nobody knows, which counts as
            nothing until something is seen of it.
        cost_cap_hourly: USD that may be open or settled there in any hour; None for no cap.
        standing: USD an hour that the outpost costs without a worker, which count within the cap.
        explanation: why it goes there.
        body: `wire.dumps(order)`, when it is at hand; "" makes it.
        owner: who is spawning it, see `worker.identity`; whatever follows a `/` tells several
            spawns of one process apart.
        budgets: all that are configured; those that it counts in are held.
        accounts: of its agent, in the order of preference; none: the agent's name is the account.
        model: that its agent is told to use; "" when it is not told any.
        uncounted: why nobody knows what its agent may spend; "" when it is known.
        parking: whether parked accounts are left alone.
        if_up: whether an outpost that is down counts as up.
        entry: digest of the queue's entry that it is placed for, as that was seen: one that does
            not wait any more is not placed; "" when it is placed by hand.
        machine: USD an hour of the machine that would have to be started for it.
        rules: those of the queue, where it is placed for an entry: how many may run at once.
    """

    order: Order
    outpost: str
    digest: str
    max_workers: int | None = None
    cost: float = 0.0
    agent_cost: float | None = None
    cost_cap_hourly: float | None = None
    standing: float = 0.0
    explanation: Explanation | None = None
    body: str = ""
    owner: str = ""
    budgets: tuple[Budget, ...] = ()
    accounts: tuple[Account, ...] = ()
    model: str = ""
    uncounted: str = ""
    parking: bool = True
    if_up: bool = False
    entry: str = ""
    rules: QueueRules | None = None
    machine: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The answer to a reservation.

    Args:
        outcome: what became of it.
        worker: the worker that is in the ledger now; None when there is none.
        detail: one sentence for people when it was not reserved.
        until: when it may be reserved, as far as anybody knows now.
        account: whose credentials its agent uses, when it was reserved.
    """

    outcome: Outcome
    worker: Worker | None = None
    detail: str = ""
    until: float | None = None
    account: str = ""


class Draft:
    """A reservation, made ready before the lock of all processes is taken.

    Raises:
        UsageError: a cost is not an amount of money.
    """

    __slots__ = (
        "account", "agent", "body", "cap", "cost", "explanation", "item", "labels", "now", "plain",
        "question", "row", "standing", "told", "worker",
    )  # fmt: skip

    def __init__(self, item: Reservation) -> None:
        from outpost_core import wire

        self.item = item
        self.worker = item.order.worker
        self.cost = money.nano(item.cost, f"the cost of {self.worker} at {item.outpost}")
        self.agent = (
            None
            if item.agent_cost is None
            else money.nano(item.agent_cost, f"what the agent of {self.worker} may spend")
        )
        self.cap = (
            None
            if item.cost_cap_hourly is None
            else money.nano(item.cost_cap_hourly, f"cost_cap_hourly of {item.outpost}")
        )
        self.standing = money.nano(item.standing, f"what {item.outpost} costs by itself")
        self.body = item.body or wire.dumps(item.order)
        self.explanation = wire.dumps(item.explanation) if item.explanation else None
        self.now = now = clock.now()
        outpost, order = item.outpost, item.order
        #: what the event says, as JSON
        self.told = wire.dumps({"cost": money.dollars(self.worst)})
        #: for `_LOOK`
        capped = self.cap is not None
        self.question = (
            capped, outpost, now - money.HOUR, capped, outpost, self.worker, outpost
        )  # fmt: skip
        #: the account where there is no choice, and whether nothing has to be counted then
        self.account = item.accounts[0].name if item.accounts else rows.text(order.agent.name)
        limited = len(item.accounts) > 1 or any(one.limited for one in item.accounts)
        self.plain = not item.budgets and not limited
        self.labels = [*dict.fromkeys(map(rows.text, order.issue.labels))]
        #: for `_INSERT`, but for the account
        self.row = (
            self.worker, order.issue.id, order.attempt, outpost, item.digest, _STARTING,
            rows.text(order.issue.title), order.issue.priority, order.rig,
            rows.text(order.agent.name), now, now, self.cost, self.agent, item.owner,
        )  # fmt: skip

    def reserved(self) -> Worker:
        """Return the worker that is in the ledger once this is reserved."""
        order = self.item.order
        return Worker(
            id=self.worker,
            issue=order.issue.id,
            attempt=order.attempt,
            outpost=self.item.outpost,
            digest=self.item.digest,
            state=State.STARTING,
            title=rows.text(order.issue.title),
            priority=order.issue.priority,
            rig=order.rig,
            agent=rows.text(order.agent.name),
            created_at=self.now,
            cost_reserved=money.dollars(self.cost),
            agent_reserved=None if self.agent is None else money.dollars(self.agent),
        )

    @property
    def worst(self) -> int:
        """What machine and agent cost at worst."""
        return self.cost + (self.agent or 0)

    def wanted(self, besides: str = "") -> admission.Wanted:
        """Return what has to be admitted; see there."""
        item = self.item
        return admission.Wanted(
            worker=self.worker,
            outpost=item.outpost,
            rig=item.order.rig,
            labels=self.labels,
            model=item.model,
            worst=self.worst,
            agent=self.agent,
            uncounted=item.uncounted,
            parking=item.parking,
            accounts=item.accounts or (Account(name=self.account),),
            budgets=item.budgets,
            # not when this was drafted: others may have written since, while it waited for its turn
            now=clock.now(),
            besides=besides,
            if_up=item.if_up,
            machine=money.nano(item.machine, f"what {item.outpost} costs an hour"),
        )


def reserve(db: sqlite3.Connection, draft: Draft) -> Answer:
    """Reserve, inside a write transaction."""
    item = draft.item
    found = db.execute(_LOOK, draft.question).fetchone()
    owner, ended_at, known, slots, held, settled, blocked, machine = found
    renewing = ended_at is not None and owner == item.owner != ""
    if known and not renewing:
        return _existing(db, draft, "")
    if item.entry and (why := turns.over(db, draft.worker, item.entry, item.rules)):
        return Answer(outcome=Outcome.WITHDRAWN, detail=why)
    refusal = _refusal(draft, slots, held, settled, machine)
    if refusal:
        return _refused(db, draft, refusal)
    account = draft.account
    if blocked or not draft.plain:
        admitted = _admitted(db, draft)
        if admitted.refusal is not None:
            return _refused(db, draft, _answer(admitted.refusal))
        account = admitted.account
    if renewing:
        _replace(db, draft)
    db.execute(_INSERT, (*draft.row, account))
    _label(db, draft)
    _decided(db, "reserved", draft, draft.told)
    return Answer(outcome=Outcome.RESERVED, worker=draft.reserved(), account=account)


def foresee(ask: values.Ask, draft: Draft) -> Answer:
    """Say what would come of a reservation, slots and the outpost's cap left aside.

    Nothing is changed.
    """
    found = admission.admit(ask, draft.wanted())
    if found.refusal is None:
        return Answer(outcome=Outcome.RESERVED, account=found.account)
    return _answer(found.refusal)


def _answer(refusal: admission.Refusal) -> Answer:
    return Answer(outcome=refusal.outcome, detail=refusal.detail, until=refusal.until)


def _admitted(db: sqlite3.Connection, draft: Draft, besides: str = "") -> admission.Admission:
    """Ask whether it is admitted, and keep what follows from that."""
    wanted = draft.wanted(besides)
    found = admission.admit(values.asking(db), wanted)
    for meter, used in found.meters:
        budgets.warn(db, meter, used, wanted.now, draft.worker)
    if found.refusal is None:
        for breaker in found.probes:
            breakers.probe(db, breaker, draft.worker, wanted.now)
    return found


def _label(db: sqlite3.Connection, draft: Draft) -> None:
    """Keep the labels of its issue, by which budgets count."""
    if draft.labels:
        db.executemany(
            "INSERT OR IGNORE INTO worker_labels VALUES (?, ?)",
            [(draft.worker, label) for label in draft.labels],
        )


def _replace(db: sqlite3.Connection, draft: Draft) -> None:
    """Take the row of a try whose agent never began away; how it ended stays in the events."""
    before = rows.load(db, draft.worker)
    data: dict[str, Json] = {"state": before.state.value}
    if before.result is not None:
        data |= {"reason": before.result.reason, "message": before.result.message}
    db.execute("DELETE FROM results WHERE worker = ?", (draft.worker,))
    db.execute("DELETE FROM workers WHERE id = ?", (draft.worker,))
    rows.tell(db, "renewed", draft.now, draft.worker, before.outpost, data)


def _decided(
    db: sqlite3.Connection, kind: str, draft: Draft, data: Mapping[str, Json] | str
) -> None:
    """Write the event that keeps the order and why it goes there."""
    rows.tell(
        db,
        kind,
        draft.now,
        draft.worker,
        draft.item.outpost,
        data,
        body=draft.body,
        explanation=draft.explanation,
    )


def _refused(db: sqlite3.Connection, draft: Draft, refusal: Answer) -> Answer:
    """Write the event that an outpost had no room, once in a while for the same reason.

    What waits in the queue is tried again and again, and the log keeps every event.
    """
    reason: dict[str, Json] = {"reason": refusal.detail}
    told = db.execute(
        "SELECT at, data FROM events WHERE worker = ? AND kind = 'refused' AND outpost = ?"
        " ORDER BY id DESC LIMIT 1",
        (draft.worker, draft.item.outpost),
    ).fetchone()
    again = told is not None and values.data(told[1]) == reason
    if not again or not 0 <= draft.now - (values.number(told[0]) or 0.0) < REFUSED_EVERY:
        rows.tell(db, "refused", draft.now, draft.worker, draft.item.outpost, reason)
    return refusal


def _existing(db: sqlite3.Connection, draft: Draft, detail: str) -> Answer:
    worker = rows.load(db, draft.worker)
    if worker.digest == draft.item.digest:
        return Answer(outcome=Outcome.EXISTS, worker=worker, detail=detail)
    return Answer(
        outcome=Outcome.CONFLICT,
        worker=worker,
        detail=f"{worker.id} exists already at {worker.outpost}, with another order",
    )


def _refusal(draft: Draft, taken: int, held: int, settled: int, machine: int) -> Answer | None:
    """Say why there is no room; None when there is.

    Args:
        draft: what is wanted.
        taken: slots of the outpost that others hold.
        held: nano-dollars that others hold there.
        settled: nano-dollars that were spent there in this hour.
        machine: nano-dollars an hour of what is up there; what costs by itself may be part of it.
    """
    item = draft.item
    if item.max_workers is not None and taken >= item.max_workers:
        return Answer(
            outcome=Outcome.FULL,
            detail=f"{taken} of {item.max_workers} slots of {item.outpost} are taken",
        )
    used = held + settled + max(draft.standing, machine)
    if draft.cap is None or used + draft.worst <= draft.cap:
        return None
    return Answer(
        outcome=Outcome.CAPPED,
        detail=f"{money.show(used)} of {money.show(draft.cap)} are reserved or spent at"
        f" {item.outpost} in this hour, and this may cost {money.show(draft.worst)}",
    )


def move(db: sqlite3.Connection, draft: Draft) -> Answer:
    """Reserve at another outpost, inside a write transaction; a refusal changes nothing."""
    to = draft.item
    found = db.execute(
        "SELECT digest, spawned_at, ended_at, outpost, owner, cost_reserved"
        " + max(coalesce(agent_reserved, 0), coalesce(agent_spent, 0)) FROM workers"
        " WHERE id = ?",
        (draft.worker,),
    ).fetchone()
    if found is None or found[0] != to.digest:
        return reserve(db, draft)
    _, spawned_at, ended_at, outpost, owner, reserved = found
    if spawned_at is not None or ended_at is not None:
        return _existing(db, draft, f"{draft.worker} is already at {outpost}")
    if owner != to.owner:
        return _existing(db, draft, f"{draft.worker} is being placed by another process")
    *_, taken, held, settled, blocked, machine = db.execute(_LOOK, draft.question).fetchone()
    if outpost == to.outpost:  # what it holds there itself is in no one's way
        taken, held = taken - 1, held - reserved
    refusal = _refusal(draft, taken, held, settled, machine)
    if refusal:
        return _refused(db, draft, refusal)
    account = draft.account
    if blocked or not draft.plain:
        admitted = _admitted(db, draft, besides=draft.worker)
        if admitted.refusal is not None:
            return _refused(db, draft, _answer(admitted.refusal))
        account = admitted.account
    db.execute(
        "UPDATE workers SET outpost = ?, cost_reserved = ?, agent_reserved = ?, reserved_at = ?,"
        " account = ? WHERE id = ?",
        (to.outpost, draft.cost, draft.agent, draft.now, account, draft.worker),
    )
    _decided(db, "moved", draft, {"from": outpost, "cost": money.dollars(draft.worst)})
    return Answer(outcome=Outcome.RESERVED, worker=rows.load(db, draft.worker), account=account)
