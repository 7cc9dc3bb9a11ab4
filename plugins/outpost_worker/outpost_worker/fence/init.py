"""The first process of an agent's namespace: collects what ends in it, and ends with its
supervisor.

When it ends, the kernel kills everything in its namespace, and nothing in there can leave it. It
tells how the agent ended by one line: the wait status, and 1 when nothing else is left, else 0.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not `signal`: see process.py
import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn


def serve(agent: int, lifeline: int, told: int) -> NoReturn:
    """Wait until nobody is left, or the supervisor is gone.

    Args:
        agent: the agent's process, by its number in here.
        lifeline: descriptor that ends with the supervisor.
        told: where to say how the agent ended.
    """
    try:
        woken, end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        _signal.set_wakeup_fd(end, warn_on_full_buffer=False)
        # the kernel keeps from us every signal of our own namespace that has no handler
        for number in range(1, 32):
            if number not in (_signal.SIGKILL, _signal.SIGSTOP):
                _signal.signal(number, _signal.SIG_DFL)
        _signal.signal(_signal.SIGCHLD, _nothing)
        _let_go(lifeline, told, woken, end)
        poll = select.poll()
        poll.register(lifeline, select.POLLIN)
        poll.register(woken, select.POLLIN)
        status: int | None = None
        said = False
        while True:
            childless = False
            try:
                while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                    if ended[0] == agent:
                        status = ended[1]
            except ChildProcessError:
                childless = True
            if status is not None and not said:
                os.write(told, f"{status} {int(childless)}\n".encode())
                said = True
            if childless:
                break
            for fd, _ in poll.poll():
                if fd == lifeline:
                    os._exit(1)
                os.read(woken, 4096)
    finally:
        os._exit(0)


def _let_go(*keep: int) -> None:
    """Close all that was open in the supervisor: its lock above all, and the agent's output."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd not in keep:
            try:  # noqa: SIM105 - contextlib would have to be imported
                os.close(fd)
            except OSError:  # the listing's own
                pass


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler that only exists: the number arrives through the wakeup descriptor."""
