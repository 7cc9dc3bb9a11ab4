"""Following the queue on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outpost_manager.cli.bringing import bringing_up
from outpost_manager.cli.progress import Progress
from outpost_mayor.dispatch.draining import drain

if TYPE_CHECKING:
    from collections.abc import Callable

    from outpost_manager.cli.session import Session
    from outpost_manager.ledger import Entry
    from outpost_manager.manager import Manager
    from outpost_manager.remote.manager import RemoteManager


async def follow(
    session: Session,
    manager: Manager,
    *,
    place: bool = True,
    wanted: Callable[[Entry], bool] = lambda _: True,
) -> list[Entry]:
    """Work on the queue and show what happens; see `draining.drain`.

    Outposts with `scaling` are brought up for what waits, as a mayor does it.
    """
    progress = Progress.of(session)
    try:
        async with bringing_up(session, manager, waits=place):
            return await drain(manager, place=place, wanted=wanted, on_change=progress.worker)
    finally:
        progress.close()


async def follow_there(
    session: Session, manager: RemoteManager, *, placed: bool = True
) -> tuple[list[Entry], list[Entry]]:
    """Show what the mayor of a server does with its queue; see `farqueue.until_done`."""
    from outpost_mayor.farqueue import until_done

    progress = Progress.of(session)
    try:
        return await until_done(manager, placed=placed, on_change=progress.worker)
    finally:
        progress.close()
