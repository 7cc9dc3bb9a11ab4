"""Reaches the containers of an outpost: where its service is, and who asks it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outpost_cloudrun.admin.factory import open_admin
from outpost_cloudrun.connection.client import open_client
from outpost_cloudrun.connection.identity import Identity
from outpost_cloudrun.keeper.far import Far
from outpost_cloudrun.options import Auth
from outpost_core.errors import NotFoundError, OutpostError, UnreachableError

if TYPE_CHECKING:
    import httpx

    from outpost_cloudrun.options import CloudRunOptions


class Way:
    """The way to the containers of one outpost: one identity and one client for all its workers.

    Args:
        name: the outpost's name, for messages.
        options: its options.
    """

    def __init__(self, name: str, options: CloudRunOptions) -> None:
        self._name = name
        self._options = options
        self._identity = Identity(options)
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._address = options.url

    async def address(self) -> str:
        """Return where the outpost's service is; Google is asked once, where nobody said.

        Raises:
            UnreachableError: there is none, or nobody could say; `sent` is False.
        """
        if not self._address:
            tokens = None if self._options.auth is Auth.NONE else self._identity
            service = self._options.service
            try:
                async with open_admin(self._options, tokens) as admin:
                    self._address = (await admin.service(service)).url
            except NotFoundError as error:
                raise UnreachableError(
                    f"there is no service {service} yet",
                    hint=f"outpost bootstrap {self._name}",
                    sent=False,
                ) from error
            except OutpostError as error:
                raise UnreachableError(error.message, hint=error.hint, sent=False) from error
        if not self._address:
            raise UnreachableError(
                f"Google does not say yet where the service {self._options.service} is",
                hint=f"outpost doctor {self._name}",
                sent=False,
            )
        return self._address

    def to(self, url: str) -> Far:
        """Return the program at an address.

        Raises:
            UsageError: the address is none.
        """
        client = self._clients.get(url)
        if client is None:
            client = open_client(self._options, url, identity=self._identity)
            self._clients[url] = client
        return Far(
            self._name,
            url,
            client,
            whose=lambda: self._identity.whose,
            region=self._options.region,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        clients = [*self._clients.values()]
        self._clients.clear()
        for client in clients:
            await client.aclose()
