"""Money and accounts: what was spent, what it is held to, what keeps an account."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from outpost_core.errors import NotFoundError
from outpost_core.nearest import suggest
from outpost_manager.manager.outposts import Outposts
from outpost_manager.managing import Spending

if TYPE_CHECKING:
    from outpost_manager.ledger import Budget
    from outpost_manager.ledger.budgets import Use
    from outpost_manager.placing.accountviews import AccountView
    from outpost_manager.placing.forecast import Forecast


class Money(Outposts):
    """What is asked about money and accounts."""

    async def budgets(self) -> list[tuple[Budget, Use]]:
        """Return each budget with what its window holds now."""
        budgets = self.purse.budgets()
        return [*zip(budgets, await self.ledger.uses(budgets), strict=True)]

    async def forecast(self) -> Forecast:
        """Say what the waiting orders will cost, and what becomes of each budget; asks nobody."""
        from outpost_manager.placing.forecast import Forecaster

        return await Forecaster(
            ledger=self.ledger,
            overview=self.overview,
            placement=self.placement,
            purse=self.purse,
        ).forecast()

    async def spending(self, by: str, seconds: float, forecast: bool) -> Spending:
        """Say what was spent, as far as is known here; asks nobody.

        Args:
            by: one of `ledger.spend.BY`.
            seconds: of workers that ended so long ago or later; 0 for all.
            forecast: also what the queue will cost.
        """
        begin = max(0.0, time.time() - seconds) if seconds else 0.0
        return Spending(
            begin=begin,
            totals=await self.ledger.totals(by, begin),
            standing={one.name: one.standing for one in await self.outposts() if one.standing},
            budgets=await self.budgets(),
            outlook=await self.forecast() if forecast else None,
        )

    async def accounts(self) -> list[AccountView]:
        """Return the accounts, with what each has taken and what keeps it."""
        from outpost_manager.placing.accountviews import views

        return await self.ledger.read(views, self.config.accounts)

    async def unpark(self, account: str) -> int:
        """Let a parked account be used again at once; return how many of its models were parked.

        Raises:
            NotFoundError: nothing is known of such an account.
        """
        if account not in (known := [view.name for view in await self.accounts()]):
            raise NotFoundError(
                f"nothing is known of an account {account[:80]!a}", hint=suggest(account, known)
            )
        return await self.ledger.parking.unpark(account)

    async def reset_breaker(self, kind: str, name: str) -> bool:
        """Close the circuit breaker of an outpost or account; False when nothing had failed.

        Args:
            kind: `outpost` or `account`.
            name: which.

        Raises:
            NotFoundError: there is no such outpost, or nothing is known of such an account.
        """
        if kind == "outpost":
            self.fleet.configured(name)
        elif name not in (known := [view.name for view in await self.accounts()]):
            raise NotFoundError(
                f"nothing is known of an account {name[:80]!a}", hint=suggest(name, known)
            )
        return await self.ledger.run(lambda ledger: ledger.breakers.reset(kind, name))
