"""The Cloud Run outpost: what is asked of it is answered by its keeper."""

from __future__ import annotations

from outpost_cloudrun.options import CloudRunOptions
from outpost_core.errors import UnreachableError
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
    options: CloudRunOptions

    async def connect(self) -> Client:
        """Connect to the keeper of this outpost.

        Raises:
            UnreachableError: there is none.
        """
        raise UnreachableError(f"{self.name} has no keeper yet", sent=False)
