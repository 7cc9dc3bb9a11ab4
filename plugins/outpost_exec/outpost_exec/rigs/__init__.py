"""The near side of rigs that are paths of this machine: they go there, and the work comes back.

Before a spawn, `prepare` brings a copy of the repository at the outpost up to date and writes down
which rig the worker's work belongs to. After a list, `bring_home` fetches what has ended there and
brings it into the rig; only then does the outpost show such a worker as ended. In between, this
machine may be away for as long as it likes.

All of it goes through `StdioOutpost.call`, in frames of the control channel, whatever carries them;
`outpost_worker.hosting.methods` is the other half and says what is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from outpost_core import wire
from outpost_core.errors import SpawnRefusedError, UnreachableError
from outpost_core.names import redact
from outpost_core.types import Cleaned, Order, Result, WorkerStatus
from outpost_exec.rigs import gone, sending
from outpost_exec.rigs.localrig import GitError, LocalRig
from outpost_exec.rigs.retrieval import Retrieval
from outpost_exec.rigs.sending import Pusher
from outpost_shared import faults, private
from outpost_worker.folder import files
from outpost_worker.hosting.sentrefs import key_of, local_path

if TYPE_CHECKING:
    from outpost_exec.stdio.remote import StdioOutpost

#: In the state folder of an outpost: notes, and what is on its way.
_FOLDER: Final = "hosted"
_OUTGOING: Final = "outgoing"
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


async def prepare(outpost: StdioOutpost, order: Order) -> None:
    """Bring an order's rig to the outpost, if it is a repository of this machine, before a spawn.

    Args:
        outpost: where it is to run.
        order: the order; one with another kind of rig is left alone.

    Raises:
        SpawnRefusedError: the repository cannot be brought there; nothing was spawned by this.
        UnreachableError: there is no answer; says `sent=False`, since no spawn was asked for.
    """
    await _of(outpost).prepare(order)


def travels(order: Order, name: str) -> bool:
    """Whether an order's rig is a repository of this machine, which `prepare` would bring along.

    Args:
        order: the order.
        name: of the outpost, for messages.

    Raises:
        SpawnRefusedError: its work would come from one machine and go to another's repository.
    """
    return _way(order, name) is not None


async def spawned(outpost: StdioOutpost, status: WorkerStatus) -> WorkerStatus:
    """Return the answer to a spawn; what has ended already is brought home first (law 3).

    Args:
        outpost: whose worker it is.
        status: what it answered.
    """
    return await _of(outpost).retrieval.spawned(status)


async def bring_home(
    outpost: StdioOutpost, statuses: Sequence[WorkerStatus]
) -> Sequence[WorkerStatus]:
    """Bring ended workers' work into the rigs here; return the statuses with what came of it.

    Work that takes longer continues behind; its worker is shown as waiting until then.

    Args:
        outpost: whose workers they are.
        statuses: what it listed.
    """
    return await _of(outpost).retrieval.bring(statuses)


async def before_clean(outpost: StdioOutpost, worker: str) -> None:
    """Write down that a worker is being cleaned: a rescue may leave a checkpoint to be fetched."""
    _of(outpost).retrieval.cleaning(worker)


async def after_clean(outpost: StdioOutpost, worker: str, cleaned: Cleaned) -> Cleaned:
    """Fetch what cleaning a worker has rescued there."""
    return await _of(outpost).retrieval.cleaned(worker, cleaned)


def sweep(state_dir: Path) -> None:
    """Remove packs that no upload has used for long.

    Args:
        state_dir: the state folder of an outpost.
    """
    sending.sweep(state_dir / _FOLDER / _OUTGOING)


async def settle(state_dir: Path, worker: str, result: Result, reason: str, why: str) -> Result:
    """Return a result as far as it is true here, of a worker whose machine is gone for good.

    See `gone.settle`.

    Args:
        state_dir: the state folder of the outpost.
        worker: the worker's id.
        result: what its machine has said of its end.
        reason: the code of a result whose work is gone.
        why: its words.

    Raises:
        OutpostError: its note or its rig cannot be read; nothing was given up.
    """
    return await gone.settle(state_dir / _FOLDER, worker, result, reason, why)


def forget(state_dir: Path, worker: str) -> None:
    """Forget a worker that was removed without asking its machine.

    Args:
        state_dir: the state folder of the outpost.
        worker: the worker's id.
    """
    gone.forget(state_dir / _FOLDER, worker)


async def close(outpost: StdioOutpost) -> None:
    """Break off what is under way; it continues with the next program that asks."""
    mine = _ALL.pop(outpost, None)
    if mine is not None:
        await mine.close()


def controller_id(state_dir: Path) -> str:
    """Return the identity of this state folder, made at the first call; for the server's hello.

    Raises:
        OSError: it can be neither read nor written.
    """
    path = state_dir / "controller"
    for _ in range(2):
        with contextlib.suppress(OSError, ValueError):
            known = path.read_text("ascii").strip()
            if _ID.fullmatch(known):
                return known
        private.make(str(state_dir))
        staged = state_dir / f".controller.{os.getpid()}.{secrets.token_hex(4)}"
        try:
            files.write(str(staged), secrets.token_hex(16).encode("ascii"), sync=True)
            if path.exists():  # there, and not readable as what it should be
                staged.replace(path)
            else:
                with contextlib.suppress(FileExistsError):
                    os.link(staged, path)
        finally:
            staged.unlink(missing_ok=True)
    return path.read_text("ascii").strip()


_ALL: WeakKeyDictionary[StdioOutpost, Rigs] = WeakKeyDictionary()


def _of(outpost: StdioOutpost) -> Rigs:
    if outpost not in _ALL:
        _ALL[outpost] = Rigs(outpost)
    return _ALL[outpost]


class Rigs:
    """What one outpost object does about rigs of this machine.

    Args:
        outpost: the outpost; it is not kept alive by this.
    """

    def __init__(self, outpost: StdioOutpost) -> None:
        from weakref import proxy

        self._outpost: StdioOutpost = proxy(outpost)
        self._folder = outpost.context.state_dir / _FOLDER
        self._controller = ""
        self._pushers: dict[str, Pusher] = {}
        self.retrieval = Retrieval(self._outpost, self._folder, self._key)

    def _key(self, path: str) -> str:
        self._controller = self._controller or controller_id(self._folder.parent)
        return key_of(self._controller, path)

    async def prepare(self, order: Order) -> None:
        """As `prepare` says."""
        way = _way(order, self._outpost.name)
        if way is None:
            return  # what is no repository here is taken for a path of that machine
        try:
            await self._prepare(order, *way)
        except UnreachableError as error:
            raise UnreachableError(error.message, hint=error.hint, sent=False) from error
        except SpawnRefusedError:
            # it may be there from an earlier try, whose answer was lost
            if not await self._outpost.call("x-rig-there", {"worker": order.worker}):
                raise

    async def _prepare(self, order: Order, path: str, rig: LocalRig, home: str) -> None:
        try:
            self.retrieval.notes.write(order, wire.digest(order), path, home)
            faults.point("rig.noted")
            pusher = self._pushers.get(path)
            if pusher is None:
                pusher = Pusher(self._outpost, rig, self._key(path), self._folder / _OUTGOING)
                self._pushers[path] = pusher
            await pusher.push(order.base)
            await pusher.large(order.base)
        except GitError as error:
            raise SpawnRefusedError(error.message, hint=error.hint) from error
        except OSError as error:
            why = f"{path} cannot be sent to {self._outpost.name}: {error.strerror or error}"
            raise SpawnRefusedError(why, hint="make room for a pack in the state folder") from error

    async def close(self) -> None:
        """Break off everything."""
        await asyncio.gather(
            self.retrieval.close(), *(pusher.close() for pusher in self._pushers.values())
        )


def _way(order: Order, name: str) -> tuple[str, LocalRig, str] | None:
    """Return the path of an order's rig, the repository there, and where its work comes into.

    Args:
        order: the order.
        name: of the outpost, for messages.

    Returns:
        None where the rig is no repository of this machine.

    Raises:
        SpawnRefusedError: work would come from one machine and go to another's repository.
    """
    if order.delivery is None:
        return None
    path = local_path(order.rig)
    rig = LocalRig.at(path) if path is not None else None
    push = order.delivery.push_url
    home = local_path(push) if push else path
    here = home is not None and LocalRig.at(home) is not None
    if push and (rig is not None) != here:
        mine, theirs = (order.rig, push) if rig is not None else (push, order.rig)
        raise SpawnRefusedError(
            f"{mine} is a repository of this machine and {redact(str(theirs))} is none, so a worker"
            f" at {name} cannot take its work from one to the other",
            hint="--rig names one repository for both",
        )
    return None if path is None or rig is None or home is None else (path, rig, home)
