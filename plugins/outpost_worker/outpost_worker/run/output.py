"""What an agent prints, on its way from the agent to the log and to whoever watches."""

from __future__ import annotations

import os
import time

from outpost_worker.folder import files
from outpost_worker.folder.logwriter import LogWriter
from outpost_worker.system.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from outpost_worker.folder.masking import Masker
    from outpost_worker.run.terminal import Relay
    from outpost_worker.system.loop import Loop, Outlet

#: Seconds to read what is left when a process that is not ours holds the pipe open.
_DRAIN_PATIENCE = 1.0


class Output:
    """The agent's stdout and stderr: one pipe, or a terminal when it is interactive.

    Args:
        loop: where it is waited for.
        folder: the worker's folder, with the log.
        masker: takes secrets out of the log; None when there are none.
        interactive: give the agent a terminal.
        log_bytes: the log's cap.
        keep_tail: keep the end of a log that was cut, see `LogWriter`.

    Attributes:
        log: the log.
        relay: the agent's terminal, if it has one.
        end: descriptor for the agent's stdout and stderr; close it once the agent has it.
        name: what the system calls that: `pipe:[123]`, or the path of the terminal.
        last: moment (monotonic) of the last output.
        follow: is told what the agent prints, as it is logged; None for nobody.
    """

    def __init__(
        self,
        loop: Loop,
        folder: str,
        masker: Masker | None,
        *,
        interactive: bool,
        log_bytes: int,
        keep_tail: bool,
    ) -> None:
        self._loop = loop
        self._pipe = -1
        self._view: Outlet | None = None
        self.follow: Callable[[bytes], None] | None = None
        self.relay: Relay | None = None
        self.last = time.monotonic()
        self.log = LogWriter(
            os.path.join(folder, files.LOG), log_bytes, masker, keep_tail=keep_tail
        )
        if interactive:
            from outpost_worker.run.terminal import Relay

            self.relay = Relay(loop, folder, self._print)
            self.end = self.relay.slave
            self.name = self.relay.name
            return
        if os.isatty(1):
            from outpost_worker.run.view import view

            self._view = view(loop, 1)
        self._pipe, self.end = os.pipe2(os.O_CLOEXEC)
        self.name = os.readlink(f"/proc/self/fd/{self.end}")
        loop.add(self._pipe, READ, self._read)

    def drain(self) -> None:
        """Read what is left; it ends by itself once all of the agent's tree has ended."""
        end = time.monotonic() + _DRAIN_PATIENCE
        while self._pipe >= 0 or (self.relay and not self.relay.ended):
            left = end - time.monotonic()
            self._loop.turn(max(0.0, left))
            if left <= 0:
                break
        self.close()

    def close(self) -> None:
        """Finish the log and let go of everything; fine when that was done before."""
        self._close_pipe()
        if self.relay:
            self.relay.close()
        rest = self.log.close()
        if self.follow and rest:
            self.follow(rest)
        if self._view:
            self._view.write(rest)
            self._view.close()
            self._view = None

    def _read(self) -> None:
        data = os.read(self._pipe, 65536)
        if data:
            self._print(data)
        else:
            self._close_pipe()

    def _print(self, data: bytes) -> None:
        self.last = time.monotonic()
        shown = self.log.feed(data)
        if self.follow:
            self.follow(shown)
        if self._view:
            self._view.write(shown)

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            self._loop.remove(self._pipe)
            os.close(self._pipe)
            self._pipe = -1
