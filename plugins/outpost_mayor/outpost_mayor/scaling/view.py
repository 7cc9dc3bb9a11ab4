"""What is up and comes next as people see it, here or at a server; and the document about it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from outpost_manager.jsonviews import moment
from outpost_mayor.scaling.decide import Decision, outlook

if TYPE_CHECKING:
    from outpost_manager.manager import Manager
    from outpost_manager.remote.fields import Fields
    from outpost_mayor.scaling.decide import Place


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An outpost that is brought up and down.

    Args:
        outpost: its name.
        phase: down, starting, up, draining or stopping.
        running: units that are up.
        desired: units that are wanted.
        most: units that may be up.
        active: workers there that have not ended.
        since: moment of the phase.
        decision: who decided: mayor or hand; "" where nobody has.
        reason: why.
        error: what failed last; "" for nothing.
        price: USD an hour of what is up; None where nobody knows.
        retry_at: moment before which nothing is tried again, or None.
        next: what comes next.
    """

    outpost: str
    phase: str
    running: int
    desired: int
    most: int
    active: int
    since: float
    decision: str
    reason: str
    error: str
    price: float | None
    retry_at: float | None
    next: str

    @property
    def settled(self) -> bool:
        """Whether nothing is under way there."""
        if self.phase not in ("up", "down"):
            return False
        return bool(self.error) or self.running == self.desired


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """All of them.

    Args:
        outposts: how each stands.
        decisions: what is to be done.
        errors: of an outpost that does not say how much of it is up, why.
    """

    outposts: list[Shown]
    decisions: list[Decision] = field(default_factory=list)
    errors: Mapping[str, str] = field(default_factory=dict)


async def overview(manager: Manager, *, foresee: bool = False) -> Scaling:
    """Ask the outposts how much of them is up; return how they stand.

    Args:
        manager: an open one.
        foresee: also say what would be done now.
    """
    from outpost_mayor.scaling.scaler import Scaler

    scaler = Scaler(manager)
    rows = await manager.ledger.scaling.all()
    entries = manager.config.outposts
    known = [one.name for one in entries if one.scaling] + [
        one.name for one in entries if one.name in rows
    ]
    errors = await scaler.learn([*dict.fromkeys(known)])
    decisions = (await scaler.decisions()).decisions if foresee else ()
    return Scaling(
        outposts=shown(await scaler.places()),
        decisions=[*decisions],
        errors={name: str(error) for name, error in errors.items()},
    )


async def by_hand(
    manager: Manager, name: str, to: int, *, dry_run: bool, wait: bool = False
) -> Scaling:
    """Have so many units of an outpost up.

    Args:
        manager: an open one.
        name: of the outpost.
        to: units.
        dry_run: only say what would be done.
        wait: do it here, and return once it is done; else a mayor does it.

    Raises:
        OutpostError: it cannot be done, or could not.
    """
    from outpost_mayor.scaling.hand import Hand

    hand = Hand(manager, name)
    plan = await hand.plan(to)
    if plan is not None and not dry_run:
        await hand.begin(plan)
        if wait:
            await hand.finish()
    return Scaling(outposts=shown([await hand.place()]), decisions=[plan] if plan else [])


def shown(found: Iterable[Place]) -> list[Shown]:
    """Return places as people see them."""
    now = time.time()
    return [
        Shown(
            outpost=one.name, phase=one.row.phase.value, running=one.row.running,
            desired=one.row.desired, most=one.most, active=one.active, since=one.row.since,
            decision=one.row.decision, reason=one.row.reason, error=one.row.error,
            price=one.cost(one.row.running), retry_at=one.row.retry_at or None,
            next=outlook(one, now),
        )
        for one in found
    ]  # fmt: skip


def document(scaling: Scaling) -> dict[str, Any]:
    """Return the JSON document."""
    return {
        "outposts": [
            {**vars(one), "since": moment(one.since), "retry_at": moment(one.retry_at)}
            for one in scaling.outposts
        ],
        "decisions": [
            {"outpost": one.outpost, "to": one.to, "more": one.more, "why": one.why,
             "price": one.price}
            for one in scaling.decisions
        ],
        "errors": {name: said.split("\n")[0] for name, said in scaling.errors.items()},
    }  # fmt: skip


def read(said: Fields) -> Scaling:
    """Return what a document says.

    Raises:
        NotBelievedError: no server of ours says that.
    """
    errors = said.within("errors") if said.data.get("errors") is not None else None
    return Scaling(
        outposts=[
            Shown(
                outpost=one.text("outpost"), phase=one.text("phase"), running=one.whole("running"),
                desired=one.whole("desired"), most=one.whole("most"), active=one.whole("active"),
                since=one.moment("since"), decision=one.text("decision"),
                reason=one.text("reason"), error=one.text("error"), price=one.real_or("price"),
                retry_at=one.moment_or("retry_at"), next=one.text("next"),
            )
            for one in said.objects("outposts")
        ],
        decisions=[
            Decision(outpost=one.text("outpost"), to=one.whole("to"), more=one.flag("more"),
                     why=one.text("why"), price=one.real_or("price"))
            for one in said.objects("decisions")
        ],
        errors={} if errors is None else {name: errors.text(name) for name in errors.data},
    )  # fmt: skip
