"""Entries of the queue as JSON, for commands and the API: what is said of one, and what says it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from outpost_manager.jsonviews import moment

if TYPE_CHECKING:
    from outpost_manager.ledger import Entry

#: What `--json` says of an entry.
ENTRY: Final[dict[str, Any]] = {
    "issue": "its id",
    "worker": "the attempt that waits, runs, or ran last",
    "state": "waiting, running, settling or ended",
    "outcome": "done, failed, stopped, lost or removed, once it has ended; else empty",
    "why": "why it waits, or what became of it",
    "title": "of the issue",
    "priority": "0 to 4",
    "rig": "URL or path of its repository",
    "agent": "the agent's name",
    "account": "whose credentials it needs",
    "batch": "what it belongs to",
    "share": "what it counts as where the queue is shared",
    "labels": ["of the issue"],
    "place": "the one outpost that it has to go to, or null",
    "avoid": "the one that it does not go to",
    "not_before": "when it may start, or null",
    "held": "whether it was paused by hand",
    "waits_for": "how many issues have to be done first",
    "tries": "attempts that have ended",
    "retries": "how often an attempt is repeated that its agent judged itself",
    "added_at": "when it was added",
    "moved_at": "when it came into its state",
}


def as_json(entry: Entry) -> dict[str, Any]:
    """Return the shape of an entry of the queue."""
    said = {name: getattr(entry, name) for name in ENTRY}
    return said | {
        "labels": [*entry.labels],
        "not_before": moment(entry.not_before or None),
        "added_at": moment(entry.added_at),
        "moved_at": moment(entry.moved_at),
    }
