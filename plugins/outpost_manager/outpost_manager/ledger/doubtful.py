"""Rows that cannot be: read as far as they can be, and shown as bad.

An Outpost of before believed what outposts said, so that a ledger may hold a moment of the year
10^292, and files can be damaged. One such row is one bad worker with its reason; no listing may end
because of it. Whole rows never come here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from typing import Any, Final, TypeVar

from outpost_core import wire
from outpost_core.errors import UsageError
from outpost_core.types import Result, State, Usage, Worker
from outpost_manager.ledger.money import dollars
from outpost_manager.ledger.values import LONGEST, amount, moment, nano, number, oddity, text

T = TypeVar("T")

#: Reason of a worker whose row says what cannot be.
BROKEN: Final = "broken"


def parsed(kind: type[T], body: object) -> T | None:
    """Return what the JSON of a row says; None for what cannot be read."""
    try:
        return wire.from_json(kind, json.loads(body))  # type: ignore[arg-type]
    except (UsageError, TypeError, ValueError, RecursionError):
        return None


def worker(
    names: tuple[str, ...], row: tuple[Any, ...], unreachable: Mapping[str, float]
) -> Worker:
    """Build a worker from a row that says what cannot be.

    Args:
        names: the columns.
        row: their values.
        unreachable: since when each outpost that does not answer has not answered.
    """
    said = dict(zip(names, row, strict=True))
    odd: list[str] = []

    def take(name: str, fits: bool, value: T, instead: T) -> T:
        if not fits:
            odd.append(f"{name} ({text(repr(said[name]))[:40]})")
        return value if fits else instead

    def at(name: str) -> float | None:
        return take(name, moment(said[name]), number(said[name]), None)

    def usd(name: str) -> float | None:
        fits = amount(said[name])
        return take(name, fits, None if said[name] is None else dollars(nano(said[name])), None)

    def words(name: str) -> str:
        fits = isinstance(said[name], str) and len(said[name]) <= LONGEST
        return take(name, fits, text(said[name]), text(said[name]))

    ended = said["ended_at"] is not None
    state = take("state", said["state"] in _STATES, said["state"], "lost" if ended else "working")
    result = parsed(Result, said["body"]) if said["body"] else None
    if said["body"] and result is None:
        odd.append("result")
    if result is not None:
        odd += _cut(result_odd := _odd_fields(result))
        result = _without(result, result_odd)
    usage = parsed(Usage, said["usage"]) if said["usage"] else None
    if (said["usage"] and usage is None) or (usage is not None and oddity(usage)):
        odd.append("usage")
        usage = None
    built = Worker(
        id=words("id"),
        issue=words("issue"),
        attempt=take("attempt", type(said["attempt"]) is int, said["attempt"], 0),
        outpost=words("outpost"),
        digest=words("digest"),
        state=State(state),
        title=words("title"),
        priority=take("priority", said["priority"] in range(5), said["priority"], 2),
        rig=None if said["rig"] is None else words("rig"),
        agent=words("agent"),
        created_at=at("created_at") or 0.0,
        started_at=at("started_at"),
        updated_at=at("updated_at"),
        finished_at=at("finished_at") or (number(said["ended_at"]) if ended else None),
        unreachable_since=unreachable.get(text(said["outpost"])) if not ended else None,
        cost_reserved=(usd("cost_reserved") or 0.0) if not ended else 0.0,
        cost_settled=usd("cost_settled"),
        agent_reserved=usd("agent_reserved") if not ended else None,
        agent_cost=usd("agent_settled" if ended else "agent_spent"),
        usage=result.usage if result else usage,
        detail=words("detail"),
    )
    if not moment(said["ended_at"]):
        odd.append("ended_at")
    why = f"the ledger keeps what cannot be as its {', '.join(odd)}"
    if not built.state.terminal:
        return replace(built, detail=f"{BROKEN}: {why}")
    kept = result or Result(state=built.state)
    message = f"{why}; {kept.message}" if kept.message else why
    return replace(
        built,
        detail=BROKEN,
        result=replace(kept, state=built.state, reason=BROKEN, message=message),
    )


_STATES: Final = frozenset(state.value for state in State)


def _cut(names: list[str]) -> list[str]:
    return [f"result: {name}" for name in names]


def _odd_fields(result: Result) -> list[str]:
    """Return the fields of a result that no listing could show."""
    found: list[str] = []
    while name := oddity(result):
        found.append(name)
        result = _without(result, [name])
    return found


def _without(result: Result, names: list[str]) -> Result:
    """Return a result whose named fields have their default."""
    for field in fields(Result):
        if field.name in names:
            empty: Any = field.default if field.default is not MISSING else Usage()
            result = replace(result, **{field.name: empty})
    return result
