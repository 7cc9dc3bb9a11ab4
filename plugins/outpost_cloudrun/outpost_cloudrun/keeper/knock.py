"""Whether an address can be reached: one connection, which wakes no container and costs nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Final
from urllib.parse import urlsplit

from outpost_cloudrun.connection.plainly import plainly
from outpost_core.types import Health

#: Seconds for a connection.
_PATIENCE: Final = 5.0
#: Variables that name a proxy for https, in small letters.
_PROXIES: Final = frozenset(("https_proxy", "all_proxy"))


async def knock(name: str, url: str) -> Health:
    """Say whether somebody listens at an address; nothing is asked of it.

    Args:
        name: the outpost's name, for messages.
        url: the address.
    """
    where, why = urlsplit(url).hostname or url, ""
    try:
        host, port, through = _door(url)
        async with asyncio.timeout(_PATIENCE):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    except TimeoutError:
        why = "no answer"
    except OSError as error:
        why = plainly(error)
    except ValueError as error:
        why = str(error)
    if why:
        return Health(
            ok=False,
            detail=f"{url} cannot be reached: {why}",
            hint=f"see this machine's network and HTTPS_PROXY, and `region` or `url` of {name} in"
            " outposts.yaml",
        )
    return Health(ok=True, detail=f"{where} can be reached{through}")


def _door(url: str) -> tuple[str, int, str]:
    """Return host and port of what is connected to, and a word on it where it is a proxy.

    Raises:
        OSError, ValueError: the address, or what the environment says of a proxy, is none.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
    if not _PROXIES.isdisjoint(map(str.lower, os.environ)):
        # loads all that a connection needs: only who has a proxy waits for that
        from outpost_cloudrun.connection.faults import NotSentError
        from outpost_cloudrun.connection.proxy import proxy_for

        try:
            proxy = proxy_for(parts.scheme, host, port)
        except NotSentError as error:
            raise ValueError(str(error)) from None
        if proxy is not None:
            return proxy.host, proxy.port, f" if the proxy {proxy.host}:{proxy.port} lets it"
    return host, port, ""
