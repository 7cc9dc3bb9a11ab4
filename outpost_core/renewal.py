"""Trying again what failed before its agent began: such a try does not use up its number.

The agent of the try before never ran, which its result says (`agent_began`), so that the same id
may run once more and still runs once (law 1). One process claims the ended row, has the outpost
forget the try, and then reserves anew in the place of the row, in one transaction. Killed in
between, the row says how the try ended, as before, and whoever asks next does the same again.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from outpost_core import faults
from outpost_core.errors import OutpostError, UnreachableError
from outpost_core.ledger import Claim
from outpost_core.ledger.claims import RENEWING
from outpost_core.types import Cleaned
from outpost_core.worker.identity import me

if TYPE_CHECKING:
    from outpost_core.fleet import Fleet
    from outpost_core.ledger import Ledger
    from outpost_core.ticket import Ticket
    from outpost_core.types import Worker

#: How often the row is looked at while another process renews it, in seconds.
_WATCH_EVERY: Final = 0.05


@dataclass(kw_only=True, eq=False)
class Renewal:
    """Makes room for another try.

    Args:
        fleet: the outposts.
        ledger: the record.
        patience: seconds that an outpost, or another process, may take.
    """

    fleet: Fleet
    ledger: Ledger
    patience: float

    async def make_room(self, ticket: Ticket) -> None:
        """Have the failed try of a ticket forgotten where it was, and hold its row.

        Afterwards `ticket.renews` is that try, and the ticket may reserve in its place. Where the
        outpost cannot forget it now, the ticket is as before: it finds what there is.
        """
        owner = f"{me()}{RENEWING}{uuid.uuid4().hex[:12]}"
        deadline = time.monotonic() + self.patience
        while True:
            worker = self.ledger.worker(ticket.id)
            if worker is None or not worker.unbegun:
                return  # another process was faster
            claim = self.ledger.claim_ended(ticket.id, owner)
            if claim is Claim.MINE:
                ticket.owner, ticket.held = owner, True
                break
            if time.monotonic() > deadline:
                ticket.error = UnreachableError(
                    f"another process is still trying {ticket.id} again",
                    mend=f"outpost show {ticket.id}",
                )
                return
            await asyncio.sleep(_WATCH_EVERY)
        worker = self.ledger.worker(ticket.id)  # it may have been renewed until the claim
        if worker is not None and worker.unbegun:
            faults.point("manager.renewing")
            if await self._forgotten(worker):
                faults.point("manager.cleared")
                ticket.renews = worker
                ticket.say("renewed", worker.outpost)
                return
        self.ledger.disown(ticket.id, owner)
        ticket.held = False

    async def _forgotten(self, worker: Worker) -> bool:
        """Whether the outpost has forgotten the try, as far as it can be had now."""
        try:
            if not self.fleet.supports(worker.outpost, "clean"):
                return False
            cleaned = await self.fleet.ask_for(
                Cleaned,
                worker.outpost,
                "outpost_clean",
                timeout=self.patience,
                worker=worker.id,
                force=False,
            )
        except OutpostError:
            return False
        return cleaned.removed
