"""Orders: made of what was asked for, and of the attempts there were."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outpost_core.errors import OutpostError
from outpost_manager.manager.workers import Workers

if TYPE_CHECKING:
    from outpost_core.agents import AgentPreset
    from outpost_core.types import Order
    from outpost_manager.orders.localgit import Around, LocalGit
    from outpost_manager.orders.making import OrderRequest
    from outpost_manager.orders.requests import OrderBuilder
    from outpost_manager.placing.attempts import Further


class Orders(Workers):
    """What makes orders."""

    @property
    def local(self) -> LocalGit:
        """What asks git about the folder that the user stands in."""
        if self._local is None:
            from outpost_manager.orders.localgit import LocalGit

            self._local = LocalGit(self._cwd, self._environ)
        return self._local

    @property
    def builder(self) -> OrderBuilder:
        """What turns a request into an order."""
        from outpost_manager.orders.requests import OrderBuilder

        return OrderBuilder(
            defaults=self.config.defaults,
            plugins=self.plugins,
            ledger=self.ledger,
            environ=self._environ,
            cwd=self._cwd,
            trouble=self._trouble,
            local=self.local,
            prices=self.config.prices,
            configured=self.config.agents,
            accounts=self.config.accounts,
        )

    def agents(self) -> dict[str, AgentPreset]:
        """Return every agent preset, built in and from plugins; a plugin's wins."""
        return self.builder.agents()

    async def order(self, request: OrderRequest) -> Order:
        """Build and check the order of a request; chooses the attempt.

        Without `attempt` and `again` it is the last attempt there was (so that asking twice is
        the same worker), else the first.

        Raises:
            UsageError: something in it is wrong.
            ConflictError: `again` while the last attempt still runs.
        """
        return await self._ask(lambda: self.builder.order(request))

    @property
    def further(self) -> Further:
        """What makes further attempts out of the orders that are written down."""
        from outpost_manager.placing.attempts import Further

        def can_clean(name: str) -> bool:
            try:
                return self.fleet.supports(name, "clean")
            except OutpostError:
                return False

        return Further(
            ledger=self.ledger,
            environ=self._environ,
            presets=self.agents(),
            outposts=[*self.fleet.names],
            branch=self.config.defaults.branch or "",
            can_clean=can_clean,
            accounts=self.config.accounts,
        )

    async def around(self) -> Around | None:
        """Return the repository around the current folder; None when git says there is none.

        Raises:
            UsageError: git cannot say.
        """
        return await self._ask(self.local.around)

    async def rig(self, said: str | None) -> str | None:
        """Return the rig that `said` names, else the one around the current folder, if any.

        Raises:
            UsageError: it is no repository.
        """
        from outpost_manager.orders.localgit import find_rig

        if said:
            return await self._ask(lambda: find_rig(said, self._cwd))
        here = await self.around()
        return (here.push or here.rig) if here is not None else None

    def with_secrets(self, order: Order) -> Order:
        """Return an order that was written down, with the values of its secrets.

        Raises:
            UsageError: one is not set here.
        """
        from outpost_manager.placing.queueing import with_secrets

        return with_secrets(order, self._environ, self.config.accounts)
