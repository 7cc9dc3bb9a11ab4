"""`outpost attach` at an SSH outpost: the near half of a far terminal.

The control channel says which program shows the worker; a second session of the same connection,
with a terminal, runs it. From the first byte of that program on, everything passes as it is.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import secrets
import signal
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from outpost_core.errors import OutpostError, UnreachableError
from outpost_shared.viewer import check_terminal
from outpost_ssh import terminal
from outpost_ssh.far import view

if TYPE_CHECKING:
    import asyncssh

    from outpost_core.types import Json

#: Bytes of a login's noise that are kept, to be quoted when no viewer comes.
_NOISE: Final = 64 * 1024
#: Seconds for the exit code of a viewer that has closed its terminal.
_LAST_WORDS: Final = 10.0
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class OpensTerminals(Protocol):
    """What an attach needs of a host: a session of its connection with a terminal."""

    async def open(
        self,
        command: str,
        *,
        term: tuple[str, int, int] | None = None,
        modes: Mapping[int, int] = {},
    ) -> asyncssh.SSHClientProcess[bytes]:
        """Start a command on a new terminal of that type, columns and rows."""


class NamesViewers(Protocol):
    """What an attach needs of an SSH outpost."""

    name: str

    async def viewer(self, worker: str) -> list[str]:
        """Ask the far server which program shows the worker."""


async def attach(
    worker: str, place: NamesViewers, host: OpensTerminals, *, command: str, timeout: float
) -> int:
    """Give this program's terminal to a worker until the user detaches, or it ends.

    Args:
        worker: its id.
        place: the outpost; its far server names the viewer.
        host: the host, over whose connection it is shown.
        command: starts a far Python that runs the source on the first line of its input.
        timeout: seconds that the viewer may take to start.

    Returns:
        the exit code of the viewer.

    Raises:
        UsageError: there is no terminal, or the worker has ended.
        NotFoundError, UnsupportedError: nothing can be shown of it.
        UnreachableError: the connection broke; the terminal is as it was; the worker keeps running.
        OutpostError: the viewer did not start.
    """
    check_terminal(worker)
    argv = await place.viewer(worker)
    near = terminal.Terminal()
    columns, rows, *_ = near.size()
    kind = os.environ.get("TERM") or "dumb"
    process = await host.open(command, term=(kind, columns, rows), modes=near.modes())
    try:
        first = await _begin(process, argv, worker, timeout)
        code = await _pass(process, near, first)
    except (OSError, _broken()) as error:
        raise _dropped(place.name, worker, error) from error
    finally:
        process.close()
    if code is None:
        raise _dropped(place.name, worker, None)
    return code


def source() -> bytes:
    """Return the far half as one line of Python source."""
    packed = base64.b64encode(zlib.compress(Path(view.__file__).read_bytes(), 9))
    return b"import base64,zlib;exec(zlib.decompress(base64.b64decode(%r)))\n" % packed.decode()


async def _begin(
    process: asyncssh.SSHClientProcess[bytes], argv: Sequence[str], worker: str, timeout: float
) -> bytes:
    """Start the viewer; return the first of what it shows.

    What a login's start-up files print is not for the user: a mark, with a word that nobody
    there could know, says where the viewer begins.
    """
    nonce = secrets.token_hex(16)
    request = {"argv": list(argv), "nonce": nonce, "env": _about()}
    process.stdin.write(source() + json.dumps(request).encode("ascii") + b"\n")
    mark = f"{view.MARK}{nonce}{view.END}".encode("ascii")
    seen = b""
    try:
        async with asyncio.timeout(timeout):
            while mark not in seen:
                data = await process.stdout.read(65536)
                if not data:
                    code = await _code(process)
                    if code is None:
                        raise ConnectionResetError
                    raise _not_started(worker, seen, code)
                seen = seen[-_NOISE:] + data
    except TimeoutError:
        raise _not_started(worker, seen, None) from None
    process.stdin.write(b"\n")  # it begins once its mark was seen
    return seen.partition(mark)[2]


async def _pass(
    process: asyncssh.SSHClientProcess[bytes], near: terminal.Terminal, first: bytes
) -> int | None:
    """Pass everything both ways until the viewer ends; None when the connection ended first."""

    def resized() -> None:
        with contextlib.suppress(OSError):  # the channel is closing
            process.change_terminal_size(*near.size())

    async def show() -> None:
        await near.write(first)
        while data := await process.stdout.read(65536):
            await near.write(data)

    async def type_() -> None:
        while data := await near.read():
            process.stdin.write(data)
            await process.stdin.drain()

    this = asyncio.current_task()
    assert this is not None, "runs in a task"
    with near.lent(resized, this.cancel):
        resized()  # it may have changed since the session was asked for
        tasks = [asyncio.ensure_future(show()), asyncio.ensure_future(type_())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        if not isinstance(ends[0], asyncio.CancelledError):  # no more output
            if isinstance(ends[0], Exception):
                raise ends[0]
            code = await _code(process)
            near.clean = code == 0
            return code
        if isinstance(ends[1], Exception):
            raise ends[1]
    return 128 + signal.SIGHUP  # no more keys: our own terminal has gone


async def _code(process: asyncssh.SSHClientProcess[bytes]) -> int | None:
    """Return how the far program ended; None when nobody said."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_WORDS):
            await process.wait_closed()
    code = process.returncode
    return 128 - code if code is not None and code < 0 else code


def _about() -> dict[str, Json]:
    """Return what is known of our terminal, besides its type: colours and character set."""
    about: dict[str, Json] = {}
    if os.environ.get("COLORTERM"):
        about["COLORTERM"] = os.environ["COLORTERM"]
    spoken = next(filter(None, map(os.environ.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "")
    if "TMUX" in os.environ or re.search("utf-?8", spoken, re.IGNORECASE):
        about["LC_CTYPE"] = "C.UTF-8"
    return about


def _broken() -> type[Exception]:
    import asyncssh

    return asyncssh.Error


def _not_started(worker: str, seen: bytes, code: int | None) -> OutpostError:
    said = _CONTROLS.sub(" ", seen[-300:].decode("utf-8", "replace")).strip()
    how = "said nothing in time" if code is None else f"ended with {code}"
    return OutpostError(
        f"the viewer of {worker} {how}" + (f": {said}" if said else ""),
        hint=f"outpost logs -f {worker}",
    )


def _dropped(name: str, worker: str, error: Exception | None) -> UnreachableError:
    said = _CONTROLS.sub(" ", str(error or ""))
    why = f" ({said[0].lower()}{said[1:]})" if said else ""
    return UnreachableError(
        f"the connection to {name} broke{why}; {worker} keeps running",
        hint=f"outpost attach {worker}",
    )
