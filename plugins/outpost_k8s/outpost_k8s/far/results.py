"""How a worker ended of which no supervisor has said so."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any, Final

from outpost_core import wire
from outpost_core.errors import OutpostError
from outpost_core.types import Order, Result, State
from outpost_worker.folder import files, outcome

#: Reasons of a worker that never began here.
NO_ORDER: Final = "k8s_no_order"
NOT_CLAIMED: Final = "k8s_not_claimed"
NOT_BROUGHT: Final = "k8s_rig_not_brought"
#: Reasons of one that was ended: since somebody wants that, or since its pod ends.
STOPPED: Final = "stopped"
TERMINATED: Final = "terminated"


def not_begun(reason: str, error: OutpostError) -> Result:
    """Return the result of a worker that could not begin, for one of the reasons above."""
    message = f"{error.message}; {error.hint}" if error.hint else error.message
    return Result(
        state=State.FAILED, reason=reason, message=message[: outcome.LONGEST_MESSAGE],
        agent_began=False, finished_at=time.time(),
    )  # fmt: skip


def not_wanted(why: str) -> Result:
    """Return the result of a worker that was ended before it began."""
    said: dict[str, Any] = outcome.before_it_ran(why)
    return wire.from_json(Result, {**said, "finished_at": time.time()})


def lost(why: str) -> Result:
    """Return the result of a worker of which nobody knows."""
    return Result(state=State.LOST, reason="lost_process", message=why, finished_at=time.time())


def defect(error: Exception) -> Result:
    """Return the result of a worker whose pod's program has broken."""
    message = f"{type(error).__name__}: {error}"
    return Result(state=State.FAILED, reason="internal", message=message, finished_at=time.time())


def cut_off(root: Path, order: Order) -> Result:
    """Return the result of a worker that could not end in time, with its last checkpoint."""
    from outpost_worker.work import checkpoint

    folder, kept = str(root / files.WORKERS / order.worker), None
    with contextlib.suppress(OutpostError, OSError):
        kept = checkpoint.place(files.order(folder) or {}, folder)
    return Result(
        state=State.STOPPED, reason=TERMINATED, checkpoint=kept, agent_began=True,
        message="its pod was ended before its last changes could be pushed",
        finished_at=time.time(),
    )  # fmt: skip
