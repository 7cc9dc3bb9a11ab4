"""Outposts with `scaling`, while a command waits for one of them to come up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from outpost_core.errors import LedgerError, OutpostError
from outpost_manager.cli import render
from outpost_manager.fleet.overview import WHEN_NEEDED
from outpost_manager.ledger.scaling import Phase
from outpost_shared.backoff import Backoff

if TYPE_CHECKING:
    from outpost_manager.cli.session import Session
    from outpost_manager.ledger.scaling import Scaled
    from outpost_manager.manager import Manager
    from outpost_manager.remote.manager import RemoteManager

#: Seconds between two looks at what became of them.
_FIRST: Final = 0.2
_MOST: Final = 2.0


@asynccontextmanager
async def bringing_up(session: Session, manager: Manager, *, waits: bool) -> AsyncIterator[None]:
    """Have outposts with `scaling` be brought up for what waits here, as a mayor does it.

    Args:
        session: of this command.
        manager: an open one.
        waits: whether anything may have to wait for one.
    """
    scaled = [entry.name for entry in manager.config.outposts if entry.scaling]
    if not scaled or not waits:
        yield
        return
    before = await manager.ledger.scaling.all()
    telling = asyncio.create_task(_tell(session, manager, scaled))
    try:
        async with manager.services(only=("scale",)):
            yield
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
    after = await manager.ledger.scaling.all()
    for name in scaled:
        was, now = before.get(name), after.get(name)
        if now is not None and now.running and now.decision and not (was and was.running):
            session.note(
                f"{render.clean(name)} was started for this; outpost serve brings it down when it"
                f" is idle, or outpost scale {render.clean(name)} --to 0"
            )


class Failures:
    """Says of outposts why they could not be brought up, whenever that is another reason.

    Args:
        session: of this command.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._told = dict[str, str]()

    async def look_there(self, manager: RemoteManager) -> None:
        """Say what a server knows, as far as it answers."""
        with suppress(OutpostError):
            for view in await manager.outposts():
                if view.state == Phase.DOWN and view.detail != WHEN_NEEDED:
                    self.tell(view.name, view.detail)

    def tell(self, name: str, why: str) -> None:
        """Say why one could not be brought up; "" for no reason."""
        if not why or self._told.get(name) == why:
            return
        self._told[name] = why
        self._session.note(render.clean(f"{name} could not be brought up: {why}"))
        self._session.note("  → it is tried again; outpost scale says when")


async def _tell(session: Session, manager: Manager, names: Sequence[str]) -> None:
    failures, pauses = Failures(session), Backoff(_FIRST, _MOST)
    while True:
        with suppress(LedgerError):
            rows = await manager.ledger.scaling.all()
            for name in names:
                failures.tell(name, _failed(rows.get(name)))
        await pauses.wait()


def _failed(row: Scaled | None) -> str:
    return row.error if row is not None and row.phase is Phase.DOWN else ""
