"""Putting orders into the queue, inside a write transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, TypeAlias

from outpost_core.errors import ConflictError, UsageError
from outpost_manager.ledger import rows, values
from outpost_manager.ledger.entries import COLUMNS, ENDED, RUNNING, WAITING, QueueItem

if TYPE_CHECKING:
    import sqlite3

    from outpost_core.types import Order

#: An item with its order's digest and JSON text, made before a transaction begins.
Draft: TypeAlias = "tuple[QueueItem, str, str]"


def drafts(items: Sequence[QueueItem]) -> list[Draft]:
    """Return what `put` takes."""
    from outpost_core import wire

    return [(item, wire.digest(item.order), wire.dumps(item.order)) for item in items]


def put(db: sqlite3.Connection, draft: Draft, now: float) -> bool:
    """Write an item's row, inside a write transaction; False when it is there already.

    Raises:
        ConflictError: its issue is in the queue with another order, or that attempt has ended.
    """
    item, digest, body = draft
    order, issue = item.order, item.order.issue
    there = db.execute(
        "SELECT state, digest, worker FROM queue WHERE issue = ?", (issue.id,)
    ).fetchone()
    if there is not None and there[0] != ENDED:
        if there[1] == digest and there[2] == order.worker:
            return False
        raise ConflictError(
            f"{issue.id} is in the queue with another order ({there[2]} is {there[0]})",
            hint=f"outpost queue show {issue.id}; outpost queue remove {issue.id} takes it out",
        )
    state = _state_of(db, order, digest)
    ((seq,),) = db.execute("SELECT coalesce(max(seq), 0) + 1 FROM queue").fetchall()
    db.execute("DELETE FROM queue_after WHERE issue = ?", (issue.id,))
    db.execute(
        f"INSERT OR REPLACE INTO queue ({COLUMNS}, body)"  # noqa: S608
        f" VALUES ({','.join('?' * 28)})",
        (issue.id, seq, state, order.worker, digest, rows.text(item.kind or _kind(item)),
         item.place, "", rows.text(issue.title), issue.priority, now + issue.priority * item.aging,
         order.rig or "", rows.text(order.agent.name), rows.text(item.account),
         rows.text(item.model), rows.text(item.share), _labels(issue.labels), rows.text(item.batch),
         item.not_before, 0, 0, 0, "", now, now, "", item.retries, body),
    )  # fmt: skip
    rows.tell(db, "queued", now, order.worker, "", {"batch": item.batch} if item.batch else {})
    return True


def _state_of(db: sqlite3.Connection, order: Order, digest: str) -> str:
    """Return the state of a new entry, by the worker that may be there already."""
    found = db.execute(
        "SELECT digest, ended_at, outpost FROM workers WHERE id = ?", (order.worker,)
    ).fetchone()
    if found is None:
        return WAITING
    if found[0] != digest:
        raise ConflictError(
            f"{order.worker} exists with another order, at {values.text(found[2])}",
            hint=f"outpost show {order.worker} shows it; --again queues the next attempt",
        )
    if found[1] is None:
        return RUNNING
    if rows.load(db, order.worker).unbegun:
        return WAITING
    raise ConflictError(
        f"{order.worker} has ended", hint="--again queues the next attempt at the issue"
    )


def _kind(item: QueueItem) -> str:
    """Return what all orders have in common that are placed alike."""
    import hashlib

    order, issue, limits = item.order, item.order.issue, item.order.limits
    said = (
        item.place, order.rig, order.agent.name, order.agent.argv[:1], item.account, item.model,
        issue.priority, issue.estimate, sorted(issue.labels), issue.kind, limits.cpu, limits.memory,
        limits.timeout, limits.max_agent_cost_usd, order.resume_at, order.agent.interactive,
        sorted(order.secrets),
    )  # fmt: skip
    return hashlib.sha256(repr(said).encode("utf-8", "replace")).hexdigest()[:16]


def _labels(labels: Sequence[str]) -> str:
    import json

    return rows.text(json.dumps([*labels], ensure_ascii=False))


def _never(issue: str, needed: str) -> UsageError:
    return UsageError(
        f"{issue} is to wait for {needed[:96]!a}, which was never ordered or queued",
        hint="put it into the queue first, or with the same command",
    )


def need(
    db: sqlite3.Connection, issue: str, after: Sequence[str], together: Collection[str]
) -> None:
    """Write down what an entry waits for, as far as that is not done."""
    unmet, failed = 0, ""
    for needed in dict.fromkeys(after):
        if needed == issue:
            raise UsageError(f"{issue} cannot wait for itself")
        if not needed.isascii():  # an id is, and SQLite takes no lone surrogates
            raise _never(issue, needed)
        known = db.execute(
            "SELECT state = 'done', ended_at IS NULL, state FROM workers WHERE issue = ?"
            " AND id > ? AND id < ? ORDER BY attempt DESC LIMIT 1",
            (needed, f"{needed}.", f"{needed}/"),
        ).fetchone()
        queued = db.execute(
            "SELECT state, outcome FROM queue WHERE issue = ?", (needed,)
        ).fetchone()
        if known is None and queued is None and needed not in together:
            raise _never(issue, needed)
        waits = queued is not None and queued[0] in (WAITING, RUNNING)
        if not waits and known is not None and known[0]:
            continue
        decided = queued is None or queued[0] == ENDED
        if decided and needed not in together and not (known is not None and known[1]):
            outcome = known[2] if known is not None else queued[1]
            failed = f"after {needed}, which ended as {outcome}"
        unmet += db.execute(
            "INSERT OR IGNORE INTO queue_after VALUES (?, ?)", (issue, needed)
        ).rowcount
    if unmet:
        db.execute(
            "UPDATE queue SET waits_for = waits_for + ?, why = CASE WHEN ? THEN ? ELSE why END"
            " WHERE issue = ?",
            (unmet, bool(failed), failed, issue),
        )


def refuse_circles(db: sqlite3.Connection, issues: Collection[str]) -> None:
    """Refuse what waits for itself over others.

    Raises:
        UsageError: it does.
    """
    from graphlib import CycleError, TopologicalSorter

    graph: dict[str, list[str]] = {}
    seen, look = set[str](), [*issues]
    while look:
        issue = look.pop()
        if issue not in seen:
            seen.add(issue)
            found = db.execute("SELECT needs FROM queue_after WHERE issue = ?", (issue,))
            graph[issue] = [needed for (needed,) in found]
            look += graph[issue]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise UsageError(f"a circle of orders: {' after '.join(error.args[1])}") from None
