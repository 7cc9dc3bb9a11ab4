"""Entries of the queue for people and for machines."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from outpost_manager.cli import render
from outpost_manager.jsonqueue import as_json
from outpost_manager.ledger.entries import waits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from outpost_manager.cli.session import Session
    from outpost_manager.ledger import Added, Entry
    from outpost_manager.orders.making import OrderRequest


def table(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield the table of entries."""
    if not entries:
        yield "the queue is empty"
        return
    now = time.time()
    yield from render.table(
        ("issue", "status", "priority", "waits", "tries", "batch", "rig", "why", "title"),
        [
            (
                entry.issue,
                entry.outcome or entry.state,
                f"P{entry.priority}",
                render.age(entry.added_at, now),
                str(entry.tries or "-"),
                entry.batch or "-",
                entry.rig.rstrip("/").rpartition("/")[2] or "-",
                waits(entry, now) or "-",
                entry.title or "-",
            )
            for entry in entries
        ],
        keep=("issue", "status", "priority"),
        colour=("status",),
        drop=("title", "rig", "batch", "tries", "waits", "why"),
    )


def entry_lines(entry: Entry, needs: Sequence[str]) -> Iterator[str]:
    """Yield all of one entry."""
    now = time.time()
    yield from render.pairs(
        [
            ("issue", render.clean(entry.issue)),
            ("title", render.clean(entry.title)),
            ("status", render.tint(entry.outcome or entry.state)),
            ("why", render.clean(waits(entry, now))),
            ("worker", render.clean(entry.worker)),
            ("priority", f"P{entry.priority}"),
            ("rig", render.clean(entry.rig)),
            ("agent", render.clean(entry.agent)),
            ("at", render.clean(entry.place or "")),
            ("batch", render.clean(entry.batch)),
            ("after", render.clean(", ".join(needs))),
            ("tries", str(entry.tries or "")),
            ("added", render.ago(entry.added_at, now)),
        ]
    )


def queue_requests(
    session: Session,
    requests: Sequence[OrderRequest],
    *,
    on: str | None = None,
    batch: str = "",
    after: Sequence[str] = (),
    not_before: float = 0.0,
    retries: int = 0,
) -> None:
    """Put requests into the queue, and say what became of them; see `Manager.enqueue_requests`."""
    added = session.anywhere(
        lambda manager: manager.enqueue_requests(
            requests, on=on, batch=batch, after=after, not_before=not_before, retries=retries
        )
    )
    _say_queued(session, added)


def _say_queued(session: Session, added: Sequence[Added]) -> None:
    """Print what was put into the queue."""
    session.answer(
        lambda: {
            "queued": [as_json(one.entry) for one in added if one.new],
            "there": [one.entry.issue for one in added if not one.new],
        },
        lambda: (
            f"{render.clean(one.entry.worker)} "
            + ("waits in the queue" if one.new else f"is in the queue already ({one.entry.state})")
            for one in added
        ),
    )
    if not session.far:  # where a server answers, a mayor runs
        session.note(
            "  → outpost serve works on the queue as slots become free; outpost queue run once"
        )
