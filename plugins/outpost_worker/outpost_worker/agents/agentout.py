"""What an agent's log says of its outcome, its session and what it used, once it has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from outpost_worker.agents import reader
from outpost_worker.agents.following import LINE_LIMIT, Follower
from outpost_worker.agents.record import MESSAGE_LIMIT
from outpost_worker.folder import files

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
) -> dict[str, Any]:
    """Read what the agent said of itself.

    Args:
        kind: `Agent.output` of the order; for `plain` and unknown kinds nothing is known.
        log_path: the worker's `output.log`; a missing one says nothing.
        prices: `Agent.prices` of the order.
        env: the agent's environment.
        began: when the attempt began.
        most: bytes of the log that are read; None for all.

    Returns:
        See `agents.record.Reader.answer`.
    """
    found = reader(kind, prices, env, began)
    follower = Follower(found)
    try:
        with open(files.open_plain(log_path), "rb") as log:
            while (most is None or log.tell() < most) and (data := log.read(_PIECE)):
                follower.feed(data)
            follower.close()
            found.look()
            found.end(log)
    except OSError:
        pass
    return found.answer()
