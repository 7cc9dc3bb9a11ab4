"""Following the event log: what a program that stays sees of all processes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final

from outpost_shared.backoff import Backoff

if TYPE_CHECKING:
    from outpost_core.types import Event
    from outpost_manager.ledger import AsyncLedger

#: Seconds between two looks at the log: after something happened, and at most. A look that finds
#: nothing takes no lock and reads one page.
LOOK_FIRST: Final = 0.02
LOOK_MOST: Final = 0.5
#: Events that are read at once.
_PAGE: Final = 500


async def follow(ledger: AsyncLedger, after: int | None) -> AsyncGenerator[Event, None]:
    """Yield events in the order of the log; never ends.

    Args:
        ledger: an open one.
        after: id of the last event that is known; None for what happens from now on.
    """
    seen = await ledger.last_event() if after is None else after
    looks = Backoff(LOOK_FIRST, LOOK_MOST, growth=1.5)
    while True:
        found = await ledger.events_after(seen, _PAGE)
        for event in found:
            seen = event.id
            yield event
        if found:
            looks.reset()
        await looks.wait()
