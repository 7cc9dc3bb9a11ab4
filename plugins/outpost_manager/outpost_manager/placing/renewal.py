"""Trying again what failed before its agent began: such a try does not use up its number.

The agent of the try before never ran, which its result says (`agent_began`), so that the same id
may run once more and still runs once (law 1). One process claims the ended row, has the outpost
forget the try, and then reserves anew in the place of the row, in one transaction. Killed in
between, the row says how the try ended, as before, and whoever asks next does the same again.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError, UnreachableError
from outpost_core.types import Cleaned
from outpost_manager.ledger import Claim
from outpost_manager.ledger.claims import RENEWING
from outpost_shared import faults
from outpost_shared.backoff import every
from outpost_shared.identity import me

if TYPE_CHECKING:
    from outpost_core.types import Worker
    from outpost_manager.fleet.fleet import Fleet
    from outpost_manager.ledger import AsyncLedger
    from outpost_manager.placing.pending import PendingOrder

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
    ledger: AsyncLedger
    patience: float

    async def make_room(self, pending: PendingOrder) -> None:
        """Have the failed try of a pending forgotten where it was, and hold its row.

        Afterwards `pending.renews` is that try, and the pending may reserve in its place. Where the
        outpost cannot forget it now, the pending is as before: it finds what there is.
        """
        owner = f"{me()}{RENEWING}{uuid.uuid4().hex[:12]}"
        async for _ in every(_WATCH_EVERY, within=self.patience).rounds():
            worker = await self.ledger.worker(pending.id)
            if worker is None or not worker.unbegun:
                return  # another process was faster
            before = pending.owner
            pending.owner, pending.held = owner, True  # whoever is cancelled now may have it
            if await self.ledger.claim_ended(pending.id, owner) is Claim.MINE:
                break
            pending.owner, pending.held = before, False
        else:
            pending.error = UnreachableError(
                f"another process is still trying {pending.id} again",
                hint=f"outpost show {pending.id}",
            )
            return
        worker = await self.ledger.worker(pending.id)  # it may have been renewed until the claim
        if worker is not None and worker.unbegun:
            faults.point("manager.renewing")
            if await self._forgotten(worker):
                faults.point("manager.cleared")
                pending.renews = worker
                pending.say("renewed", worker.outpost)
                return
        await self.ledger.disown(pending.id, owner)
        pending.held = False

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
