"""What an order's agent may spend at most, and at which prices its tokens are counted.

A cost cap is kept by reserving the worst case before a worker is spawned, so a capped outpost
takes only orders whose worst case is known:

- an agent preset needs a limit (`Limits.max_agent_cost_usd`). The agent's own budget flag keeps
  it, or its supervisor, which counts the agent's output and ends it;
- what a command after `--`, or an agent on a terminal, spends is seen by nobody. Its limit is the
  user's word, and counts in full; 0 says that it spends nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from outpost_agents.registry import PLAIN, reader_class
from outpost_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outpost_core.types import Order, Price

#: USD: an agent whose spending is counted cannot work with less, nor be ended in time.
LEAST: Final = 0.000_001
#: USD of one order: more is a mistake.
MOST: Final = 1_000_000.0


def counted(output: str) -> bool:
    """Whether what an agent spends can be counted from its output (`Agent.output`)."""
    return output not in ("", PLAIN)


def prices(output: str, configured: Mapping[str, Price]) -> dict[str, Price]:
    """Return the prices by which an agent's tokens are counted; none where it tells money.

    Args:
        output: `Agent.output`.
        configured: the section `prices` of the configuration. A beginning of a model's name that
            is there replaces all in the reader's table that begin so.

    Raises:
        PluginError: the reader of that output cannot be used.
    """
    table = reader_class(output).prices()
    if table is None:
        return {}
    known = {
        name: price
        for name, price in table.items()
        if not any(name.startswith(mine) for mine in configured)
    }
    return {**known, **configured}


def check_limit(limit: float | None, output: str) -> None:
    """Refuse a limit that could not be kept.

    Args:
        limit: USD; None for none.
        output: `Agent.output`.

    Raises:
        UsageError: it is no amount, or nothing for an agent whose spending is counted.
    """
    if limit is None:
        return
    if not 0 <= limit <= MOST:
        raise UsageError(f"max_agent_cost is {limit}; it must be USD from 0 to {MOST:,.0f}")
    if limit < LEAST and counted(output):
        raise UsageError(
            f"max_agent_cost is {limit:g}, and an agent whose spending is counted cannot work with"
            " that",
            hint="say what it may spend at most: --max-agent-cost 0.50; of a model that costs"
            " nothing, set the price to 0 in prices of outposts.yaml",
        )


def worst_case(order: Order) -> float | None:
    """Return the USD that an order's agent may spend at most; None when nobody knows."""
    return order.limits.max_agent_cost_usd


def uncounted(order: Order) -> str:
    """Return why no cost cap can be kept for an order, with the way out; "" when one can."""
    if worst_case(order) is not None:
        return ""
    agent = order.agent
    if counted(agent.output):
        return (
            f"{agent.name} may spend without a limit; set one with --max-agent-cost USD, or"
            " max_agent_cost_usd in defaults"
        )
    who = "this command" if agent.name == "command" else agent.name
    who += " on a terminal" if agent.interactive else ""
    return (
        f"nobody can see what {who} spends; say what it may be at most with --max-agent-cost USD"
        " (0: nothing), which then counts in full"
    )
