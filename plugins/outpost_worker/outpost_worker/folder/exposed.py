"""Whether an agent has ever run under a state root without a fence.

Such an agent could have written to what workers share there. So before the first one begins, a
mark is made that stays, and from then on nothing shared is believed: each worker asks the remote
itself, and proves what it starts from. Where all agents were fenced off, that is not paid for.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MARK = "rigs/exposed"


def mark(root: str) -> None:
    """Write down that an agent begins without a fence; fine when that is known."""
    path = os.path.join(root, _MARK)
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600))
    except OSError:
        pass  # something else is there, which counts, or nothing can be written here at all


def mark_after(root: str, state: dict[str, Any]) -> None:
    """Do that for a worker whose supervisor was killed, by the last that it has told.

    Args:
        root: the state root.
        state: its `state.json`; an agent without a fence may have changed that.
    """
    fence = state.get("fence")
    told = fence if isinstance(fence, str) else ""
    if told.startswith(("off", "none")) or (state.get("agent") and not told):
        mark(root)


def was(root: str) -> bool:
    """Whether one did; what else lies under that name counts as the mark."""
    return os.path.lexists(os.path.join(root, _MARK))
