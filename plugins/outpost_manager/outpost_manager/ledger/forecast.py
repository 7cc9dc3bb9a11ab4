"""What waits in the queue, and what work like it has cost: the figures of a forecast."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from outpost_manager.ledger import values
from outpost_manager.ledger.budgets import meter
from outpost_manager.ledger.entries import LISTED
from outpost_manager.ledger.money import counted

if TYPE_CHECKING:
    from outpost_manager.ledger.budgets import Budget
    from outpost_manager.ledger.store import Store

#: Seconds of the past that averages are made of.
PAST: Final = 30 * 86_400.0
#: Seconds of the past by which it is told how quickly a budget is used, at most.
PACE: Final = 86_400.0
_COST: Final = f"avg({values.counted('cost_settled')} + {values.counted('agent_settled')})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """An order that waits, as a forecast needs it.

    Args:
        issue: its issue.
        kind: orders of the same kind are placed alike.
        place: the one outpost that it has to go to, or None.
        rig: its repository, or "".
        agent: the agent's name.
        account: whose credentials it needs, where that is written down; else "".
        labels: of the issue.
        worst: nano-dollars that its agent may spend; None when nobody knows.
    """

    issue: str
    kind: str
    place: str | None
    rig: str
    agent: str
    account: str
    labels: tuple[str, ...]
    worst: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """What work has cost on average, in nano-dollars.

    Args:
        by_both: by agent and rig.
        by_agent: by agent.
        overall: of all; None when nothing has ended yet.
    """

    by_both: dict[tuple[str, str], float]
    by_agent: dict[str, float]
    overall: float | None

    def usual(self, agent: str, rig: str) -> float | None:
        """Return what such work costs: as it did on this rig, by this agent, or at all."""
        found = self.by_both.get((agent, rig))
        if found is None:
            found = self.by_agent.get(agent)
        return self.overall if found is None else found


def waiting(store: Store) -> list[Waiting]:
    """Return what waits, in the order of its turns."""
    return [
        Waiting(
            issue=values.text(issue),
            kind=values.text(kind),
            place=None if place is None else values.text(place),
            rig=values.text(rig),
            agent=values.text(agent),
            account=values.text(account),
            labels=_words(labels),
            worst=counted(limit) if isinstance(limit, int | float) else None,
        )
        for issue, kind, place, rig, agent, account, labels, limit in store.read(
            "SELECT issue, kind, place, rig, agent, account, labels,"  # noqa: S608
            " iif(json_valid(body), json_extract(body, '$.limits.max_agent_cost_usd'), NULL)"
            f" FROM queue WHERE {LISTED} = 'waiting' ORDER BY turn, seq"
        )
    ]


def past(store: Store) -> Past:
    """Return what workers cost on average that have ended in the last `PAST` seconds."""
    both: dict[tuple[str, str], tuple[float, int]] = {}
    rows = store.read(
        f"SELECT agent, coalesce(rig, ''), {_COST}, count(*) FROM workers"  # noqa: S608
        " WHERE ended_at > ? AND agent_settled IS NOT NULL GROUP BY 1, 2",
        (time.time() - PAST,),
    )
    for agent, rig, cost, number in rows:
        both[values.text(agent), values.text(rig)] = (float(cost), int(number))
    agents: dict[str, tuple[float, int]] = {}
    for (agent, _), (cost, number) in both.items():
        total, count = agents.get(agent, (0.0, 0))
        agents[agent] = (total + cost * number, count + number)
    every = sum(number for _, number in agents.values())
    return Past(
        by_both={key: cost for key, (cost, _) in both.items()},
        by_agent={agent: total / number for agent, (total, number) in agents.items()},
        overall=sum(total for total, _ in agents.values()) / every if every else None,
    )


def pace(store: Store, budget: Budget) -> float:
    """Return nano-dollars a second that a budget's workers have cost lately."""
    length = min(PACE, budget.seconds)
    now = time.time()
    lately = meter(budget).spent(store.read, now - length)
    return lately / length


def _words(text: Any) -> tuple[str, ...]:
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return ()
    return tuple(word for word in found if isinstance(word, str)) if isinstance(found, list) else ()
