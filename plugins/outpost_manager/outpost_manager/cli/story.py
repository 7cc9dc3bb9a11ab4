"""Attempts at an issue as a story: where each was, how it ended, what was decided, what comes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from outpost_manager.cli import render
from outpost_manager.cli.table import cost
from outpost_manager.jsonviews import moment

if TYPE_CHECKING:
    from outpost_core.types import Worker
    from outpost_manager.ledger import Entry
    from outpost_manager.ledger.entries import Decided

#: What a decision is called, by its `what`.
_WORDS = {
    "retry": "tried again", "park": "parked", "anew": "begins anew",
    "elsewhere": "goes on elsewhere", "end": "ended",
}  # fmt: skip


def lines(
    attempts: Sequence[Worker],
    decisions: Sequence[Decided],
    entry: Entry | None,
    accounts: Mapping[str, str],
) -> Iterator[str]:
    """Yield the story of an issue.

    Args:
        attempts: all that there were.
        decisions: what was decided after them, oldest first.
        entry: of the queue; None where the issue was never in it.
        accounts: attempt → whose credentials it used.
    """
    for worker in sorted(attempts, key=lambda one: one.attempt):
        yield "  " + _attempt(worker, accounts.get(worker.id, ""))
        result = worker.result
        if result is not None and result.message and worker.state.value != "done":
            yield f"      {render.clean(_short(result.message))}"
        for one in decisions:
            if one.worker == worker.id:
                yield f"    → {_decision(one)}"
    if entry is not None and (coming := _coming(entry)):
        yield f"  {coming}"


def as_json(decisions: Sequence[Decided]) -> list[Mapping[str, Any]]:
    """Return the decisions as `--json` shows them."""
    return [
        {
            "worker": one.worker,
            "at": moment(one.at),
            "what": one.text("what"),
            "why": one.text("why"),
            "next": one.text("next") or None,
            "account": one.text("account") or None,
        }
        for one in decisions
    ]


def _attempt(worker: Worker, account: str) -> str:
    said = f"{render.clean(worker.id)} at {render.clean(worker.outpost)}"
    if account not in ("", worker.agent):  # else it says nothing
        said += f" with account {render.clean(account)}"
    said += ": "
    said += render.tint(worker.state.value)
    result = worker.result
    if result is not None and worker.state.value != "done":
        said += f" ({render.clean(result.reason)})"
    if worker.started_at is not None and worker.finished_at is not None:
        said += f" after {render.span(max(0.0, worker.finished_at - worker.started_at))}"
    if spent := cost(worker):
        said += f", {spent}"
    if worker.finished_at is not None:
        said += f", {render.ago(worker.finished_at)}"
    return said


def _decision(one: Decided) -> str:
    what = one.text("what")
    said = _WORDS.get(what, render.clean(what))
    if what == "end":
        said += f" as {render.clean(one.text('outcome'))}"
    if until := one.data.get("until"):
        if account := one.text("account"):
            said = f"account {render.clean(account)} is {said}"
        said += f" until {_clock(until)}"
    elif what == "retry":
        said += f" from {_clock(one.data.get('at'))}"
    if following := one.text("next"):
        said += "; it goes on" if what == "park" else ""
        said += f" as {render.clean(following)}"
    if avoided := one.text("avoid"):
        said += f", not at {render.clean(avoided)}"
    if one.text("session"):
        said += ", with its session"
    why = one.text("why")
    return f"{said}: {render.clean(_short(why))}" if why else said


def _coming(entry: Entry) -> str:
    """Return what comes next, and when; "" when nothing does."""
    if entry.state == "waiting":
        said = f"next: {render.clean(entry.worker)} waits"
        if entry.not_before > time.time():
            said += f" until {_clock(entry.not_before)}"
        if entry.place:
            said += f" for {render.clean(entry.place)}"
        return f"{said}: {render.clean(_short(entry.why))}" if entry.why else said
    if entry.state == "settling":
        return "next: nobody has decided yet; outpost serve does, or outpost queue run"
    return ""


def _clock(at: object) -> str:
    """Return a moment for people; what cannot be one is shown as nothing."""
    shown = moment(at) if isinstance(at, int | float) and not isinstance(at, bool) else None
    return "?" if shown is None else shown[:16].replace("T", " ") + " UTC"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:199] + "…"
