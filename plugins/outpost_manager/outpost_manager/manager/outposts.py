"""Outposts: what is known of them, and what they say when they are asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from outpost_core.errors import OutpostError
from outpost_manager.fleet.overview import OutpostView
from outpost_manager.manager.parts import Parts

if TYPE_CHECKING:
    from outpost_core.types import Health


class Outposts(Parts):
    """What is asked about outposts."""

    async def outposts(self) -> list[OutpostView]:
        """Describe every configured outpost without asking any."""
        return await self.overview.views()

    async def ping(self, names: Iterable[str] | None = None) -> dict[str, Health | OutpostError]:
        """Ask outposts whether they would take a worker; all configured ones by default."""
        return await self.watch.ping(self.fleet.names if names is None else names)

    async def refresh(self, names: Iterable[str] | None = None) -> list[OutpostView]:
        """Ask outposts for their workers, bring the ledger up to date, finish broken spawns.

        Args:
            names: the outposts to ask; None for all whose type is provided.

        Raises:
            NotFoundError: no outpost has such a name.
        """
        asked = self.watch.usable() if names is None else [*names]
        for name in asked:
            self.fleet.configured(name)
        await self.watch.refresh(asked)
        return await self.outposts()

    async def look(self, names: Iterable[str] | None = None) -> dict[str, OutpostError]:
        """Do what `refresh` does; return why each outpost told nothing that told nothing.

        Args:
            names: the outposts to ask; None for all that are configured, also those that cannot be
                built here.

        Raises:
            NotFoundError: no outpost has such a name.
        """
        wanted = {entry.name for entry in self.config.outposts} if names is None else {*names}
        for name in wanted:
            self.fleet.configured(name)
        usable = self.watch.usable()
        asked = usable if names is None else [name for name in usable if name in wanted]
        errors = await self.watch.refresh(asked)
        for name in wanted.difference(asked):
            try:
                self.fleet.outpost(name)
            except OutpostError as error:
                errors[name] = error
        return errors
