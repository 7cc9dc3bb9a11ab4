"""Telling the service manager that started this program how it does (systemd's `sd_notify`).

A datagram with `NAME=VALUE` lines to the socket that `NOTIFY_SOCKET` names; see sd_notify(3). Where
it is not set, nothing is said.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from outpost_shared.backoff import every
from outpost_shared.log import Logger

_log = Logger("serve")


class ServiceManager:
    """The program that started this one, where it wants to be told.

    Args:
        environ: what it has set: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._path = environ.get("NOTIFY_SOCKET", "")
        self.watchdog = self._every(environ)

    def _every(self, environ: Mapping[str, str]) -> float | None:
        """Return after how many seconds of silence this program is killed; None for never."""
        said, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        if not self._path or not said.isdigit() or (pid and pid != str(os.getpid())):
            return None
        return int(said) / 1_000_000 or None

    def tell(self, *lines: str) -> None:
        """Say something; nobody who cannot be told ends this program."""
        if not self._path:
            return
        path = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            try:
                to.connect(path)
                to.sendall("\n".join(lines).encode())
            except OSError as error:
                _log.warning("the service manager cannot be told %s: %s", lines[0], error)

    async def beat(self) -> None:
        """Say that the event loop turns, twice as often as is wanted; never ends."""
        if self.watchdog is None:
            return
        beats = every(self.watchdog / 2)
        while True:
            self.tell("WATCHDOG=1")
            await beats.wait()
