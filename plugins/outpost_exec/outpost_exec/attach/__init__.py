"""`outpost attach` where the worker is at a far machine: the near half of a far terminal.

The stdio protocol says which program shows the worker. A backend starts `view` on a terminal over
there, by whatever connection it has; from the first byte of the program on, everything passes as
it is.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import secrets
import signal
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from outpost_core.errors import OutpostError, UnreachableError
from outpost_exec.attach import view
from outpost_exec.attach.terminal import Size, Terminal

if TYPE_CHECKING:
    from outpost_core.types import Json
    from outpost_shared.protocol import ByteReader, ByteWriter

#: Bytes of a login's noise that are kept, to be quoted when no viewer comes.
_NOISE: Final = 64 * 1024
#: Seconds for the exit code of a viewer that has closed its terminal, and for its last output where
#: it takes no more keys.
_LAST_WORDS: Final = 10.0
_LAST_OUTPUT: Final = 1.0
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class FarTerminal(Protocol):
    """A program that runs on a terminal of a far machine."""

    @property
    def stdin(self) -> ByteWriter:
        """What is typed."""

    @property
    def stdout(self) -> ByteReader:
        """What is shown."""

    def resized(self, size: Size) -> None:
        """Tell the far terminal another size."""

    async def ended(self) -> int | None:
        """Wait for the exit code, as a shell has it; None when the connection took it along."""


async def show(
    worker: str,
    name: str,
    far: FarTerminal,
    near: Terminal,
    argv: Sequence[str],
    *,
    timeout: float,
    broken: tuple[type[Exception], ...],
) -> int:
    """Give this program's terminal to a worker until the user detaches, or it ends.

    Args:
        worker: its id.
        name: the outpost's.
        far: `view`, just started, on a terminal of the far machine.
        near: this program's terminal.
        argv: the viewer, as the stdio protocol names it.
        timeout: seconds that the viewer may take to start.
        broken: what the connection raises when it is gone, besides OSError.

    Returns:
        the exit code of the viewer.

    Raises:
        UnreachableError: the connection broke; the terminal is as it was; the worker keeps running.
        OutpostError: the viewer did not start.
    """
    gone: tuple[type[Exception], ...] = (OSError, *broken)
    try:
        first = await _begin(far, argv, worker, timeout)
        code = await _pass(far, near, first)
    except gone as error:
        raise _dropped(name, worker, error) from error
    if code is None:
        raise _dropped(name, worker, None)
    return code


def source() -> str:
    """Return the far half as one line of Python source, without a line end."""
    packed = base64.b64encode(zlib.compress(Path(view.__file__).read_bytes(), 9))
    return f"import base64,zlib;exec(zlib.decompress(base64.b64decode({packed.decode()!r})))"


async def _begin(far: FarTerminal, argv: Sequence[str], worker: str, timeout: float) -> bytes:
    """Start the viewer; return the first of what it shows.

    What a login's start-up files print is not for the user: a mark, with a word that nobody
    there could know, says where the viewer begins.
    """
    nonce = secrets.token_hex(16)
    request = {"argv": list(argv), "nonce": nonce, "env": _about()}
    far.stdin.write(json.dumps(request).encode("ascii") + b"\n")
    mark = f"{view.MARK}{nonce}{view.END}".encode("ascii")
    seen = b""
    try:
        async with asyncio.timeout(timeout):
            while mark not in seen:
                data = await far.stdout.read(65536)
                if not data:
                    code = await _code(far)
                    if code is None:
                        raise ConnectionResetError
                    raise _not_started(worker, seen, code)
                seen = seen[-_NOISE:] + data
    except TimeoutError:
        raise _not_started(worker, seen, None) from None
    far.stdin.write(b"\n")  # it begins once its mark was seen
    return seen.partition(mark)[2]


async def _pass(far: FarTerminal, near: Terminal, first: bytes) -> int | None:
    """Pass everything both ways until the viewer ends; None when the connection ended first."""

    def resized() -> None:
        far.resized(near.size())

    async def show() -> None:
        await near.write(first)
        while data := await far.stdout.read(65536):
            await near.write(data)

    async def type_() -> None:
        while data := await near.read():
            far.stdin.write(data)
            await far.stdin.drain()

    this = asyncio.current_task()
    assert this is not None, "runs in a task"
    with near.lent(resized, this.cancel):
        resized()  # it may have changed since the far terminal was asked for
        showing, typing = asyncio.ensure_future(show()), asyncio.ensure_future(type_())
        tasks = [showing, typing]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if typing.done() and not typing.cancelled() and typing.exception() is not None:
                # a viewer that has just ended takes no key either: its end is what counts
                await asyncio.wait({showing}, timeout=_LAST_OUTPUT)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        if not isinstance(ends[0], asyncio.CancelledError):  # no more output
            if isinstance(ends[0], Exception):
                raise ends[0]
            code = await _code(far)
            near.clean = code == 0
            return code
        if isinstance(ends[1], Exception):
            raise ends[1]
    return 128 + signal.SIGHUP  # no more keys: our own terminal has gone


async def _code(far: FarTerminal) -> int | None:
    """Return how the far program ended; None when nobody said."""
    try:
        async with asyncio.timeout(_LAST_WORDS):
            return await far.ended()
    except TimeoutError:
        return None


def _about() -> dict[str, Json]:
    """Return what is known of our terminal: its type, colours and character set."""
    about: dict[str, Json] = {}
    for name in ("TERM", "COLORTERM"):
        if os.environ.get(name):
            about[name] = os.environ[name]
    spoken = next(filter(None, map(os.environ.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "")
    if "TMUX" in os.environ or re.search("utf-?8", spoken, re.IGNORECASE):
        about["LC_CTYPE"] = "C.UTF-8"
    return about


def _not_started(worker: str, seen: bytes, code: int | None) -> OutpostError:
    said = _CONTROLS.sub(" ", seen[-300:].decode("utf-8", "replace")).strip()
    how = "said nothing in time" if code is None else f"ended with {code}"
    return OutpostError(
        f"the viewer of {worker} {how}" + (f": {said}" if said else ""),
        hint=f"outpost logs -f {worker}",
    )


def _dropped(name: str, worker: str, error: Exception | None) -> UnreachableError:
    said = _CONTROLS.sub(" ", getattr(error, "message", "") or str(error or ""))
    why = f" ({said[0].lower()}{said[1:]})" if said else ""
    return UnreachableError(
        f"the connection to {name} broke{why}; {worker} keeps running",
        hint=f"outpost attach {worker}",
    )
