"""What the front does not let through, whatever is behind it."""

from __future__ import annotations

import asyncio
import re
from typing import Final

from outpost_cloudrun.testing.cloud import Cloud, region_of
from outpost_cloudrun.testing.exchanges import Request
from outpost_cloudrun.testing.httpd import Server
from outpost_cloudrun.testing.tokens import Refusal, page

#: Paths that the front keeps for itself (cloud.google.com/run/docs/known-issues).
_RESERVED: Final = re.compile(r"/(_ah/.*|eventlog|[a-z]+z)$")
#: How often it is looked whether a region is away, in seconds.
_LOOK: Final = 0.1


def refuse(cloud: Cloud, name: str, request: Request) -> Refusal | None:
    """Return the front's own answer to a request; None where it is handed on.

    Args:
        cloud: where it belongs.
        name: whole name of the service or instance.
        request: what is asked.

    Raises:
        ConnectionResetError: the region is away.
    """
    if region_of(name) in cloud.knobs.regions_away:
        raise ConnectionResetError("the region is away")
    if _RESERVED.match(request.target.partition("?")[0]):
        return page(404, "Not Found", "The requested URL was not found on this server.")
    if request.version != "2" and len(request.body) > cloud.knobs.most_http1:
        return page(413, "Request Entity Too Large", "Your client issued a request too large.")
    return None


async def cut_while_away(cloud: Cloud, name: str, server: Server) -> None:
    """Cut all connections of a server for as long as its region is away; never returns."""
    while True:
        if region_of(name) in cloud.knobs.regions_away:
            for link in list(server.links):
                link.sever()
        await asyncio.sleep(_LOOK)
