"""The Cloud Run outpost: what is asked of it is answered by its keeper."""

from __future__ import annotations

from outpost_cloudrun import price
from outpost_cloudrun.capabilities import CAPABILITIES
from outpost_cloudrun.options import CloudRunOptions
from outpost_core.errors import UnreachableError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Order
from outpost_exec.stdio.client import Client
from outpost_exec.stdio.remote import StdioOutpost


class CloudRunOutpost(StdioOutpost):
    """Workers in containers of Cloud Run.

    Args:
        name: the configured name.
        options: its options.
        context: where its keeper keeps what it knows.
    """

    type = "cloudrun"
    capabilities = CAPABILITIES
    options: CloudRunOptions

    async def connect(self) -> Client:
        """Connect to the keeper of this outpost.

        Raises:
            UnreachableError: there is none.
        """
        raise UnreachableError(f"{self.name} has no keeper yet", sent=False)

    @hookimpl
    def outpost_price(self, order: Order) -> float:
        """Return the most that the order can cost here, in USD.

        Raises:
            SpawnRefusedError: it may take longer than this mode can hold it.
        """
        return price.worst_case(self.options, order)
