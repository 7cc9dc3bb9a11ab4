"""The Admin API of an outpost, by its options."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx

from outpost_cloudrun.admin.client import PATIENCE, AdminClient
from outpost_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from outpost_cloudrun.admin.client import Tokens
    from outpost_cloudrun.options import CloudRunOptions

#: Connections to Google that may be open at once, and seconds for which an idle one stays.
_LIMITS = httpx.Limits(max_connections=20, max_keepalive_connections=5, keepalive_expiry=60)


def admin_client(
    options: CloudRunOptions, tokens: Tokens | None, *, patience: float = PATIENCE
) -> AdminClient:
    """Return a client of the Admin API; whoever asked closes it.

    Args:
        options: of the outpost: `project`, `region`, `endpoint`.
        tokens: whose access tokens are sent; None for none.
        patience: seconds for which a question is repeated.

    Raises:
        UsageError: the options do not say which project or region.
    """
    for name in ("project", "region"):
        if not getattr(options, name):
            raise UsageError(
                f"the outpost has no `{name}`", hint=f"write `{name}:` in outposts.yaml"
            )
    return AdminClient(
        options.project,
        options.region,
        http=httpx.AsyncClient(limits=_LIMITS, follow_redirects=False),
        tokens=tokens,
        endpoint=options.endpoint,
        patience=patience,
    )


@asynccontextmanager
async def open_admin(
    options: CloudRunOptions, tokens: Tokens | None, *, patience: float = PATIENCE
) -> AsyncIterator[AdminClient]:
    """Hold a client of the Admin API; see `admin_client`."""
    client = admin_client(options, tokens, patience=patience)
    try:
        yield client
    finally:
        await client.aclose()
