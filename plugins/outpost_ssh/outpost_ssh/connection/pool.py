"""The lines of one event loop: shared by target, and bounded together.

Imports nothing heavy, so that an outpost can be built without it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from outpost_ssh.connection.clientconfig import Target
    from outpost_ssh.connection.hostconnection import Line


class Hub:
    """All lines of one event loop."""

    def __init__(self) -> None:
        from outpost_ssh.connection.login import Gates

        self.gates = Gates()
        self._lines: dict[Target, Line] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def hold(self, target: Target) -> Line:
        """Return the line to a target, to be given back by `release`."""
        from outpost_ssh.connection.hostconnection import Line

        line = self._lines.get(target)
        if line is None:
            line = self._lines[target] = Line(target, self)
        line.users += 1
        return line

    async def release(self, line: Line) -> None:
        """Give a line back; the last one who does ends its connection."""
        line.users -= 1
        if line.users == 0:
            if self._lines.get(line.target) is line:
                del self._lines[line.target]
            await line.aclose()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something in the background, and keep hold of it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


_hubs: dict[asyncio.AbstractEventLoop, Hub] = {}


def hub() -> Hub:
    """Return the hub of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _hubs:
        for other in [other for other in _hubs if other.is_closed()]:
            del _hubs[other]
        _hubs[loop] = Hub()
    return _hubs[loop]
