"""`outpost attach` at an SSH outpost: a second session of the same connection, with a terminal."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, cast

from outpost_exec import attach as far_terminal
from outpost_exec.attach.terminal import Size, Terminal
from outpost_shared.viewer import check_terminal

if TYPE_CHECKING:
    import asyncssh

    from outpost_shared.protocol import ByteReader, ByteWriter


class OpensTerminals(Protocol):
    """What an attach needs of a host: a session of its connection with a terminal."""

    async def open(
        self,
        command: str,
        *,
        term: tuple[str, int, int] | None = None,
        modes: Mapping[int, int] = {},
    ) -> asyncssh.SSHClientProcess[bytes]:
        """Start a command on a new terminal of that type, columns and rows."""


class NamesViewers(Protocol):
    """What an attach needs of an SSH outpost."""

    name: str

    async def viewer(self, worker: str) -> list[str]:
        """Ask the far server which program shows the worker."""


class _Session:
    """A session of SSH as a far terminal."""

    def __init__(self, process: asyncssh.SSHClientProcess[bytes]) -> None:
        self._process = process
        self.stdin = cast("ByteWriter", process.stdin)
        self.stdout = cast("ByteReader", process.stdout)

    def resized(self, size: Size) -> None:
        """Tell sshd; it tells the program."""
        with contextlib.suppress(OSError):  # the channel is closing
            self._process.change_terminal_size(*size)

    async def ended(self) -> int | None:
        """Return the exit code; of a signal as a shell would."""
        await self._process.wait_closed()
        code = self._process.returncode
        return 128 - code if code is not None and code < 0 else code


async def attach(
    worker: str, place: NamesViewers, host: OpensTerminals, *, command: str, timeout: float
) -> int:
    """Give this program's terminal to a worker until the user detaches, or it ends.

    Args:
        worker: its id.
        place: the outpost; its far server names the viewer.
        host: the host, over whose connection it is shown.
        command: starts a far Python that runs the source on the first line of its input.
        timeout: seconds that the viewer may take to start.

    Returns:
        the exit code of the viewer.

    Raises:
        UsageError: there is no terminal, or the worker has ended.
        NotFoundError, UnsupportedError: nothing can be shown of it.
        UnreachableError: the connection broke; the terminal is as it was; the worker keeps running.
        OutpostError: the viewer did not start.
    """
    import asyncssh

    check_terminal(worker)
    argv = await place.viewer(worker)
    near = Terminal()
    columns, rows, *_ = near.size()
    kind = os.environ.get("TERM") or "dumb"
    process = await host.open(command, term=(kind, columns, rows), modes=near.modes())
    try:
        process.stdin.write(far_terminal.source().encode() + b"\n")
        return await far_terminal.show(
            worker, place.name, _Session(process), near, argv, timeout=timeout,
            broken=(asyncssh.Error,),
        )  # fmt: skip
    finally:
        process.close()
