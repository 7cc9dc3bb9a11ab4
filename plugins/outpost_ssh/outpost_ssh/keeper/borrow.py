"""The near end of a keeper: use what it holds, or start one for the next command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from outpost_shared import keeping
from outpost_ssh.keeper import place

if TYPE_CHECKING:
    from outpost_ssh.options import SshOptions

#: Seconds that a keeper may take to take a call.
_PATIENCE: Final = 1.0
#: Bytes of an answer that are taken before anybody looks at them.
_LIMIT: Final = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Borrowed:
    """A far Python, ready to be told what to run, over somebody else's connection.

    Args:
        peer: the host, for messages.
        reader: what it prints.
        writer: what it reads.
    """

    peer: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def borrow(options: SshOptions, base: Path | None) -> Borrowed | None:
    """Return what the keeper of this connection lends; None when there is none, or it cannot.

    Args:
        options: the outpost's.
        base: the folder that relative paths are relative to.
    """
    path = place.socket_of(place.describe(options, base)) if options.keep else None
    if path is None or not path.is_socket():
        return None
    writer = None
    try:
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_unix_connection(path, limit=_LIMIT)
        if not keeping.is_ours(writer.get_extra_info("socket")):
            raise OSError("somebody else's")
        async with asyncio.timeout(options.patience):
            answer = json.loads(await reader.readline())
        return Borrowed(peer=str(answer["peer"]), reader=reader, writer=writer)
    except (OSError, TimeoutError, ValueError, LookupError, TypeError):
        if writer is not None:
            writer.close()
        return None


def start(options: SshOptions, base: Path | None) -> None:
    """Start the keeper of a connection in the background, unless there is one.

    What it is told goes over its standard input. It has a session of its own and holds nothing of
    this program; whatever fails, the next command connects itself.
    """
    said = place.describe(options, base)
    path = place.socket_of(said) if options.keep else None
    if path is None:
        return
    with contextlib.suppress(OSError):
        if not keeping.is_kept(path):
            env = keeping.environment(os.environ, place.NEEDED)
            keeping.start("outpost_ssh.keeper.lend", said, env)
