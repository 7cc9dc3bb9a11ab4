"""The keeper: holds one connection and lends far Pythons over it. Run as a program.

It is told what to connect to on its standard input, and says nothing: whoever borrows sees a
working line or none. It lives as long as its socket has callers or was lately called.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError
from outpost_shared import keeping
from outpost_ssh.connection.host import RemoteHost
from outpost_ssh.keeper import place
from outpost_ssh.loader import command

if TYPE_CHECKING:
    import asyncssh

    from outpost_ssh.options import SshOptions

_PIECE: Final = 1 << 18
#: Seconds between two looks whether it is still wanted.
_LOOK: Final = 1.0
#: A far Python waits so many seconds for its first word; then a new one takes its place.
_STALE: Final = 120.0


class Keeper:
    """One connection, its callers, and a far Python that waits for the next of them.

    Args:
        options: how the host is reached, and how long it is kept.
        base: the folder that relative paths are relative to.
        path: where callers find it.
        lock: what `keeping.lock` has returned for that.
    """

    def __init__(self, options: SshOptions, base: Path | None, path: Path, lock: int) -> None:
        self._options = options
        self._path = path
        self._lock = lock
        self._host = RemoteHost(options.host, options, base)
        self._spare: asyncssh.SSHClientProcess[bytes] | None = None
        self._spare_at = 0.0
        self._refill: asyncio.Task[None] | None = None
        self._callers = 0
        self._used_at = time.monotonic()
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Serve until nobody wants it any more, or the host is gone.

        Raises:
            OutpostError: there is no connection to keep.
        """
        await self._start_spare()
        listening = keeping.listen(self._path)
        server = await asyncio.start_unix_server(self._called, sock=listening, limit=_PIECE)
        mine = self._path.stat()
        try:
            while not self._over.is_set() and self._is_wanted(mine):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._over.wait(), _LOOK)
                await self._freshen()
        finally:
            if keeping.is_at(self._path, mine):
                self._path.unlink(missing_ok=True)
            server.close()
            if self._refill is not None:
                self._refill.cancel()
                await asyncio.gather(self._refill, return_exceptions=True)
            await self._host.aclose()

    def _is_wanted(self, mine: os.stat_result) -> bool:
        if self._callers:
            return True
        if not (keeping.is_at(self._path, mine) and keeping.is_held(self._path, self._lock)):
            return False
        return time.monotonic() - self._used_at < self._options.keep

    async def _start_spare(self) -> None:
        self._spare = await self._host.open(command(self._options.python))
        self._spare_at = time.monotonic()

    async def _freshen(self) -> None:
        """End with the host; replace a far Python that has waited long."""
        spare = self._spare
        if spare is not None and spare.is_closing():
            self._spare = None
            if not self._callers:
                self._over.set()
        elif spare is not None and time.monotonic() - self._spare_at > _STALE:
            self._spare = None
            spare.close()
            self._fill()

    def _fill(self) -> None:
        if self._refill is None or self._refill.done():
            self._refill = asyncio.create_task(self._filled())

    async def _filled(self) -> None:
        try:
            await self._start_spare()
        except OutpostError:
            if not self._callers:
                self._over.set()

    async def _called(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._callers += 1
        process = None
        try:
            if keeping.is_ours(writer.get_extra_info("socket")):
                process = await self._take()
                writer.write(json.dumps({"peer": self._host.peer}).encode() + b"\n")
                self._fill()
                await _carry(reader, writer, process)
        except (OutpostError, OSError):
            pass  # the caller finds the socket closed, and connects itself
        finally:
            if process is not None:
                process.close()
            writer.close()
            self._callers -= 1
            self._used_at = time.monotonic()

    async def _take(self) -> asyncssh.SSHClientProcess[bytes]:
        spare, self._spare = self._spare, None
        if spare is not None and not spare.is_closing():
            return spare
        return await self._host.open(command(self._options.python))


async def _carry(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    process: asyncssh.SSHClientProcess[bytes],
) -> None:
    """Carry bytes both ways until one side ends."""

    async def up() -> None:
        while data := await reader.read(_PIECE):
            process.stdin.write(data)
            await process.stdin.drain()

    async def down() -> None:
        while data := await process.stdout.read(_PIECE):
            writer.write(data)
            await writer.drain()

    async def aside() -> None:
        while await process.stderr.read(_PIECE):
            pass

    ways = [asyncio.create_task(up()), asyncio.create_task(down())]
    noise = asyncio.create_task(aside())
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*ways, noise):
            task.cancel()
        await asyncio.gather(*ways, noise, return_exceptions=True)


def main() -> None:
    """Keep what standard input tells, unless somebody else does."""
    said = keeping.told()
    path = place.socket_of(said)
    if path is None:
        return
    lock = keeping.lock(path)
    if lock is None:  # else it is held to the end of this program
        return
    options, base = place.understand(said)

    async def keep() -> None:
        keeper = asyncio.ensure_future(Keeper(options, base, path, lock).run())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, keeper.cancel)
        with contextlib.suppress(OutpostError, OSError, asyncio.CancelledError):
            await keeper

    asyncio.run(keep())


if __name__ == "__main__":
    main()
