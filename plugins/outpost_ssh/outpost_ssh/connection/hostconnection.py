"""One SSH connection to a host, made when it is used, and again when it broke.

Everything that is shared by the outposts of a host is here: the connection, its bounded number of
sessions, and the one attempt to connect that all callers wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

import asyncssh

from outpost_core.errors import OutpostError, UnreachableError
from outpost_core.units import format_duration
from outpost_shared.backoff import Backoff
from outpost_shared.log import Logger
from outpost_shared.protocol import BrokenChannelError
from outpost_ssh.connection.clientconfig import resolve
from outpost_ssh.connection.failures import Attempt, plain
from outpost_ssh.connection.hostkeys import HostKeys
from outpost_ssh.connection.keys import identity
from outpost_ssh.connection.login import Login
from outpost_ssh.connection.prompt import prompt
from outpost_ssh.options import CONNECT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from outpost_ssh.connection.clientconfig import Destination
    from outpost_ssh.connection.dial import Proxy
    from outpost_ssh.connection.login import Gates

_log = Logger("ssh")
#: Sessions that one connection carries at once; OpenSSH allows 10 by default.
SESSIONS: Final = 8
#: Seconds of the pause before a refused session is asked for again.
_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
#: Seconds between two looks whether the connection of a session is still there.
_STILL_THERE: Final = 5.0
#: Bytes that a host may send before we have looked at them: more than a line to the other side of
#: the world holds, so that it never waits for our word (OpenSSH's own client takes 2 MiB).
_WINDOW: Final = 4 << 20
#: What a host says before the login is kept up to this many characters.
_BANNER: Final = 1000
#: Refusals that do not pass by themselves.
_FINAL: Final = (
    asyncssh.OPEN_REQUEST_PTY_FAILED,
    asyncssh.OPEN_REQUEST_SESSION_FAILED,
    asyncssh.OPEN_UNKNOWN_CHANNEL_TYPE,
)

# What asyncssh has to say is for developers; without a handler Python prints its warnings.
logging.getLogger("asyncssh").addHandler(logging.NullHandler())


class _Watcher(asyncssh.SSHClient):
    """Hears what happens to one connection."""

    def __init__(self, owner: HostConnection, at: Attempt) -> None:
        self._owner = owner
        self._at = at
        self._connection: asyncssh.SSHClientConnection | None = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """Remember the connection."""
        self._connection = conn
        self._at.stage = "hello"

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who it belongs to."""
        self._owner.lost(self._connection, exc)

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        """Refuse a key that is not trusted, which is the only kind asked about; keep it."""
        del host, addr, port
        self._at.keys.shown = key
        return False

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Refuse an authority that is not trusted; keep its key."""
        del host, addr, port
        self._at.keys.authority = key
        return False

    def auth_banner_received(self, msg: str, lang: str) -> None:
        """Keep what the host says before the login."""
        del lang
        self._at.banner = plain(f"{self._at.banner} {msg}", _BANNER)

    def begin_auth(self, username: str) -> None:
        """Hear that the host has been verified."""
        del username
        self._at.stage = "login"


class Neighbours(Protocol):
    """The other connections of the event loop, and what bounds them all."""

    gates: Gates

    def hold(self, destination: Destination) -> HostConnection:
        """Return the connection to a destination, to be given back by `release`."""

    async def release(self, connection: HostConnection) -> None:
        """Give a connection back."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something in the background, and keep hold of it."""


class HostConnection:
    """The connection to one destination, shared by all that use the destination on one event loop.

    Args:
        destination: where it goes.
        pool: what bounds connects, and knows the connections to hosts in between.

    Attributes:
        users: how many hold it.
        peer: the host, for messages; whole once it was connected to.
        timeout: seconds that connecting may take.
        why: why the last connection ended, or "".
    """

    def __init__(self, destination: Destination, pool: Neighbours) -> None:
        self.destination = destination
        self.users = 0
        user = destination.user
        self.peer = f"{user}@{destination.host}" if user else destination.host
        self.timeout = destination.connect_timeout or CONNECT_TIMEOUT
        self.why = ""
        self._pool = pool
        self._slots = asyncio.Semaphore(SESSIONS)
        self._connection: asyncssh.SSHClientConnection | None = None
        self._connecting: asyncio.Task[asyncssh.SSHClientConnection] | None = None
        self._before: HostConnection | None = None
        self._proxy: Proxy | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def connection(self) -> asyncssh.SSHClientConnection:
        """Return the connection, made now when there is none.

        Raises:
            UnreachableError: it cannot be made; nothing was sent.
            UsageError: the options or the SSH configuration do not allow it.
        """
        if self._connection is not None:
            return self._connection
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._connected)
        return await asyncio.shield(self._connecting)

    async def open(
        self, command: str, term: tuple[str, int, int] | None, modes: Mapping[int, int]
    ) -> asyncssh.SSHClientProcess[bytes]:
        """Start a command there; see `RemoteHost.open`."""
        try:
            async with asyncio.timeout(self.timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise UnreachableError(
                f"all {SESSIONS} sessions of the connection to {self.peer} are in use",
                hint="end one of them: each attached terminal is one",
                sent=False,
            ) from None
        try:
            process = await self._open(command, term, modes)
        except BaseException:
            self._slots.release()
            raise
        self._pool.spawn(self._release(process))
        return process

    def drop(self, why: str) -> None:
        """End the connection now; what waits for it hears of it, and the next use connects."""
        connection = self._connection
        if connection is not None:
            self._gone(why)
            connection.abort()

    async def aclose(self) -> None:
        """End the connection, or the attempt to make one."""
        if (task := self._connecting) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        connection = self._connection
        if connection is not None:
            self._gone("closed")
            connection.close()
            try:
                async with asyncio.timeout(1):
                    await connection.wait_closed()
            except TimeoutError:
                connection.abort()
                await connection.wait_closed()
        if self._ending:  # a ProxyCommand that outlives the event loop is heard of at exit
            await asyncio.wait(self._ending)

    def lost(
        self, connection: asyncssh.SSHClientConnection | None, error: Exception | None
    ) -> None:
        """Hear that a connection ended."""
        if connection is not None and connection is self._connection:
            self._gone(plain(error) if error is not None else "the host closed it")

    def _gone(self, why: str) -> None:
        _log.info("the connection to %s ended: %s", self.peer, why)
        self._connection, self.why = None, why
        before, self._before = self._before, None
        if before is not None:
            self._end(self._pool.release(before))
        proxy, self._proxy = self._proxy, None
        if proxy is not None:
            self._end(proxy.aclose())

    def _end(self, what: Coroutine[Any, Any, None]) -> None:
        """Let go of something that the connection stood on; `aclose` waits for that."""
        task = self._pool.spawn(what)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _connected(self, task: asyncio.Task[asyncssh.SSHClientConnection]) -> None:
        if self._connecting is task:
            self._connecting = None
        if not task.cancelled():
            task.exception()  # seen, also when nobody waits any more

    async def _connect(self) -> asyncssh.SSHClientConnection:
        loop = asyncio.get_running_loop()
        resolved = await loop.run_in_executor(None, resolve, self.destination)
        config = resolved.prepared.config
        mine = await loop.run_in_executor(None, identity, self.destination, config)
        self.timeout = resolved.timeout
        attempt = Attempt(
            host=resolved.host,
            port=resolved.port,
            user=resolved.user,
            timeout=resolved.timeout,
            keys=HostKeys(
                host=(resolved.alias or resolved.host).lower(),
                port=resolved.port,
                alias=resolved.alias is not None,
                pinned=self.destination.host_key,
                files=resolved.known_hosts,
                outpost=self.destination.outpost,
                jump=self.destination.jump,
            ),
            command=resolved.proxy_command or "",
        )
        self.peer = attempt.peer
        _log.info("connecting to %s", self.peer)
        before = tunnel = None
        if resolved.way:
            before = self._pool.hold(self.destination.through(resolved.way))
        try:
            if before is not None:
                tunnel = await before.connection()
                attempt.via = before.peer
            login = Login(
                self.destination, resolved, mine, attempt, self._pool.gates, tunnel,
                lambda: _Watcher(self, attempt),
            )  # fmt: skip
            connection = await login.run()
        except BaseException:
            if before is not None:
                self._end(self._pool.release(before))
            raise
        self._connection, self.why = connection, ""
        self._before, self._proxy = before, login.proxy
        if connection.is_closed():  # lost in the moment in which it was made
            self._gone("the host closed it")
        return connection

    async def _open(
        self, command: str, term: tuple[str, int, int] | None, modes: Mapping[int, int]
    ) -> asyncssh.SSHClientProcess[bytes]:
        how: dict[str, Any] = {"request_pty": False, "window": _WINDOW}
        if term is not None:
            how = {
                "request_pty": "force",
                "term_type": term[0],
                "term_size": (term[1], term[2]),
                "term_modes": dict(modes),
            }
        end = None
        again = Backoff(_PAUSE, _LONGEST_PAUSE, jitter=0.5)
        while True:
            connection = await self.connection()
            end = end or time.monotonic() + self.timeout
            asked = asyncio.ensure_future(connection.create_process(command, encoding=None, **how))
            try:
                async with asyncio.timeout(max(end - time.monotonic(), 0)), prompt(connection):
                    return await asyncio.shield(asked)
            except asyncio.CancelledError:
                self._pool.spawn(_let_go(asked))
                raise
            except TimeoutError:
                self._pool.spawn(_let_go(asked))
                took = format_duration(self.timeout)
                self.drop(f"no answer within {took}")
                raise UnreachableError(
                    f"{self.peer} did not answer within {took}; its connection was given up",
                    hint="the next try connects anew",
                    sent=False,
                ) from None
            except (asyncssh.Error, OSError) as error:
                lost = connection is not self._connection
                if lost or not isinstance(error, asyncssh.ChannelOpenError):
                    if not lost:
                        self.drop(plain(error))
                    raise self._broken(error) from None
                pause = again.pause()
                if error.code in _FINAL or time.monotonic() + pause > end:
                    raise self._refused(error) from None
            await asyncio.sleep(pause)

    def _broken(self, error: BaseException) -> BrokenChannelError:
        # who may repeat what it asks does so (`Caller`), and that connects anew
        return BrokenChannelError(
            f"the connection to {self.peer} broke: {plain(error)}",
            hint="the next try connects anew; the log of the host says why (journalctl -u ssh)",
            sent=False,
        )

    def _refused(self, error: asyncssh.ChannelOpenError) -> OutpostError:
        if error.code in _FINAL:
            return UnreachableError(
                f"{self.peer} does not let commands run: {plain(error.reason)}",
                hint="see PermitTTY, ForceCommand and the key's options in authorized_keys there",
                sent=False,
            )
        return UnreachableError(
            f"{self.peer} allows no further session on this connection: {plain(error.reason)}",
            hint="raise MaxSessions in its sshd_config, or end an attached terminal",
            sent=False,
        )

    async def _release(self, process: asyncssh.SSHClientProcess[bytes]) -> None:
        connection = self._connection
        closed = asyncio.ensure_future(process.wait_closed())
        try:
            # a channel whose connection is gone may never be told that it was closed
            while not closed.done():
                await asyncio.wait({closed}, timeout=_STILL_THERE)
                if connection is None or connection.is_closed():
                    break
        finally:
            if not closed.cancel() and not closed.cancelled():
                closed.exception()  # it ended in some way or other: the session is free
            self._slots.release()


async def _let_go(asked: asyncio.Future[asyncssh.SSHClientProcess[bytes]]) -> None:
    """End a session that nobody waits for any more, once the host has given it.

    Asking cannot be broken off: the host would keep the session for as long as the connection.
    """
    with contextlib.suppress(Exception):
        (await asked).close()
