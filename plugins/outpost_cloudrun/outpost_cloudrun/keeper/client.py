"""The client that asks a service, the service's address, and what a worker of it has cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from outpost_cloudrun.connection.transport import H2Transport
from outpost_core.errors import SpawnRefusedError

if TYPE_CHECKING:
    from outpost_cloudrun.keeper.records import WorkerRecord
    from outpost_cloudrun.options import CloudRunOptions


async def open_client(options: CloudRunOptions, url: str) -> httpx.AsyncClient:
    """Return a client for a service; whoever asked closes it.

    Args:
        options: whose identity calls it, and for which audience.
        url: where the service is.
    """
    del options, url
    return httpx.AsyncClient(transport=H2Transport(), follow_redirects=False)


async def address_of(options: CloudRunOptions) -> str:
    """Return where the service is.

    Raises:
        SpawnRefusedError: nobody said, or there is no such service.
        UnreachableError: nobody could say; `sent` is False.
    """
    if options.url:
        return options.url
    raise SpawnRefusedError(
        "the outpost has no `url`", hint="write `url:` of the service in outposts.yaml"
    )


def cost_of(options: CloudRunOptions, record: WorkerRecord) -> float | None:
    """Return what a worker that ends now has cost, in USD; None when nobody knows."""
    del options, record
    return None
