"""What an agent's log says of its outcome, its session and what it used, once it has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from outpost_agents.account import MESSAGE_LIMIT
from outpost_agents.lines import LINE_LIMIT
from outpost_agents.registry import account
from outpost_shared.plain import open_plain
from outpost_worker.agents.following import Follower

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["LINE_LIMIT", "MESSAGE_LIMIT", "read"]

_PIECE = 256 * 1024


def read(
    kind: str,
    log_path: str,
    prices: Mapping[str, Sequence[float]] | None = None,
    env: Mapping[str, str] | None = None,
    began: float = 0.0,
    most: int | None = None,
    brought: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Read what the agent said of itself.

    Args:
        kind: `Agent.output` of the order; for `plain` and unknown kinds nothing is known.
        log_path: the worker's `output.log`; a missing one says nothing.
        prices: `Agent.prices` of the order.
        env: the agent's environment.
        began: when the attempt began.
        most: bytes of the log that are read; None for all.
        brought: see `outpost_agents.registry.account`.

    Returns:
        See `outpost_agents.account.Account.answer`.
    """
    found = account(kind, prices, env, began, brought)
    follower = Follower(found)
    try:
        with open(open_plain(log_path), "rb") as log:
            while (most is None or log.tell() < most) and (data := log.read(_PIECE)):
                follower.feed(data)
            follower.close()
            found.look()
            found.end(log)
    except OSError:
        pass
    return found.answer()
