"""What comes after an attempt that has ended: decided from facts alone, so that it can be tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from outpost_core.types import Result, State
from outpost_manager.config.retries import Park as Parking
from outpost_mayor.retries.table import Rule, Where, rule_of

if TYPE_CHECKING:
    from outpost_core.types import Worker
    from outpost_manager.config.retries import RetriesConfig
    from outpost_manager.ledger import Entry


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """It is tried again.

    Args:
        at: when, in seconds since the epoch.
        avoid: the outpost that it must not go to; "" for none.
        strict: without another outpost it is not tried again.
        anew: its agent could not go on with its session, so that this is the same try.
        why: in words.
    """

    at: float
    avoid: str = ""
    strict: bool = False
    anew: bool = False
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """It goes on with its own session once its account may be used again.

    Args:
        until: when that is, as far as is known.
        why: in words.
    """

    until: float
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """It has ended for good.

    Args:
        outcome: `done`, `failed`, `stopped` or `lost`.
        why: in words.
    """

    outcome: str
    why: str = ""


Decision: TypeAlias = Retry | Pause | End


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """What was before.

    Args:
        retries: how often the order was tried again since it came into the queue.
        by_reason: reason → how often a retry or a pause was decided for it.
        attempts: how many attempts at the issue there were.
        others: another outpost is configured.
        parked_until: until when the account is parked; None when it is not.
        resumed: the attempt was to go on with the session of the one before.
    """

    retries: int = 0
    by_reason: Mapping[str, int] = field(default_factory=dict)
    attempts: int = 1
    others: bool = True
    parked_until: float | None = None
    resumed: bool = False


def decide(
    config: RetriesConfig,
    entry: Entry,
    worker: Worker,
    history: History,
    now: float,
    chance: float = 1.0,
) -> Decision:
    """Say what comes after an attempt.

    Args:
        config: the section `retries`.
        entry: of the queue.
        worker: the attempt that has ended.
        history: what was before.
        now: seconds since the epoch.
        chance: from 0 to 1, at random: how much of the back-off's jitter is waited.
    """
    result = worker.result or Result(state=State.LOST, reason="lost_process")
    reason, state = result.reason, worker.state
    rule = rule_of(reason, state)
    if state is State.DONE:
        return End(outcome="done", why=reason)
    if result.commit is not None:
        return End(outcome=state.value, why=f"{reason}; its work is on {result.branch}")

    def end(why: str) -> End:
        return End(outcome=state.value, why=f"{reason}: {why}")

    if history.attempts >= config.per_issue:
        return end(f"{history.attempts} attempts at one issue are enough (per_issue)")
    if history.resumed and reason == "agent_failed" and not result.usage.output_tokens:
        why = "its session could not be resumed, so it begins anew from its work"
        return Retry(at=now, anew=True, why=f"{reason}: {why}")
    seen = history.by_reason.get(reason, 0)
    parks = rule.park and config.park is Parking.ON
    times = _times(config, entry, reason, rule)
    if not times:
        return end(rule.why or "it is not tried again by itself")
    if seen >= times:
        return end(f"it was tried again {seen} times for this reason")
    if parks:
        until = max(history.parked_until or 0.0, now)
        return Pause(until=until, why=f"{reason}: {result.message}" if result.message else reason)
    if history.retries >= config.per_order:
        return end(f"it was tried again {history.retries} times (per_order)")
    if rule.where is Where.ELSEWHERE and (entry.place or not history.others):
        only = f"it is to go to {entry.place}" if entry.place else "there is no other outpost"
        return end(f"it would have to go elsewhere, and {only}")
    avoids = rule.where is not Where.ANY and history.others and not entry.place
    wait = min(rule.first * 2.0 ** min(seen, 30), config.longest_backoff)
    return Retry(
        at=now + wait * (1.0 + chance) / 2.0,
        avoid=worker.outpost if avoids else "",
        strict=rule.where is Where.ELSEWHERE,
        why=f"{reason}: {rule.why}",
    )


def _times(config: RetriesConfig, entry: Entry, reason: str, rule: Rule) -> int:
    """Return how often a reason is tried again: by the configuration, else as was asked for."""
    if reason in config.reasons:
        return config.reasons[reason]
    if rule.asked:
        return entry.retries
    return rule.times if config.park is Parking.ON or not rule.park else min(rule.times, 3)
