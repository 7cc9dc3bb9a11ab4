"""The keeper of a Cloud Run outpost. Run as a program, in the background.

It is told its outpost on its standard input. Whoever holds the lock in the outpost's state folder
is its keeper; a second one ends at once. What it has to say goes to `keeper.log` there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from outpost_cloudrun.keeper import place
from outpost_cloudrun.keeper.find import MAKES_WAY
from outpost_cloudrun.keeper.held import Held
from outpost_core import __version__, wire
from outpost_core.backend import Outpost
from outpost_core.errors import UnreachableError
from outpost_core.types import Json, Order
from outpost_shared import keeping, private
from outpost_shared.log import Logger
from outpost_shared.protocol import FrameError
from outpost_worker.serving.request import Params, flag
from outpost_worker.serving.server import serve

_log = Logger("cloudrun.keeper")

#: Seconds between two looks whether it is still wanted.
_LOOK: Final = 0.5
#: Seconds for which it stays at least when nothing runs: the next command is near.
_SHORTEST: Final = 5.0
#: Bytes of a line from a command that are taken before anybody looks at them.
_LIMIT: Final = 1 << 20
#: Bytes of `keeper.log` beyond which it begins anew.
_LOG: Final = 1 << 20


class Keeper:
    """Serves an outpost on a socket for as long as something runs or somebody comes.

    Args:
        held: the outpost.
        generation: word for what it was told; a command with a newer one replaces it.
        since: when what it was told was read.
        path: the socket.
        is_keeper: whether this process still has the outpost's lock.
        linger: seconds for which it stays when nothing runs.
    """

    def __init__(
        self,
        held: Held,
        generation: str,
        since: float,
        path: Path,
        is_keeper: Callable[[], bool],
        linger: float,
    ) -> None:
        self._held = held
        self._since = since
        self._generation = generation
        self._path = path
        self._is_keeper = is_keeper
        self._linger = max(linger, _SHORTEST)
        self._sessions: set[asyncio.Task[None]] = set()
        self._used_at = time.monotonic()
        self._over = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def run(self) -> None:
        """Take over what is written down, and serve until it is over."""
        await self._held.adopt()
        mine = await self._listen()
        try:
            while not self._over.is_set() and self._is_wanted():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._over.wait(), _LOOK)
                if self._is_replaceable():
                    break
                if not keeping.is_at(self._path, mine):  # somebody has tidied the folder
                    mine = await self._listen()
        finally:
            if keeping.is_at(self._path, mine):
                self._path.unlink(missing_ok=True)
            if self._server is not None:
                self._server.close()
            for session in self._sessions:
                session.cancel()
            await asyncio.gather(*self._sessions, return_exceptions=True)
            await self._held.aclose()

    def end(self) -> None:
        """End soon; what is held is taken up by the next one."""
        self._over.set()

    def _is_replaceable(self) -> bool:
        """Whether the lock is gone with the state folder, so that another one can be the keeper."""
        if self._is_keeper():
            return False
        _log.warning("the state folder was removed: the keeper ends")
        self.end()
        return True

    async def _listen(self) -> os.stat_result:
        if self._server is not None:
            self._server.close()
        listening = keeping.listen(self._path)
        mine = self._path.stat()
        self._server = await asyncio.start_unix_server(self._called, sock=listening, limit=_LIMIT)
        return mine

    def _is_wanted(self) -> bool:
        if self._sessions or self._held.busy:
            self._used_at = time.monotonic()
            return True
        return time.monotonic() - self._used_at < self._linger

    async def _called(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = asyncio.current_task()
        assert session is not None, "a callback of a server is a task"
        self._sessions.add(session)
        try:
            if keeping.is_ours(writer.get_extra_info("socket")):
                with contextlib.suppress(FrameError, asyncio.CancelledError):
                    await serve(
                        self._build,
                        reader,
                        writer,
                        server=f"outpost-cloudrun {__version__}",
                        extra={place.CLEAN: _clean},
                    )
        finally:
            with contextlib.suppress(Exception):
                writer.close()
            self._sessions.discard(session)
            self._used_at = time.monotonic()

    def _build(self, name: str, options: Mapping[str, Json]) -> Outpost:
        """Return what is served to a command.

        Raises:
            UnreachableError: it has a newer configuration, or the state folder is another one by
                now; this keeper ends.
        """
        del name
        self._is_replaceable()
        since = options.get("since")
        newer = isinstance(since, int | float) and since > self._since
        if newer and options.get("generation") != self._generation:
            _log.info("a command has another configuration: the keeper makes way")
            self.end()
        if self._over.is_set():
            raise UnreachableError(MAKES_WAY, sent=False)
        return self._held


async def _clean(held: Outpost, params: Params) -> Json:
    assert isinstance(held, Held), "nothing else is served"
    order = wire.from_json(Order, params.get("order"))
    return wire.to_json(await held.clean_ordered(order, flag(params, "force")))


def main() -> None:
    """Keep what standard input tells, unless somebody else does."""
    said = keeping.told()
    name, options, context = place.understand(said)
    path = place.socket_of(context)
    os.umask(0o077)
    private.claim(str(context.state_dir))
    at = place.lock_of(context)
    if path is None or (lock := keeping.lock(at)) is None:
        return  # else the lock is held to the end of this program
    told = {str(key): str(value) for key, value in said["environment"].items()}
    os.environ.update({key: value for key, value in told.items() if key != "OUTPOST_FAULT"})
    _write_to(context.state_dir / "keeper.log")

    async def keep() -> None:
        held = Held(name, options, context)
        known = str(said["generation"]), float(said["since"])
        keeper = Keeper(held, *known, path, partial(keeping.is_held, at, lock), options.warm_for)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, keeper.end)
        await keeper.run()

    asyncio.run(keep())


def _write_to(path: Path) -> None:
    """Let what goes wrong here be found in a file."""
    import logging

    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    if os.fstat(fd).st_size > _LOG:
        os.ftruncate(fd, 0)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format="%(asctime)s %(process)d %(name)s: %(message)s",
    )
    logging.getLogger("outpost").setLevel(logging.INFO)


if __name__ == "__main__":
    main()
