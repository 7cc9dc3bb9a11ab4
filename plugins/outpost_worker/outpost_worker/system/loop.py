"""One loop for everything a supervisor waits for: pipes, terminals and signals. No threads."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not `signal`: see process.py
import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ = select.POLLIN
WRITE = select.POLLOUT


class Loop:
    """Calls back when a descriptor is ready or a signal came.

    Args:
        on_signal: called with the number of each caught signal, outside of the handler.
    """

    def __init__(self, on_signal: Callable[[int], None]) -> None:
        self._poll = select.poll()
        self._calls: dict[int, Callable[[], None]] = {}
        self._on_signal = on_signal
        self._wakeup, self._wakeup_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        _signal.set_wakeup_fd(self._wakeup_end, warn_on_full_buffer=False)
        self.add(self._wakeup, READ, self._woken)

    def catch(self, number: int) -> None:
        """Hand this signal to `on_signal` from now on."""
        # Python writes its number to the wakeup descriptor only when there is a handler
        _signal.signal(number, _nothing)

    def add(self, fd: int, events: int, call: Callable[[], None]) -> None:
        """Call `call` whenever `fd` is ready for `events` (or broken), until it is removed."""
        self._calls[fd] = call
        self._poll.register(fd, events)

    def remove(self, fd: int) -> None:
        """Wait no more for `fd`; fine when nobody did. Do this before closing it."""
        if self._calls.pop(fd, None):
            self._poll.unregister(fd)

    def turn(self, timeout: float | None) -> None:
        """Wait for something to happen, at most `timeout` seconds, and handle it."""
        # rounded up, so that a deadline has passed when the wait for it returns
        wait = None if timeout is None else max(0, int(timeout * 1000) + 1)
        for fd, _ in self._poll.poll(wait):
            call = self._calls.get(fd)  # gone when an earlier call removed it
            if call:
                call()

    def _woken(self) -> None:
        for number in set(os.read(self._wakeup, 4096)):
            self._on_signal(number)


class Outlet:
    """Writes to a descriptor that may be slow, without ever waiting for it.

    Args:
        loop: where it waits for the descriptor.
        fd: a non-blocking descriptor; it is closed with the outlet.
        limit: bytes that may wait; what comes beyond is dropped.
    """

    def __init__(self, loop: Loop, fd: int, limit: int) -> None:
        self._loop = loop
        self._fd = fd
        self._limit = limit
        self._waiting = b""

    @property
    def busy(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._waiting)

    def write(self, data: bytes) -> None:
        """Write `data` now or as soon as it can be."""
        if self._fd < 0:
            return
        if self._waiting:
            self._waiting += data[: max(0, self._limit - len(self._waiting))]
            return
        rest = self._try(data)
        if rest:
            self._waiting = rest[: self._limit]
            self._loop.add(self._fd, WRITE, self._ready)

    def close(self) -> None:
        """Drop what waits and close the descriptor."""
        if self._fd >= 0:
            self._loop.remove(self._fd)
            os.close(self._fd)
        self._fd = -1
        self._waiting = b""

    def _ready(self) -> None:
        self._waiting = self._try(self._waiting)
        if self._fd >= 0 and not self._waiting:
            self._loop.remove(self._fd)

    def _try(self, data: bytes) -> bytes:
        try:
            return data[os.write(self._fd, data) :]
        except BlockingIOError:
            return data
        except OSError:  # the terminal is gone: the work continues without it
            self.close()
            return b""


def _nothing(number: int, frame: object) -> None:
    """A handler that only exists: the number arrives through the wakeup descriptor."""
