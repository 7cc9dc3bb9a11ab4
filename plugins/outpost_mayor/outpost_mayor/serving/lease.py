"""One mayor a state folder: a lock that the kernel lets go of, and a file that says whose it is.

The lock (`flock`) is what counts: it ends with its process, however that ends, so a lease of a dead
mayor is free at once. What the file says is for people; on a disk that is full it is written later.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outpost_core.errors import OutpostError
from outpost_shared import faults, jsonfiles, private
from outpost_shared.backoff import every
from outpost_shared.harmless import clean
from outpost_shared.log import Logger

#: The file that is locked, in the state folder.
FILE: Final = "mayor.lock"
#: The file beside it that says who holds the lock.
WHO: Final = "mayor.json"
#: Exit code of a second mayor.
HELD: Final = 6
#: Seconds that a lock is tried for: whoever only looks holds it for a moment.
_PATIENCE: Final = 0.5
_NAP: Final = 0.02
#: Seconds until it is tried again to write down who holds it.
_AGAIN: Final = 1.0
_log = Logger("serve")


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds the lease.

    Args:
        pid: its process; 0 when nobody knows.
        host: its machine; "" when nobody knows.
        since: when it took the lease; None when nobody knows.
    """

    pid: int = 0
    host: str = ""
    since: float | None = None

    def __str__(self) -> str:
        if not self.pid:
            return "another mayor"
        since = ""
        if self.since is not None:
            since = time.strftime(", since %Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"the mayor with the process id {self.pid} on {self.host or 'this machine'}{since}"


class HeldError(OutpostError):
    """Another mayor holds the state folder.

    Args:
        folder: the state folder.
        holder: who holds it.
    """

    exit_code = HELD

    def __init__(self, folder: Path, holder: Holder) -> None:
        super().__init__(
            f"the state folder {folder} is held by {holder}",
            hint="outpost serve --status says how it does; --state FOLDER serves another one",
        )
        self.holder = holder


@contextmanager
def hold(folder: Path) -> Iterator[Holder]:
    """Hold the lease of a state folder while the block is entered.

    Args:
        folder: the state folder; made when it is missing.

    Raises:
        HeldError: another mayor holds it.
        OSError: it cannot be opened or locked.
        NotPrivateError: others could write the folder.
    """
    private.claim(str(folder))
    at = _open(folder, os.O_CREAT)
    try:
        if not _lock(at):
            raise HeldError(folder, _read(folder))
        mine = Holder(pid=os.getpid(), host=platform.node(), since=time.time())
        try:
            _write(folder, mine)
        except OSError as error:  # a disk that is full for a minute keeps nobody from starting
            why = error.strerror
            _log.warning("%s starts, and who it is could not be written down yet: %s", mine, why)
            with suppress(OSError):  # better nobody than one who has ended
                (folder / WHO).unlink()
        faults.point("mayor.leased")
        yield mine
    finally:
        os.close(at)  # and with it the lock; what the file says counts for nothing then


async def tell(folder: Path, mine: Holder) -> None:
    """Write down who holds the lease as soon as there is room; whoever calls it does.

    Args:
        folder: the state folder.
        mine: who that is.
    """
    async for _ in every(_AGAIN).rounds():
        try:
            if _read(folder) != mine:
                await asyncio.to_thread(_write, folder, mine)
        except OSError:
            continue
        return


def holder(folder: Path) -> Holder | None:
    """Return who holds the lease of a state folder; None when nobody does.

    Raises:
        OSError: nobody can say.
    """
    try:
        at = _open(folder, 0)
    except FileNotFoundError:
        return None
    try:
        return None if _try(at, fcntl.LOCK_SH) else _read(folder)
    finally:
        os.close(at)


def _open(folder: Path, flags: int) -> int:
    return os.open(folder / FILE, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)


def _lock(at: int) -> bool:
    """Take the lock, for a moment against those who only look; False when it is held."""
    tries = every(_NAP, within=_PATIENCE).tries()
    return any(_try(at, fcntl.LOCK_EX) for _ in tries)


def _try(at: int, kind: int) -> bool:
    try:
        fcntl.flock(at, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(folder: Path, mine: Holder) -> None:
    """Say who holds it, beside the lock: a file that is locked cannot be replaced whole."""
    jsonfiles.store(str(folder), WHO, {"pid": mine.pid, "host": mine.host, "since": mine.since})


def _read(folder: Path) -> Holder:
    said = jsonfiles.load(str(folder), WHO) or {}
    pid, host, since = said.get("pid"), said.get("host"), said.get("since")
    return Holder(
        pid=pid if type(pid) is int and 0 < pid < 2**31 else 0,
        host=clean(host)[:64] if isinstance(host, str) else "",
        since=since if type(since) is float and 0 <= since < 2**33 else None,
    )
