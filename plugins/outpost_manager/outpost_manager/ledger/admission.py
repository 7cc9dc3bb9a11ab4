"""What a reservation has to pass besides slots and the outpost's own cap.

Whether its outpost is up, breakers, budgets, and the account that it uses: the first of its agent's
accounts that is not parked, whose breaker lets it through, and that has room. All inside the
transaction of the reservation; asked without one, it says what would be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from outpost_manager.ledger import accounts, breakers, budgets, scaling

if TYPE_CHECKING:
    from outpost_manager.ledger.accounts import Account
    from outpost_manager.ledger.breakers import Breaker
    from outpost_manager.ledger.budgets import Budget, Meter
    from outpost_manager.ledger.values import Ask


class Outcome(StrEnum):
    """What became of a reservation."""

    RESERVED = "reserved"
    EXISTS = "exists"  # the worker is there already, with the same order
    CONFLICT = "conflict"  # the worker is there already, with another order
    FULL = "full"  # no free slot
    CAPPED = "capped"  # the cost cap would be passed
    BUDGET = "budget"  # a budget would be passed
    ACCOUNT = "account"  # no account of its agent has room
    PARKED = "parked"  # the provider takes no more of its account for a while
    BREAKER = "breaker"  # too much has failed there, or with its account
    DOWN = "down"  # it is not up, or about to be stopped
    WITHDRAWN = "withdrawn"  # the queue's entry that it is placed for may not be placed any more


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why something is not reserved.

    Args:
        outcome: what is in the way.
        detail: one sentence for people.
        until: when it may go, as far as anybody knows now.
    """

    outcome: Outcome
    detail: str
    until: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What wants to be admitted.

    Args:
        worker: its id.
        outpost: where.
        rig: its repository.
        labels: of its issue.
        model: that its agent is told to use; "" when it is not told any.
        worst: nano-dollars of outpost and agent at worst.
        agent: the agent's part of it; None when nobody knows.
        uncounted: why nobody knows.
        accounts: of its agent, in the order of preference; never empty.
        budgets: all that are configured.
        now: seconds since the epoch.
        besides: its own id, when what it holds already does not count.
        parking: whether parked accounts are left alone.
        if_up: whether an outpost that is down counts as up.
        machine: nano-dollars an hour of the machine that would have to be started for it.
    """

    worker: str
    outpost: str
    rig: str | None
    labels: Sequence[str]
    model: str
    worst: int
    agent: int | None
    uncounted: str
    accounts: Sequence[Account]
    budgets: Sequence[Budget]
    now: float
    besides: str = ""
    parking: bool = True
    if_up: bool = False
    machine: int = 0


@dataclass(kw_only=True, slots=True)
class Admission:
    """An answer.

    Args:
        account: the account that it uses; "" when it is refused.
        refusal: why it is; None when it is not.
        probes: breakers for which it is the one probe.
        meters: budgets that it counts in, each with what it holds with this one.
    """

    account: str = ""
    refusal: Refusal | None = None
    probes: list[Breaker] = field(default_factory=list)
    meters: list[tuple[Meter, int]] = field(default_factory=list)


def admit(ask: Ask, wanted: Wanted) -> Admission:
    """Say whether something may be reserved, and with which account; changes nothing."""
    found = Admission()
    if not wanted.if_up and (why := scaling.obstacle(ask, wanted.outpost)):
        return Admission(refusal=Refusal(outcome=Outcome.DOWN, detail=why))
    breaker = breakers.look(ask, breakers.OUTPOST, wanted.outpost)
    if refusal := _refused_by(ask, breaker, wanted, found):
        return Admission(refusal=refusal)
    common = [budget for budget in wanted.budgets if not budget.account]
    if refusal := _over(ask, common, "", wanted, found):
        return _warned(found, refusal)
    refusals = []
    for account in wanted.accounts:
        answer = Admission(probes=[*found.probes], meters=[*found.meters])
        refusal = _account(ask, account, wanted, answer)
        if refusal is None:
            answer.account = account.name
            return answer
        refusals.append(refusal)
    return _warned(found, _nearest(refusals))


def _warned(found: Admission, refusal: Refusal) -> Admission:
    """Return a refusal, with the budgets that were looked at."""
    return Admission(refusal=refusal, meters=found.meters)


def _account(ask: Ask, account: Account, wanted: Wanted, answer: Admission) -> Refusal | None:
    """Return why an account cannot be used; None when it can, which `answer` is told."""
    if wanted.parking:
        why, until = accounts.parked(ask, account.name, wanted.model, wanted.now)
    else:
        why, until = "", 0.0
    if why:
        return Refusal(outcome=Outcome.PARKED, detail=why, until=until)
    breaker = breakers.look(ask, breakers.ACCOUNT, account.name)
    if refusal := _refused_by(ask, breaker, wanted, answer):
        return refusal
    detail, when = accounts.obstacle(ask, account, wanted.agent, wanted.now, wanted.besides)
    if detail:
        if wanted.agent is None and wanted.uncounted and account.usd:
            detail = f"{detail}: {wanted.uncounted}"
        return Refusal(outcome=Outcome.ACCOUNT, detail=detail, until=when)
    own = [budget for budget in wanted.budgets if budget.account]
    return _over(ask, own, account.name, wanted, answer)


def _refused_by(
    ask: Ask, breaker: Breaker | None, wanted: Wanted, answer: Admission
) -> Refusal | None:
    if breaker is None:
        return None
    refused, until = breakers.refuses(ask, breaker, wanted.worker, wanted.now)
    if refused:
        return Refusal(outcome=Outcome.BREAKER, detail=breaker.why(), until=until)
    answer.probes.append(breaker)
    return None


def _over(
    ask: Ask, some: Iterable[Budget], account: str, wanted: Wanted, answer: Admission
) -> Refusal | None:
    """Return the budget that would be passed; None when there is none."""
    for budget in some:
        if not budget.counts(wanted.outpost, wanted.rig, wanted.labels, account):
            continue
        if wanted.agent is None:
            why = wanted.uncounted or "nobody knows what its agent may spend"
            detail = f"budget {budget.name} could not be kept: {why}"
            return Refusal(outcome=Outcome.BUDGET, detail=detail)
        meter = budgets.meter(budget)
        use = meter.use(ask, wanted.now, wanted.besides)
        worst = wanted.worst + (wanted.machine if budget.counts_places(wanted.outpost) else 0)
        detail, until = budgets.refusal(meter, use, worst, ask, wanted.now)
        answer.meters.append((meter, use.used if detail else use.used + wanted.worst))
        if detail:
            return Refusal(outcome=Outcome.BUDGET, detail=detail, until=until)
    return None


def _nearest(refusals: Sequence[Refusal]) -> Refusal:
    """Return the refusal of all accounts: the kind and moment of the one that may go first."""
    if len(refusals) == 1:
        return refusals[0]
    first = min(refusals, key=lambda one: float("inf") if one.until is None else one.until)
    detail = "; ".join(one.detail for one in refusals)
    return Refusal(outcome=first.outcome, detail=detail, until=first.until)
