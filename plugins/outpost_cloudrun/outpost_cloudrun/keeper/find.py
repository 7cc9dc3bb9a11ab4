"""The near end of a keeper: find it, or start it, and greet it. Imports nothing heavy."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import TYPE_CHECKING, Final

from outpost_cloudrun.keeper import place
from outpost_core.errors import UnreachableError
from outpost_exec.stdio.client import Client
from outpost_shared import access, keeping, private
from outpost_shared.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from outpost_cloudrun.options import CloudRunOptions
    from outpost_core.backend import BuildContext
    from outpost_core.types import Json

#: Seconds in which a keeper is there: it imports little, but a machine may be busy, and one that
#: makes way for another has to close its streams first.
_PATIENCE: Final = 30.0
#: Seconds that a keeper which was started has to take the lock, before another is started.
_STARTS: Final = 5.0
#: Seconds that it may take to say hello.
_GREETING: Final = 10.0
#: Bytes of an answer that are taken before anybody looks at them.
_LIMIT: Final = 1 << 20

#: What tests ask for: the first keeper that this program starts dies at a point of its own, once.
_FAULT: Final = "OUTPOST_FAULT"
_fault_told = False

#: What a keeper says that has another configuration, or is ending: another one is to be started.
MAKES_WAY: Final = "the keeper makes way for another one"


async def connect(
    name: str, options: CloudRunOptions, context: BuildContext, since: float
) -> Client:
    """Return a channel to the keeper of an outpost, which is started when there is none.

    One that runs with older options, or another version, is told to make way; it hands over what
    it holds by what is written down. One with newer options stays: a program that has run for
    long and one that has just begun would have it replaced in turns.

    Args:
        name: the outpost's name.
        options: its options.
        context: where it keeps its files.
        since: when the options were read, in seconds since the epoch.

    Raises:
        UnreachableError: there is none and none can be started, and why; `sent` is False.
        OutpostError: the keeper's own reason not to serve.
    """
    state = str(context.state_dir.absolute())
    try:
        private.claim(state)
    except OSError as error:
        raise _refused(name, state, error) from error
    way = place.way_to(name, options, context, since)
    path = way.socket
    if path is None:
        raise UnreachableError(
            f"{name} needs a process that holds its streams, and there is no place for its socket",
            hint="let XDG_RUNTIME_DIR name a private folder of yours with a short path",
            sent=False,
        )
    started = -_STARTS
    wait = Backoff(0.01, 0.2, growth=1.5, within=_PATIENCE)
    why = ""
    async for _ in wait.rounds():
        try:
            return await _greet(name, path, {key: way.said[key] for key in place.HELLO})
        except (FileNotFoundError, ConnectionError):
            if time.monotonic() - started >= _STARTS and not keeping.is_kept(way.lock):
                why = await asyncio.to_thread(_start, way)
                started = time.monotonic()
        except UnreachableError as error:  # it is ending, or makes way
            why = error.message
        if keeping.is_kept(way.lock):
            started = -_STARTS  # it has begun: the next one is started once it is gone
    raise UnreachableError(
        f"the keeper of {name}, which holds its streams, does not answer"
        + (f": {why}" if why else ""),
        hint=f"see {context.state_dir.absolute() / 'keeper.log'}",
        sent=False,
    )


def is_kept(context: BuildContext) -> bool:
    """Whether the keeper of an outpost lives."""
    lock = place.lock_of(context)
    try:
        return lock.parent.is_dir() and keeping.is_kept(lock)
    except OSError:
        return False


def _start(way: place.Way) -> str:
    """Start the keeper in the background; returns why it cannot be, or ""."""
    global _fault_told
    env = keeping.environment(os.environ)
    fault = os.environ.get(_FAULT, "")
    if fault.startswith("keeper.") and not _fault_told:
        env[_FAULT], _fault_told = fault, True
    try:
        keeping.start("outpost_cloudrun.keeper.hold", way.said, env)
    except OSError as error:
        return f"it cannot be started: {error.strerror}"
    return ""


async def _greet(name: str, path: Path, hello: Mapping[str, Json]) -> Client:
    """Connect to a socket and say hello.

    Raises:
        OSError: nobody listens there.
        UnreachableError: whoever does is not what is wanted, or makes way.
    """
    reader, writer = await asyncio.open_unix_connection(path, limit=_LIMIT)
    if not keeping.is_ours(writer.get_extra_info("socket")):
        with contextlib.suppress(OSError):
            writer.close()
        raise UnreachableError(f"{path} is somebody else's", sent=False)
    return await Client.start(
        f"the keeper of {name}",
        reader,
        writer,
        name=name,
        options=hello,
        timeout=_GREETING,
    )


def _refused(name: str, state: str, error: OSError) -> UnreachableError:
    why = error.why if isinstance(error, access.NotPrivateError) else error.strerror
    return UnreachableError(
        f"the state folder {state} of {name} is refused: {error.filename}: {why}",
        hint=error.hint if isinstance(error, access.NotPrivateError) else "",
        sent=False,
    )
