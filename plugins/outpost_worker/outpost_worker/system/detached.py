"""Processes that outlive their starter: in a session of their own, with nothing of ours open.

They are direct children of whoever starts them (no helper process, no thread, no descriptor held
per child), so a program that lives long reaps them: `Detached.reap` is called whenever the
outpost is asked something. When the starter ends first, they go to the system's init.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping, Sequence

_DEFAULT_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM, signal.SIGXFSZ)


class Detached:
    """Starts detached processes and collects those that have ended."""

    def __init__(self) -> None:
        self._children: set[int] = set()
        self._lock = threading.Lock()

    def start(self, argv: Sequence[str], env: Mapping[str, str]) -> int:
        """Start `argv` in its own session, with stdin, stdout and stderr on /dev/null.

        Args:
            argv: program, looked for on our PATH, and arguments; no shell is involved.
            env: its whole environment.

        Returns:
            Its process id.

        Raises:
            OSError: it cannot be started.
        """
        self.reap()
        pid = os.posix_spawnp(
            argv[0],
            tuple(argv),
            env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                *((os.POSIX_SPAWN_CLOSE, fd) for fd in _inherited()),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULT_SIGNALS,
        )
        with self._lock:
            self._children.add(pid)
        return pid

    def reap(self) -> None:
        """Collect the children that have ended, so that none stays a zombie."""
        with self._lock:
            for pid in tuple(self._children):
                try:
                    ended, _ = os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    ended = pid
                if ended:
                    self._children.discard(pid)


def _inherited() -> list[int]:
    """Return the descriptors that a new program would get from us, such as a caller's lock."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if fd > 2 and os.get_inheritable(fd):
                found.append(fd)
        except OSError:  # the listing's own, or closed meanwhile
            continue
    return found
