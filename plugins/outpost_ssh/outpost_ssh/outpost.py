"""The SSH outpost: a local outpost that runs on the far machine, and a channel to it.

One channel of one supervised connection carries all verbs, each in one round trip. What is true
about a worker is in its folder over there: this object can end, or its line break, at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Cleaned, Finding, Message, Order, Scale, Step, WorkerStatus
from outpost_exec.stdio.client import Client
from outpost_exec.stdio.remote import StdioOutpost
from outpost_local.options import Mode
from outpost_ssh.loader import Ended, Loader, command
from outpost_ssh.options import CAPABILITIES, SshOptions

if TYPE_CHECKING:
    import asyncssh

    from outpost_core.backend import BuildContext
    from outpost_core.types import Json
    from outpost_shared.protocol import ByteReader, ByteWriter
    from outpost_ssh.connection.host import RemoteHost

#: Seconds that the clocks may differ before moments are told by ours.
SAME_TIME: Final = 2.0
#: Bytes of what a far program writes to stderr that are kept, to be quoted.
_STDERR: Final = 4096

#: Whether a far server of this program has been told the fault that tests ask for.
_fault_told = False


class SshOutpost(StdioOutpost):
    """Workers on a host that is reached over SSH.

    Args:
        name: the configured name.
        options: its options.
        context: where what belongs to this side is kept.
    """

    type = "ssh"
    options: SshOptions

    def __init__(self, name: str, options: SshOptions, context: BuildContext) -> None:
        super().__init__(name, options, context)
        process = options.mode is Mode.PROCESS
        lacks = {"attach"} if process else set[str]()
        if not options.start_command:
            lacks.add("scale")
        self.capabilities = CAPABILITIES - lacks
        self._host: RemoteHost | None = None
        self._tails: set[asyncio.Task[None]] = set()
        self._skew = 0.0
        #: what a keeper lends is used for the first connection of a program, and after no trouble
        self._borrows = True

    # --- the connection ------------------------------------------------------------------------

    def host(self) -> RemoteHost:
        """Return the connection to the host, which other outposts may share; opens nothing."""
        if self._host is None:
            from outpost_ssh.connection.host import remote_host

            self._host = remote_host(self.name, self.options, self.context)
        return self._host

    async def connect(self) -> Client:
        """Start a far server on a new channel; it is installed there when it is not yet.

        Raises:
            UnreachableError: that is not possible, and why; `sent` is False.
            UsageError: the options or the host's key do not allow it.
        """
        client = await self._borrow()
        if client is None:
            host = self.host()
            process = await host.open(command(self.options.python))
            tail = _Tail(process)
            self._tails.add(tail.task)
            tail.task.add_done_callback(self._tails.discard)
            try:
                client = await self._greet(host.peer, process.stdout, process.stdin, tail.ended)
            except BaseException:
                process.close()
                raise
            from outpost_ssh.keeper import borrow

            borrow.start(self.options, self.context.config_dir)
        self._set_clock(client.hello.skew)
        return client

    async def _borrow(self) -> Client | None:
        """Start a far server over the connection that a keeper holds; None where that fails."""
        borrows, self._borrows = self._borrows, False
        if not (borrows and self.options.keep):
            return None
        from outpost_ssh.keeper.borrow import borrow

        lent = await borrow(self.options, self.context.config_dir)
        if lent is None:
            return None
        try:
            return await self._greet(lent.peer, lent.reader, lent.writer, _unknown)
        except OutpostError:
            lent.writer.close()  # a connection of our own tells the true cause
            return None
        except BaseException:
            lent.writer.close()
            raise

    async def _greet(
        self,
        peer: str,
        reader: ByteReader,
        writer: ByteWriter,
        ended: Callable[[], Awaitable[Ended]],
    ) -> Client:
        """Have a far Python become a far server, and say hello to it."""
        timeout = self.options.patience
        await Loader(self.name, peer, reader, writer, ended=ended, timeout=timeout).start()
        return await Client.start(
            peer,
            reader,
            writer,
            name=self.name,
            options=await asyncio.to_thread(self._hello),
            timeout=timeout,
        )

    def _hello(self) -> dict[str, Json]:
        """Return what the far server is to know; read by `outpost_ssh.far.serve.FarOptions`."""
        from outpost_exec import rigs

        options = self.options
        return {
            "controller": rigs.controller_id(self.context.state_dir),
            "mode": options.mode.value,
            "state_path": options.state_path,
            "town_path": options.town_path,
            "agent_path": [*options.agent_path],
            "pass_env": [*options.pass_env],
            "fence": options.fence.value,
            "fence_write": [*options.fence_write],
            "fence_hide": [*options.fence_hide],
            "fence_show": [*options.fence_show],
            "memory_floor": options.memory_floor,
            "disk_floor": options.disk_floor,
            "fault": _fault(),
        }

    def given_up(self, client: Client, why: str) -> None:
        """End a channel on which nothing is heard, and the connection below it."""
        super().given_up(client, why)
        if self._host is not None:
            self._host.drop(why)

    def offered(self, client: Client) -> frozenset[str]:
        """Return what can be had there; a far machine is set up from this side."""
        return super().offered(client) | {"bootstrap", "scale"}

    # --- moments ------------------------------------------------------------------------------

    def _set_clock(self, skew: float) -> None:
        # small changes are those of the connection: moments that were told stay as they are
        if abs(skew - self._skew) > SAME_TIME:
            self._skew = skew if abs(skew) > SAME_TIME else 0.0

    def _here(self, moment: float | None) -> float | None:
        return None if moment is None else moment - self._skew

    def _by_our_clock(self, status: WorkerStatus) -> WorkerStatus:
        """Return a status with its moments as a clock here would have shown them."""
        if not self._skew:
            return status
        result = status.result
        if result is not None:
            result = replace(
                result,
                started_at=self._here(result.started_at),
                finished_at=self._here(result.finished_at),
            )
        return replace(
            status,
            started_at=self._here(status.started_at),
            updated_at=self._here(status.updated_at),
            result=result,
        )

    # --- hooks ----------------------------------------------------------------------------------

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Hand the order over, after its rig when that is a repository of this machine.

        Raises:
            SpawnRefusedError: nothing was started.
            ConflictError: the id exists with another order.
            UnreachableError: nothing is known, unless it says `sent=False`.
        """
        if order.rig is not None:
            from outpost_exec import rigs

            await rigs.prepare(self, order)
            status = await rigs.spawned(self, await super().outpost_spawn(order))
            return self._by_our_clock(status)
        return self._by_our_clock(await super().outpost_spawn(order))

    @hookimpl
    async def outpost_list(self) -> Sequence[WorkerStatus]:
        """Return all workers; work for repositories of this machine is brought home first."""
        from outpost_exec import rigs

        found = await rigs.bring_home(self, await super().outpost_list())
        return [self._by_our_clock(status) for status in found] if self._skew else found

    @hookimpl
    async def outpost_clean(self, worker: str, force: bool) -> Cleaned:
        """Remove an ended worker's files there, and fetch what that has rescued."""
        from outpost_exec import rigs

        await rigs.before_clean(self, worker)
        return await rigs.after_clean(self, worker, await super().outpost_clean(worker, force))

    @hookimpl
    async def outpost_attach(self, worker: str) -> int:
        """Give the caller's terminal to the worker; return the exit code of the viewer."""
        from outpost_ssh import attach

        return await attach.attach(
            worker,
            self,
            self.host(),
            command=command(self.options.python),
            timeout=self.options.patience,
        )

    @hookimpl
    async def outpost_inbox(self, identity: str) -> Sequence[Message]:
        """Return the messages that wait there."""
        found = await super().outpost_inbox(identity)
        if not self._skew:
            return found
        return [replace(message, sent_at=self._here(message.sent_at)) for message in found]

    @hookimpl
    async def outpost_doctor(self, rig: str | None) -> Sequence[Finding]:
        """Look at the connection and at everything that a worker needs there."""
        from outpost_ssh import doctor

        self._borrows = False

        return await doctor.examine(self, rig, super().outpost_doctor)

    @hookimpl
    async def outpost_bootstrap(self, agents: Sequence[str], dry_run: bool) -> AsyncIterator[Step]:
        """Install what a worker needs there, as far as that is allowed."""
        from outpost_ssh import bootstrap

        taken = bootstrap.bootstrap(self, agents, dry_run)
        async with contextlib.aclosing(taken) as steps:  # type: ignore[type-var]
            async for step in steps:
                yield step

    @hookimpl
    async def outpost_scale(self, to: int | None) -> Scale:
        """Have its machine be started or stopped by the user's own commands."""
        from outpost_ssh.scaling import Machine

        if to is not None:
            self._borrows = False  # a keeper's connection is that to the machine as it was
        return await Machine(self.name, self.options, self.host()).scale(to)

    @hookimpl
    async def outpost_close(self) -> None:
        """Let go of the channel and of the connection; workers keep running."""
        from outpost_exec import rigs

        await rigs.close(self)
        await super().outpost_close()
        host, self._host = self._host, None
        if host is not None:
            await host.aclose()
        for tail in [*self._tails]:
            tail.cancel()
        await asyncio.gather(*self._tails, return_exceptions=True)


class _Tail:
    """Reads what a far program writes to stderr, so that it never waits for us; keeps the end."""

    def __init__(self, process: asyncssh.SSHClientProcess[bytes]) -> None:
        self._process = process
        self._kept = b""
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(Exception):  # the connection's own; whoever asks something is told
            while data := await self._process.stderr.read(_STDERR):
                self._kept = (self._kept + data)[-_STDERR:]

    async def ended(self) -> Ended:
        """Wait for the program's end, and say how it ended."""
        with contextlib.suppress(Exception):
            await self._process.wait_closed()
        await asyncio.wait({self.task}, timeout=1.0)
        status = self._process.exit_status
        return Ended(status=status, stderr=self._kept.decode("utf-8", "replace"))


async def _unknown() -> Ended:
    """How a far program ended that a keeper had started."""
    return Ended(status=None)


def _fault() -> str:
    """Return the point at which tests have a far process die: the first server only is told."""
    global _fault_told  # noqa: PLW0603 - of one program
    fault = "" if _fault_told else os.environ.get("OUTPOST_FAULT", "")
    _fault_told = True
    return fault
