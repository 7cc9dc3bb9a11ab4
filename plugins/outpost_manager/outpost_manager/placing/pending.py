"""One order on its way to an outpost."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from outpost_core.errors import OutpostError, PlacementError
from outpost_core.types import Candidate, Event, Explanation, Json, Order, Worker
from outpost_manager.config.spending import worst_case
from outpost_manager.ledger import Reservation
from outpost_shared.identity import me

if TYPE_CHECKING:
    from outpost_manager.config.policy import Ranking

#: Is told the steps of an order.
Progress: TypeAlias = Callable[[Event], None]

#: How the rule of an explanation begins when the user named the outpost; its name follows.
ASKED_FOR: Final = "asked for: --on "
#: The same for an attempt whose agent goes on with its session, which is nowhere else.
SESSION_AT: Final = "its agent goes on with its session at "


@dataclass(frozen=True, kw_only=True)
class Spawned:
    """What became of an order.

    Args:
        worker: the worker, as recorded.
        adopted: it was there before: nothing new was started.
        explanation: why it is where it is.
        renews: the try before under the same id, which failed before its agent began.
    """

    worker: Worker
    adopted: bool
    explanation: Explanation
    renews: Worker | None = None


class NotPlacedError(PlacementError):
    """No outpost takes an order now.

    Args:
        until: when one may, as far as the ledger knows: a window has moved, a pause is over.
        crowded: one would, if less ran or were spent there.
    """

    #: its name in JSON, where `until` is nobody's business
    shown_as: Final = "PlacementError"

    def __init__(
        self, message: str, *, hint: str = "", until: float | None = None, crowded: bool = False
    ) -> None:
        super().__init__(message, hint=hint)
        self.until = until
        self.crowded = crowded


class WithdrawnError(PlacementError):
    """Before the slot of an order of the queue was reserved, its turn was over.

    It was taken out, paused or moved there, or others have placed as many as the rules allow.
    """

    #: its name in JSON
    shown_as: Final = "PlacementError"


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What the queue says of an order whose turn it is; empty when it is placed by hand.

    Args:
        entry: digest of the queue's entry that it is placed for. One that was taken out, paused
            or moved since is not placed, and its answer is a `WithdrawnError`.
        avoid: the outpost that it is not to go to; "" for none.
        account: the one account of its agent that it is to use; "" for any of them.
        rule: why there is one outpost for it, where the user has not named that; or "".
    """

    entry: str = ""
    avoid: str = ""
    account: str = ""
    rule: str = ""


@dataclass(kw_only=True, eq=False)
class PendingOrder:
    """One order on its way.

    Args:
        order: what is to be done.
        digest: `wire.digest(order)`.
        progress: is told each step: `placed`, `reserved`, `starting`, `sending`, `refused`,
            `renewed`, `spawned`.
        on: the one outpost to use, or None.
        turn: what the queue says of it.
        owner: the word under which the ledger's row is held.
        candidates: the fact sheets that the policy saw, by name.
        explanation: why, and what was tried.
        queue: outposts still to be tried.
        outpost: where it is reserved.
        adopted: the worker that was there before.
        error: why it goes nowhere.
        held: the ledger has a row of which this pending is the owner.
        doubt: somebody before may have reached `outpost`: without its own word that nothing
            runs there, the order goes nowhere else (law 1).
        recovered: it was taken up after its process had died.
        renews: the ended try whose row this pending replaces.
        account: whose credentials its agent uses, once it is reserved.
        until: when what refused it may take it, as far as anybody knows.
        crowded: an outpost would have taken it, if less ran or were spent there.
    """

    order: Order
    digest: str
    progress: Progress | None = None
    on: str | None = None
    turn: Turn = field(default_factory=Turn)
    owner: str = field(default_factory=lambda: f"{me()}/{uuid.uuid4().hex[:12]}")
    candidates: Mapping[str, Candidate] = field(default_factory=dict)
    explanation: Explanation = field(default_factory=lambda: Explanation(rule="", verdicts=()))
    queue: list[str] = field(default_factory=list)
    outpost: str = ""
    adopted: Worker | None = None
    error: OutpostError | None = None
    held: bool = False
    doubt: bool = False
    recovered: bool = False
    renews: Worker | None = None
    account: str = ""
    crowded: bool = False
    until: float | None = None

    @property
    def id(self) -> str:
        """The worker's id."""
        return self.order.worker

    def say(self, kind: str, outpost: str = "", **data: Json) -> None:
        """Tell a step to whoever waits for this order."""
        if self.progress is not None:
            event = Event(kind=kind, at=time.time(), worker=self.id, outpost=outpost, data=data)
            self.progress(event)

    def chosen(self, assignment: Ranking, candidates: tuple[Candidate, ...]) -> None:
        """Take over what the policy decided."""
        self.candidates = {sheet.name: sheet for sheet in candidates}
        self.explanation = assignment.explain()
        self.queue = list(assignment.ranked)
        self.say("placed", self.queue[0] if self.queue else "")

    def refused(self, outpost: str, reason: str, until: float | None = None) -> None:
        """Keep why an outpost did not take it, and when it may."""
        if until is not None:
            self.until = min(until, self.until or until)
        tried = (*self.explanation.attempts, (outpost, reason))
        self.explanation = replace(self.explanation, attempts=tried)
        self.say("refused", outpost, reason=reason)

    def reserved(self, reservation: Reservation, account: str) -> None:
        """Note that the row is held at another outpost, where nobody has been before."""
        self.account = account
        self.outpost, self.held, self.doubt = reservation.outpost, True, False
        worst = reservation.cost + (reservation.agent_cost or 0.0)
        self.say("reserved", self.outpost, cost=worst)

    def next_reservation(self) -> Reservation | None:
        """Return the reservation at the next outpost, or None when there is no more."""
        if not self.queue:
            return None
        sheet = self.candidates[self.queue.pop(0)]
        return Reservation(
            order=self.order,
            outpost=sheet.name,
            digest=self.digest,
            max_workers=sheet.max_workers,
            cost=max(0.0, sheet.cost - sheet.agent_cost),
            agent_cost=worst_case(self.order),
            cost_cap_hourly=sheet.cost_cap_hourly,
            explanation=self.explanation,
            owner=self.owner,
            entry=self.turn.entry,
        )

    def nobody(self) -> NotPlacedError:
        """Say why nobody took it."""
        lines = [
            f"{v.outpost}: {v.reason}" for v in self.explanation.verdicts if not v.eligible
        ] + [f"{outpost}: {reason}" for outpost, reason in self.explanation.attempts]
        reasons = "".join(f"\n  {line}" for line in lines) or " there is none"
        return NotPlacedError(
            f"no outpost could take {self.id}:{reasons}",
            until=self.until,
            crowded=self.crowded or any(map(_crowded, self.candidates.values())),
            hint=f"outpost explain {self.order.issue.id} shows each outpost; outpost workers"
            " shows what runs",
        )


def _crowded(sheet: Candidate) -> bool:
    """Whether an outpost would take one more if less ran there."""
    slots = sheet.max_workers
    return sheet.available and slots is not None and 0 < slots <= sheet.active
