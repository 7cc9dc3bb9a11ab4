"""The near half of a start on a far machine: send the loader, and the package where it is missing.

The command that sshd gets is constant but for the configured Python, whose form is strict. It
reads one line from the channel, which is `far/install.py` compressed, and executes it; from there
on the answers are lines that begin with a word of our own, so that a login shell may print what
it likes. When the answer is `ready`, the far server is what reads from the channel.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import secrets
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError, UnreachableError, UsageError
from outpost_ssh import package

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from outpost_shared.protocol import ByteReader, ByteWriter

#: Bytes that a login shell may print before the loader answers.
MOST_NOISE: Final = 64 * 1024
#: Seconds that the far side may take to unpack and compile, without a word from it.
PATIENCE: Final = 60.0
_PIECE: Final = 64 * 1024
_PYTHON: Final = re.compile(r"(?:~?/)?[A-Za-z0-9_.+][A-Za-z0-9_./+-]*", re.ASCII)
_START: Final = "import base64,zlib;S={source!r};exec(zlib.decompress(base64.b64decode(S)));"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How the far program ended.

    Args:
        status: its exit code; None when there is none.
        stderr: the last that it wrote there.
    """

    status: int | None
    stderr: str = ""


def command(python: str) -> str:
    """Return the command for sshd that waits for the loader.

    Args:
        python: the configured far Python: a name, or a path that may begin with `~/`.

    Raises:
        UsageError: `python` is anything else.
    """
    if not _PYTHON.fullmatch(python):
        raise UsageError(
            f"python: {python!a} is not a name or a path of a program",
            hint="use letters, digits and `_ . / + -` only, such as /usr/bin/python3.11",
        )
    return f"exec {python} -I -S -c 'exec(open(0,\"rb\",0,closefd=False).readline())'"


@lru_cache(maxsize=1)
def _source() -> str:
    text = Path(__file__).with_name("far").joinpath("install.py").read_bytes()
    return base64.b64encode(zlib.compress(text, 9)).decode("ascii")


def _line(word: str, address: str) -> bytes:
    fault = os.environ.get("OUTPOST_FAULT", "")
    fault = fault if fault.startswith("loader.") else ""
    told = f"S,{word!r},{address!r},{package.ENTRY!r},{fault!r}"
    call = f"raise SystemExit(Installation({told}).run())"
    return (_START.format(source=_source()) + call + "\n").encode("ascii")


class Loader:
    """Starts the far server at the other end of a channel on which `command` runs.

    Args:
        name: the outpost, for the next steps in messages.
        peer: the machine, for messages.
        reader: the channel's stdout.
        writer: its stdin.
        ended: tells how the program ended, once its output has.
        timeout: seconds until the first answer.
    """

    def __init__(
        self,
        name: str,
        peer: str,
        reader: ByteReader,
        writer: ByteWriter,
        *,
        ended: Callable[[], Awaitable[Ended]],
        timeout: float,
    ) -> None:
        self._name = name
        self._peer = peer
        self._reader = reader
        self._writer = writer
        self._ended = ended
        self._timeout = timeout
        self._word = secrets.token_hex(8)
        self._rest = b""
        self._noise = b""
        self._heard = 0

    async def start(self) -> str:
        """Bring the far server up; the channel is its own then.

        Returns:
            The version of the far Python.

        Raises:
            UnreachableError: it could not be started, and why; nothing was asked of it yet.
        """
        address = await asyncio.to_thread(lambda: package.package().address)
        try:
            self._writer.write(_line(self._word, address))
            await self._writer.drain()
            answer, said = await self._answer(self._timeout)
            if answer == "need":
                await self._send_package()
                answer, said = await self._answer(PATIENCE)
        except OutpostError:
            raise
        except Exception as error:  # each kind of stream has its own
            # a program that ended at once is the likelier reason, and says more
            await self._hear_out()
            raise self._unfit(await self._say_why()) from error
        if answer == "ready":
            return said
        raise self._explained(said)

    async def _send_package(self) -> None:
        data = await asyncio.to_thread(lambda: package.package().zipped())
        import hashlib

        self._writer.write(f"{len(data)} {hashlib.sha256(data).hexdigest()}\n".encode("ascii"))
        for start in range(0, len(data), _PIECE):
            self._writer.write(data[start : start + _PIECE])
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._writer.drain()
            except TimeoutError:
                raise self._unfit(
                    f"it took nothing of what it was sent for {PATIENCE:g} s"
                ) from None

    async def _answer(self, timeout: float) -> tuple[str, str]:
        """Return the next answer, and what follows it."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    line = await self._read_line()
                    word, _, rest = line.decode("utf-8", "replace").partition(" ")
                    if word == self._word:
                        answer, _, said = rest.partition(" ")
                        return answer, said
                    self._noise += line + b"\n"
        except TimeoutError:
            raise self._unfit(
                f"its Python did not answer within {timeout:g} s{self._quoted()}"
            ) from None

    async def _read_line(self) -> bytes:
        while b"\n" not in self._rest:
            data = await self._reader.read(4096)
            self._heard += len(data)
            if not data:
                self._noise += self._rest
                self._rest = b""
                raise self._unfit(await self._say_why())
            self._rest += data
            if self._heard > MOST_NOISE:
                self._noise += self._rest
                raise self._unfit(f"its login shell does not stop printing{self._quoted()}")
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    async def _hear_out(self) -> None:
        """Read what was printed before the end, to be quoted."""
        self._noise += self._rest
        self._rest = b""
        with contextlib.suppress(Exception):  # each kind of stream has its own
            async with asyncio.timeout(1):
                while len(self._noise) < MOST_NOISE and (data := await self._reader.read(4096)):
                    self._noise += data

    async def _say_why(self) -> str:
        """Say how the program ended that was to start the far server."""
        try:
            async with asyncio.timeout(5):
                end = await self._ended()
        except (TimeoutError, OSError):
            end = Ended(status=None)
        if end.status in (126, 127):
            return f"its Python cannot be started{self._quoted(end.stderr)}"
        if "unknown option: -i" in end.stderr.lower():  # every Python 3 has `-I`
            return "its Python is a Python 2, and 3.11 or newer is needed"
        if end.status is None:
            return f"the connection broke before its Python answered{self._quoted(end.stderr)}"
        return f"its Python ended with exit code {end.status}{self._quoted(end.stderr)}"

    def _quoted(self, stderr: str = "") -> str:
        """Return the last that was printed, for a message."""
        text = stderr.strip() or self._noise.decode("utf-8", "replace").strip()
        shown = " ".join(part for part in text[-400:].split() if part.isprintable())
        return f": {shown}" if shown else ""

    def _unfit(self, why: str, hint: str = "") -> UnreachableError:
        return UnreachableError(
            f"{self._peer} cannot be used: {why}",
            hint=hint or f"outpost bootstrap {self._name}",
            sent=False,
        )

    def _explained(self, said: str) -> UnreachableError:
        """Turn what the loader said into an error."""
        code, _, what = said.partition(" ")
        if code == "system" and what != "Linux":
            return self._unfit(
                f"it runs {what}, and workers need Linux, whose /proc tells of their processes",
                "use a Linux machine or container; nothing was changed there",
            )
        if code == "system":
            return self._unfit(
                "its /proc cannot be read, which tells of the processes of workers",
                "mount /proc there; nothing was changed there",
            )
        if code == "old":
            return self._unfit(
                f"its Python is {what}, and 3.11 or newer is needed",
                f"outpost bootstrap {self._name}, or name another one in `python`",
            )
        if code == "full":
            return self._unfit(
                f"no disk space is left there ({what})", "make room there; then try again"
            )
        if code == "folder":
            return self._unfit(
                f"its files cannot be written there ({what})",
                "let its user write there, or set XDG_CACHE_HOME for its logins",
            )
        if code == "unsafe":
            return self._unfit(
                f"{what} there belongs to another user, or others can write it",
                f"chmod go-w {what} there, or set XDG_CACHE_HOME for its logins",
            )
        if code == "cut":
            return self._unfit("the upload was cut short", "try again")
        return self._unfit(f"the start failed there ({said})")
