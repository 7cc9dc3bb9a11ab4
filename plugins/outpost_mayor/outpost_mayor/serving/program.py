"""The program that `outpost serve` runs: the heart of a program that stays, under the lease."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from outpost_core.errors import UsageError
from outpost_manager.host import stay
from outpost_mayor.api import listen
from outpost_mayor.api.answering import answer
from outpost_mayor.serving import lease, status
from outpost_mayor.serving.systemd import ServiceManager
from outpost_shared.backoff import every
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_manager.config.api import Address
    from outpost_manager.manager import Manager
    from outpost_manager.plugins.services import Services

_log = Logger("serve")
#: Bytes of a file of secrets, at most.
_MOST = 1 << 20
#: Seconds between two looks at whether a full disk has room again.
_LOOK = 1.0


async def serve(
    manager: Manager,
    end: asyncio.Event | None = None,
    *,
    at: Address | None = None,
    holder: lease.Holder | None = None,
) -> None:
    """Host the services of plugins until this program is told to end; workers keep running.

    The caller holds the lease of the state folder.

    Args:
        manager: an open one.
        end: ends it too, once it is set.
        at: where its API listens besides its private socket; None for where the configuration
            says.
        holder: who holds the lease, to be written down where that was not possible yet.

    Raises:
        OutpostError: its API cannot listen there; nothing has begun.
    """
    async with listen.opened(manager.state, at or manager.config.api.address) as doors:
        await _serve(manager, end, doors, holder)


async def _serve(
    manager: Manager, end: asyncio.Event | None, doors: listen.Doors, holder: lease.Holder | None
) -> None:
    above = ServiceManager(os.environ)
    await _room(manager, above, end)
    live = await manager.ledger.active()  # whoever cannot open the ledger is not READY
    tasks = [asyncio.create_task(above.beat())]
    if holder is not None:
        tasks.append(asyncio.create_task(lease.tell(manager.state, holder)))

    def begun(services: Services) -> None:
        tasks.append(asyncio.create_task(status.keep(manager.state, services)))
        tasks.append(asyncio.create_task(answer(manager, doors)))
        names = ", ".join(sorted(note.name for note in services.notes)) or "none"
        _log.info(
            "the mayor runs: %d outposts, %d workers live, services: %s",
            len(manager.fleet.names), sum(live.values()), names,
        )  # fmt: skip
        _log.info("the API listens at %s", " and ".join(doors.urls))
        above.tell("READY=1", f"STATUS={len(manager.fleet.names)} outposts")

    try:
        await stay(manager, end, begun=begun)
    finally:
        above.tell("STOPPING=1", "STATUS=ending; workers keep running")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        _log.info("the mayor ends; workers keep running")


async def _room(manager: Manager, above: ServiceManager, end: asyncio.Event | None) -> None:
    """Wait until the ledger can be written: on a full disk, nothing that is done would be kept."""
    said = False
    async for _ in every(_LOOK).rounds():
        if await manager.ledger.is_kept() or (end is not None and end.is_set()):
            return
        if not said:
            said = True
            why = str(await manager.ledger.read(lambda ledger: ledger.aside))
            _log.warning("the mayor waits: %s", why)
            above.tell("READY=1", f"STATUS=waiting: {why}")


def read_secrets(path: Path) -> dict[str, str]:
    """Return the variables of a file of `NAME=value` lines, as systemd reads an EnvironmentFile.

    Args:
        path: the file; nobody else may read it.

    Raises:
        UsageError: it is missing, others can read it, or a line is none.
    """
    from outpost_core.types import check_env_name

    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            if about.st_mode & 0o077 or about.st_uid not in (os.getuid(), 0):
                raise UsageError(
                    f"others can read or change {path}, which is for secrets",
                    hint=f"chmod 600 {path}",
                )
            text = file.read(_MOST).decode("utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no UTF-8 text") from None
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        said = line.strip()
        if not said or said[0] in "#;":
            continue
        name, equals, value = said.partition("=")
        if not equals:
            raise UsageError(f"{path}:{number}: NAME=value was expected")  # never shows the line
        check_env_name(name.strip())
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        found[name.strip()] = value
    return found
