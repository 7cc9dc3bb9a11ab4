"""What was spent: totals by day, outpost, agent or rig, of workers whose files were cleaned too."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from outpost_manager.ledger import values
from outpost_manager.ledger.money import dollars
from outpost_shared import plausible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outpost_manager.ledger.store import Store

#: What totals are made by.
BY: Final = ("day", "outpost", "agent", "rig")


@dataclass(kw_only=True, slots=True)
class Total:
    """What some workers cost.

    Args:
        key: the day (`2026-01-31`, by this machine's clock and time zone), or the name of outpost,
            agent or rig; "" for workers without a rig.
        workers: how many.
        running: how many of them have not ended; what they spent so far is in the sums.
        unknown: how many of those that ended have an agent of which nobody knows what it spent.
        machine: USD that outposts charged.
        agent: USD that agents spent.
        estimated: a part of `agent` was estimated, or is the worst case of an agent that said
            nothing.
        input_tokens: everything that went into models.
        cached_tokens: the part of it that came from a cache.
        output_tokens: everything that came out.
    """

    key: str
    workers: int = 0
    running: int = 0
    unknown: int = 0
    machine: float = 0.0
    agent: float = 0.0
    estimated: bool = False
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    @property
    def total(self) -> float:
        """USD of outposts and agents."""
        return self.machine + self.agent


def summed(totals: Sequence[Total]) -> Total:
    """Return what all of some totals come to."""
    whole = Total(key="total")
    for one in totals:
        for name in Total.__slots__:
            if name != "key":
                setattr(whole, name, getattr(whole, name) + getattr(one, name))
    whole.estimated = bool(whole.estimated)
    return whole


def totals(store: Store, by: str, since: float) -> list[Total]:
    """Add up what workers cost that have ended since a moment, and those that run.

    Args:
        store: the ledger's file.
        by: one of `BY`.
        since: seconds since the epoch.

    Returns:
        one total for each day, outpost, agent or rig, the newest day or the dearest first.
    """
    rows = store.read(
        "SELECT w.outpost, w.agent, w.rig, w.ended_at, w.cost_settled,"
        " iif(w.ended_at IS NULL, w.agent_spent, w.agent_settled), coalesce(r.body, w.usage)"
        " FROM workers w LEFT JOIN results r ON r.worker = w.id"
        " WHERE w.ended_at IS NULL OR w.ended_at >= ?",
        (since,),
    )
    now = time.time()
    found: dict[str, Total] = {}
    # sums of whole nano-dollars are exact
    nano: dict[str, list[int]] = {}
    for outpost, agent, rig, ended_at, charged, spent, body in rows:
        day = _day(now if ended_at is None else ended_at) if by == "day" else ""
        key = values.text({"day": day, "outpost": outpost, "agent": agent, "rig": rig or ""}[by])
        total = found.setdefault(key, Total(key=key))
        sums = nano.setdefault(key, [0, 0])
        sums[0] += values.nano(charged)
        sums[1] += values.nano(spent)
        usage = _usage(body, ended=ended_at is not None)
        total.workers += 1
        total.running += ended_at is None
        total.unknown += ended_at is not None and spent is None
        total.estimated |= bool(spent) and _estimated(usage)
        total.input_tokens += _tokens(usage.get("input_tokens"))
        total.cached_tokens += _tokens(usage.get("cached_tokens"))
        total.output_tokens += _tokens(usage.get("output_tokens"))
    for key, (charged, spent) in nano.items():
        found[key].machine, found[key].agent = dollars(charged), dollars(spent)
    if by == "day":
        return sorted(found.values(), key=lambda total: total.key, reverse=True)
    return sorted(found.values(), key=lambda total: (-total.total, total.key))


def _day(at: object) -> str:
    """Return a day by this machine's clock; "" for a moment that cannot be."""
    moment = values.number(at)
    return "" if moment is None else time.strftime("%Y-%m-%d", time.localtime(moment))


def _tokens(value: object) -> int:
    return value if type(value) is int and plausible.amount(value) else 0


def _usage(body: str | None, *, ended: bool) -> dict[str, Any]:
    """Return a usage out of a result, or as it was last seen; {} for none."""
    if body is None:
        return {}
    read = values.data(body)
    usage = (read.get("usage") or {}) if ended else read
    return usage if isinstance(usage, dict) else {}


def _estimated(usage: dict[str, Any]) -> bool:
    told = usage.get("cost_usd") is not None
    return not told or bool(usage.get("estimated")) or bool(usage.get("partial"))
