"""What of the event log is worth telling, and in which words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from outpost_core.types import State
from outpost_manager.config.notify import About
from outpost_manager.config.patterns import fits, of_rig
from outpost_manager.jsonviews import moment
from outpost_shared.harmless import clean

if TYPE_CHECKING:
    from outpost_core.types import Event, Json, Worker
    from outpost_manager.config.notify import NotifyConfig

#: Characters of one value, and of the sentence.
_VALUE: Final = 500
#: Reasons of a failure that nothing but a person can do something about.
_PERSONS: Final = frozenset(
    {
        "not_logged_in", "permission_denied", "budget_reached", "command_not_found",
        "wrapper_not_found", "no_fence", "branch_blocked", "base_not_found", "rig_partial",
        "filter_missing", "lfs_missing", "submodule_unpushed", "push_failed", "disk_full",
        "broken",
    }
)  # fmt: skip
#: Reasons that are over by themselves: what is in the queue is parked for them.
_PASSING: Final = frozenset({"rate_limited", "overloaded"})


def about(event: Event, *, queued: bool) -> About | None:
    """Return what an event is about; None when nobody is told of it.

    Args:
        event: what happened.
        queued: its worker is an entry of the queue.
    """
    said = event.data
    if event.kind == "state":
        state, reason = said.get("state"), said.get("reason")
        if state == State.DONE:
            return About.DONE
        if state == State.IDLE:
            return About.NEEDS_YOU
        if state in (State.FAILED, State.LOST):
            if queued and reason in _PASSING:
                return None
            return About.NEEDS_YOU if reason in _PERSONS else About.FAILED
    if event.kind == "decided" and said.get("what") in ("park", "parked"):
        return About.PARKED
    if event.kind == "parked":
        return About.PARKED
    if event.kind == "budget":
        return About.BUDGET
    if event.kind == "breaker" and said.get("state") == "open":
        return About.NEEDS_YOU
    return None


def wants(target: NotifyConfig, what: About, event: Event, worker: Worker | None) -> bool:
    """Whether a target is told of that."""
    if what not in target.on:
        return False
    if target.outpost and not fits(event.outpost, target.outpost):
        return False
    rigs = [pattern for word in target.rig for pattern in of_rig(word)]
    return not rigs or fits((worker and worker.rig) or "", rigs)


def body(notice: str, what: About, event: Event, worker: Worker | None) -> dict[str, Json]:
    """Return what is told, for whichever way; nothing in it does anything to a terminal."""
    result = worker.result if worker else None
    said: dict[str, Json] = {
        "id": notice,
        "about": what.value,
        "at": moment(event.at),
        "worker": event.worker or None,
        "issue": worker.issue if worker else None,
        "title": worker.title if worker else None,
        "outpost": event.outpost or None,
        "rig": worker.rig if worker else None,
        "state": _text(event.data, "state"),
        "reason": _text(event.data, "reason"),
        "branch": result.branch if result else None,
        "pr_url": result.pr_url if result else None,
        "detail": _detail(event, worker),
    }
    said = {key: _harmless(value) for key, value in said.items()}
    return {**said, "text": sentence(said)}


def sentence(said: Mapping[str, Json]) -> str:
    """Return the one line that a person reads."""
    what = said.get("about")
    who = str(said.get("worker") or said.get("outpost") or "the mayor")
    title = f" ({said['title']})" if said.get("title") else ""
    why = f": {said['detail']}" if said.get("detail") else ""
    words = {
        About.DONE: "is done", About.FAILED: "has failed", About.NEEDS_YOU: "needs you",
        About.PARKED: "waits for its account", About.BUDGET: "a budget is nearly used up",
    }  # fmt: skip
    if what == About.BUDGET:
        return f"{words[About.BUDGET]}{why}"[:_VALUE]
    if what == About.DONE and said.get("branch"):
        why = f": {said.get('pr_url') or said['branch']}"
    return f"{who}{title} {words.get(About(str(what)), '')}{why}"[:_VALUE]


def _detail(event: Event, worker: Worker | None) -> str:
    said = event.data
    if event.kind == "budget":
        return f"{said.get('budget')}: {said.get('used_usd')} of {said.get('usd')} USD a {said.get('window')}"  # noqa: E501
    result = worker.result if worker else None
    for text in (result.message if result else "", said.get("why"), said.get("detail"),
                 said.get("reason")):  # fmt: skip
        if isinstance(text, str) and text:
            return text
    return ""


def _text(said: Mapping[str, Json], key: str) -> str | None:
    value = said.get(key)
    return value if isinstance(value, str) else None


def _harmless(value: Json) -> Json:
    if not isinstance(value, str):
        return value
    text = clean(value)
    return text if len(text) <= _VALUE else text[: _VALUE - 1] + "…"
