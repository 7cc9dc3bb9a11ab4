"""The view of an agent's output: what whoever looks at the supervisor's terminal sees.

Apart from `terminal`, whose imports would cost every headless worker in tmux 3 ms.
"""

from __future__ import annotations

import os

from outpost_worker.system.loop import Outlet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from outpost_worker.system.loop import Loop

#: Bytes that may wait for a slow terminal before output is dropped from view (never from the log).
WAITING = 1024 * 1024


def view(loop: Loop, fd: int) -> Outlet | None:
    """Return a way to write to the terminal under `fd` without waiting; None when it is none.

    The terminal is opened anew: non-blocking must not become a property of what others use.
    """
    try:
        own = os.open(os.ttyname(fd), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
    return Outlet(loop, own, WAITING)
