"""From a resolved destination to a connection that is logged in; tried again while a host refuses.

What may wait is bounded so that hosts do not hold each other up: at most five connects at a time
to one address, which is what sshd's MaxStartups counts, and at most five logins at a time
altogether. A host that does not answer waits outside of the latter.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import TYPE_CHECKING, Any, Final

import asyncssh

from outpost_shared.backoff import Backoff
from outpost_shared.silence import UNANSWERED
from outpost_ssh.connection.dial import Proxy, dial, speaks
from outpost_ssh.connection.failures import explain
from outpost_ssh.connection.keys import held

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from outpost_ssh.connection.clientconfig import Destination, Resolved
    from outpost_ssh.connection.failures import Attempt
    from outpost_ssh.connection.keys import Identity

#: Connects and logins at a time.
AT_ONCE: Final = 5
#: Seconds of the first pause before a host that closed the connection is tried again.
_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 2.0
#: What sshd does when too many connect at once.
_CLOSED: Final = (ConnectionResetError, BrokenPipeError, asyncssh.ConnectionLost)


class Gates:
    """What bounds connects; one for all connections of an event loop."""

    def __init__(self) -> None:
        self.logins = asyncio.Semaphore(AT_ONCE)
        self._places: dict[tuple[str, int], tuple[asyncio.Semaphore, list[None]]] = {}

    @contextlib.asynccontextmanager
    async def place(self, host: str, port: int) -> AsyncIterator[None]:
        """Hold one of the connects that a host may have to do with at once."""
        gate, waiting = self._places.setdefault((host, port), (asyncio.Semaphore(AT_ONCE), []))
        waiting.append(None)
        try:
            async with gate:
                yield
        finally:
            waiting.pop()
            if not waiting:
                self._places.pop((host, port), None)


class _Budget:
    """The time that an attempt may take; waiting for other connects does not count."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(self.left, 0.0)):
                yield
        finally:
            self.left -= time.monotonic() - began


class Login:
    """One attempt to connect to a destination and to log in.

    Args:
        destination: where to.
        resolved: what the SSH configuration says of it.
        identity: the keys.
        attempt: what is known of it, for messages.
        gates: what bounds connects.
        tunnel: the connection of the host that it goes through.
        watcher: makes the object that hears what happens to the connection.

    Attributes:
        proxy: the running ProxyCommand; it is to be closed with the connection.
    """

    def __init__(
        self,
        destination: Destination,
        resolved: Resolved,
        identity: Identity,
        attempt: Attempt,
        gates: Gates,
        tunnel: asyncssh.SSHClientConnection | None,
        watcher: Callable[[], asyncssh.SSHClient],
    ) -> None:
        self.proxy: Proxy | None = None
        self._destination = destination
        self._resolved = resolved
        self._identity = identity
        self._attempt = attempt
        self._gates = gates
        self._tunnel = tunnel
        self._watcher = watcher
        self._budget = _Budget(resolved.timeout)

    async def run(self) -> asyncssh.SSHClientConnection:
        """Connect and log in; a host that closes the connection is tried again in the time.

        Raises:
            OutpostError: it cannot be done, with the cause and the hint.
        """
        attempt = self._attempt
        agent, found = await held(self._identity.agent)
        try:
            pairs = self._identity.pairs(found)
            attempt.offered, attempt.locked = self._identity.offered, self._identity.locked
            again = Backoff(_PAUSE, _LONGEST_PAUSE, jitter=1.0)
            while True:
                try:
                    async with self._gates.place(attempt.host, attempt.port):
                        return await self._once(pairs)
                except _CLOSED:
                    pause = again.pause()
                    if self._budget.left <= pause or attempt.command:
                        raise
                    self._budget.left -= pause
                    await asyncio.sleep(pause)
                    attempt.tries += 1
        except (OSError, ValueError, asyncssh.Error) as error:
            raise explain(error, attempt) from None
        finally:
            if agent is not None:
                agent.close()

    async def _once(self, pairs: list[asyncssh.SSHKeyPair]) -> asyncssh.SSHClientConnection:
        attempt = self._attempt
        attempt.stage, attempt.keys.shown, attempt.keys.authority = "dial", None, None
        if self._tunnel is not None:
            async with self._budget.running():
                return await self._log_in(pairs, tunnel=self._tunnel)
        made: socket.socket | None = None
        try:
            async with self._budget.running():
                made = await self._reach()
            async with self._gates.logins, self._budget.running():
                return await self._log_in(pairs, sock=made)
        except BaseException:
            if made is not None:
                made.close()
            if self.proxy is not None:
                await self.proxy.aclose()
                attempt.noise, self.proxy = self.proxy.said, None
            raise

    async def _reach(self) -> socket.socket:
        """Return a socket on whose other end somebody has begun to speak."""
        attempt = self._attempt
        if self._resolved.proxy_command is not None:
            self.proxy = await Proxy.start(self._resolved.proxy_command)
            made = self.proxy.socket
        else:
            made = await dial(
                attempt.host,
                attempt.port,
                family=self._resolved.family,
                local=self._resolved.local,
            )
        attempt.stage = "banner"
        try:
            await speaks(made)
            if not made.recv(1, socket.MSG_PEEK):
                raise ConnectionResetError
        except BaseException:
            made.close()
            raise
        attempt.stage = "hello"
        return made

    async def _log_in(
        self, pairs: list[asyncssh.SSHKeyPair], **way: Any
    ) -> asyncssh.SSHClientConnection:
        destination, config = self._destination, self._resolved.prepared.config
        keys = self._attempt.keys
        return await asyncssh.connect(
            destination.host,
            destination.port if destination.port is not None else (),
            config=None,  # it is read: that is what `options` holds
            options=self._resolved.prepared,
            **{"tunnel": None, **way},
            proxy_command=None,
            username=destination.user if destination.user is not None else (),
            known_hosts=keys,
            server_host_key_algs=() if config.get("HostKeyAlgorithms") else keys.algorithms(),
            client_keys=pairs or None,
            agent_path="",  # what it holds is among the pairs
            agent_identities=None,
            agent_forwarding=(destination.forward_agent and self._identity.agent) or False,
            password_auth=False,
            kbdint_auth=False,
            gss_kex=False,  # it would replace the host's key
            gss_auth=bool(config.get("GSSAPIAuthentication", False)),
            host_based_auth=bool(config.get("HostbasedAuthentication", False)),
            x11_forwarding=False,
            keepalive_interval=destination.keepalive,
            keepalive_count_max=UNANSWERED,
            connect_timeout=None,
            client_factory=self._watcher,
        )
