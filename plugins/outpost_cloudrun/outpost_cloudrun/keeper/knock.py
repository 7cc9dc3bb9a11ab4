"""Whether an address can be reached: one connection, which wakes no container and costs nothing."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final
from urllib.parse import urlsplit

from outpost_core.types import Health

#: Seconds for a connection.
_PATIENCE: Final = 5.0


async def knock(name: str, url: str) -> Health:
    """Say whether somebody listens at an address; nothing is asked of it.

    Args:
        name: the outpost's name, for messages.
        url: the address.
    """
    parts = urlsplit(url)
    why = ""
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        async with asyncio.timeout(_PATIENCE):
            _, writer = await asyncio.open_connection(parts.hostname, port)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    except TimeoutError:
        why = "no answer"
    except (OSError, ValueError) as error:
        why = str(error)
    if why:
        return Health(
            ok=False, detail=f"{url} cannot be reached: {why}", hint=f"outpost doctor {name}"
        )
    return Health(ok=True, detail=f"{parts.hostname} can be reached")
