"""Accounts as a person sees them: what each has taken of what it may, and what keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from outpost_manager.ledger import money
from outpost_manager.ledger.breakers import ACCOUNT
from outpost_manager.placing.purse import limits_of

if TYPE_CHECKING:
    from outpost_manager.config.accounts import AccountConfig
    from outpost_manager.ledger import Account, Breaker, Ledger
    from outpost_manager.ledger.accounts import Taken
    from outpost_manager.ledger.parking import Parked


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowance:
    """One limit of an account.

    Args:
        unit: `usd` or `tokens`.
        window: `hour`, `day` or `week`.
        used: what was used within the window that ends now; of USD what is reserved, too.
        most: what may be.
    """

    unit: str
    window: str
    used: float
    most: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AccountView:
    """One account.

    Args:
        name: its name.
        agent: the agent that works with it; "" for one that is no longer configured.
        configured: whether the configuration names it; else the agent's name is its name.
        running: how many workers use it now.
        max_workers: how many may; None for no limit.
        allowances: its limits.
        parked: models for which it takes nothing for a while.
        breaker: its circuit breaker; None while nothing has failed.
    """

    name: str
    agent: str
    configured: bool
    running: int
    max_workers: int | None
    allowances: Sequence[Allowance]
    parked: Sequence[Parked]
    breaker: Breaker | None


def views(ledger: Ledger, configured: Sequence[AccountConfig]) -> list[AccountView]:
    """Return the configured accounts, and all others of which something is known now."""
    running, parkings = ledger.accounts_in_use(), ledger.parking.all()
    breakers = {one.name: one for one in ledger.breakers.all() if one.kind == ACCOUNT}
    names = {one.name for one in configured}
    taken = ledger.taken([limits_of(one) for one in configured])

    def view(
        name: str, agent: str, limits: Account | None, allowances: Sequence[Allowance]
    ) -> AccountView:
        return AccountView(
            name=name,
            agent=agent,
            configured=limits is not None,
            running=running.get(name, 0),
            max_workers=limits.max_workers if limits is not None else None,
            allowances=allowances,
            parked=[one for one in parkings if one.account == name],
            breaker=breakers.get(name),
        )

    found = [
        view(one.name, one.agent, limits_of(one), _allowances(limits_of(one), has))
        for one, has in zip(configured, taken, strict=True)
    ]
    others = {*running, *breakers, *(one.account for one in parkings)} - names
    return found + [view(name, name, None, ()) for name in sorted(others)]


def _allowances(account: Account, has: Taken) -> list[Allowance]:
    found = [
        Allowance(
            unit="usd", window=window, used=money.dollars(has.held + has.spent[window]), most=usd
        )
        for window, usd in account.usd
    ]
    found += [
        Allowance(unit="tokens", window=window, used=has.tokens[window], most=most)
        for window, most in account.tokens
    ]
    return found
