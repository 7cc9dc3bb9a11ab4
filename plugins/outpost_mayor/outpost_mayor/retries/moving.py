"""What waits with its agent's session for one outpost goes on elsewhere, where that takes it not.

A session is at one outpost alone. Once an account may be used and that outpost has not taken the
work for a while, since it is full, unreachable or gone, the work begins anew from what was rescued,
at another outpost that the policy allows. The entry is changed in one transaction that also writes
the event `decided`, and only while it waits as it was seen: killed anywhere, beside another mover
or a dispatcher that places it in that moment, it is placed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from outpost_core.errors import LedgerError, OutpostError
from outpost_manager.config.accounts import model_of
from outpost_shared import faults
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_core.types import Candidate, Json, Order
    from outpost_manager.ledger import Entry
    from outpost_manager.ledger.entries import Decided
    from outpost_manager.manager import Manager

_log = Logger("retries")
#: Seconds within which an outpost that seems to have room has refused it: a dispatcher tries more
#: often.
_LATELY: Final = 15.0


class Mover:
    """Lets work go on elsewhere whose outpost does not take it.

    Args:
        manager: whose queue it is.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        #: when the first of those that wait may go elsewhere, as far as is known
        self.next_moment: float | None = None

    async def step(self, now: float) -> int:
        """Look at all that waits for an outpost; return how many go elsewhere.

        Args:
            now: seconds since the epoch.
        """
        moved, moments = 0, []
        for entry in await self._manager.ledger.queue.tied():
            parked = await self._parked(entry)
            if parked is None:
                continue
            try:
                due = await self._due(entry, parked, now)
                if due > now:
                    moments.append(due)
                else:
                    moved += await self._move(entry, parked, now)
            except LedgerError:
                raise
            except OutpostError as error:
                _log.info("%s stays where it waits: %s", entry.worker, error)
        self.next_moment = min(moments, default=None)
        return moved

    async def _parked(self, entry: Entry) -> Decided | None:
        """Return the decision that lets an entry go on with a session, where it may do without."""
        before = await self._manager.ledger.queue.decisions(entry.issue, entry.added_at)
        last = next((one for one in reversed(before) if one.text("next") == entry.worker), None)
        if last is None or not last.text("session") or last.text("asked") == entry.place:
            return None
        return last

    async def _due(self, entry: Entry, parked: Decided, now: float) -> float:
        """Return when an entry has waited long enough for its outpost."""
        manager = self._manager
        if entry.place not in manager.fleet.names:
            return now
        order = await manager.ledger.queue.order(entry.issue)
        accounts = [one.name for one in manager.purse.accounts(entry.agent)] or [entry.agent]
        own = parked.text("account")
        if not manager.config.retries.other_accounts and own in accounts:
            accounts = [own]
        model = model_of(order) if order is not None else ""
        free = await manager.ledger.parking.free_at(accounts, model, now)
        return max(parked.at, free) + manager.config.retries.patience

    async def _move(self, entry: Entry, parked: Decided, now: float) -> bool:
        """Let an entry go elsewhere, if it can and its outpost does not take it."""
        manager = self._manager
        place = parked.text("asked") or None
        following = await manager.further.by_itself(parked.worker, of=parked.text("of"))
        if following.order.worker != entry.worker or following.order.resume_at == entry.place:
            return False
        gone = entry.place not in manager.fleet.names
        if not gone and not await self._better(entry, following.order, place, now):
            return False
        there = "is not configured any more" if gone else "does not take it"
        why = f"{entry.place}, which has its session, {there}: it begins anew from its work"
        told: dict[str, Json] = {
            "what": "elsewhere", "why": why, "reason": parked.text("reason"),
            "next": entry.worker, "at": now, "outpost": entry.place or "",
            "account": parked.text("account"),
        }  # fmt: skip
        faults.point("retries.decided")
        changed = await manager.ledger.queue.again(
            entry,
            following.order,
            why=why,
            place=place,
            told=("decided", told),
            of=parked.worker,
        )
        faults.point("retries.settled")
        return changed

    async def _better(self, entry: Entry, anew: Order, place: str | None, now: float) -> bool:
        """Whether another outpost would take the work now, and its own would not."""
        manager = self._manager
        waiting = await manager.ledger.queue.order(entry.issue)
        if waiting is None:
            return False
        mine, others = await manager.overview.sheets([waiting, anew], now)
        if entry.place in await self._takers(waiting, mine, entry.place):
            events = await manager.ledger.events(entry.worker)
            if not any(
                one.kind == "refused" and one.outpost == entry.place and one.at >= now - _LATELY
                for one in events
            ):
                return False  # it is about to be placed there, or others are before it
        takers = await self._takers(anew, others, place)
        return any(name != entry.place for name in takers)

    async def _takers(self, order: Order, sheets: Sequence[Candidate], on: str | None) -> list[str]:
        """Return the outposts that would take an order now."""
        placement = self._manager.placement
        said = placement.assign(order, sheets, on).explain()
        said = await placement.foreseen(order, said, sheets)
        return [one.outpost for one in said.verdicts if one.eligible]
