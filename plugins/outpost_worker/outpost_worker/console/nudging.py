"""What a person sees of a worker without attaching, and types to it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from outpost_core.errors import OutpostError, UnsupportedError
from outpost_shared.backoff import every
from outpost_worker.folder import files
from outpost_worker.run.screen import CONTROLS, plain

#: Between a text and its Enter: programs that see both at once take them for a pasted line.
ENTER_PAUSE: Final = 0.3
#: How long a nudge waits for an agent that is only just starting to listen.
LISTEN_WAIT: Final = 5.0
#: How long a nudge waits for its turn, and for an agent that reads nothing.
WRITE_WAIT: Final = 15.0
#: Bytes of the log that are looked at for each line that is asked for.
_PER_LINE: Final = 4096


def tail(log: Path, lines: int) -> str:
    """Return the last `lines` lines of a log without control sequences; "" when there is none."""
    want = min(max(lines, 1) * _PER_LINE, 4 * 1024 * 1024)
    try:
        with os.fdopen(files.open_plain(str(log)), "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - want))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    except files.Broken as error:
        return f"({error.said})\n"
    shown = plain(text).rstrip("\n").split("\n")[-max(lines, 1) :]
    return "\n".join(shown) + "\n" if text else ""


async def nudge(worker: str, folder: Path, text: str) -> None:
    """Type `text` and Enter into the interactive worker of `folder`.

    Args:
        worker: its id, for messages.
        folder: its folder.
        text: what to type. Line breaks inside are typed as such; other control characters are
            left out, so that a nudge can not press Ctrl-C.

    Raises:
        UnsupportedError: the worker has no input.
        OutpostError: nobody reads its input.
    """
    typed = CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).rstrip("\n")
    fifo = await _open_fifo(worker, folder / files.INPUT)
    try:
        await _lock(worker, fifo)  # two nudges do not mix
        await asyncio.to_thread(_write, fifo, typed.encode())
        await asyncio.sleep(ENTER_PAUSE)
        await asyncio.to_thread(_write, fifo, b"\r")
    except BrokenPipeError:
        raise OutpostError(
            f"{worker} ended while it was nudged", hint=f"outpost show {worker}"
        ) from None
    finally:
        os.close(fifo)


async def _lock(worker: str, fifo: int) -> None:
    async for _ in every(0.05, within=WRITE_WAIT).rounds():
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(fifo, fcntl.LOCK_EX | fcntl.LOCK_NB)
    raise OutpostError(
        f"somebody else has typed to {worker} for {WRITE_WAIT:g} s",
        hint=f"outpost attach {worker}",
    )


async def _open_fifo(worker: str, path: Path) -> int:
    async for _ in every(0.05, within=LISTEN_WAIT).rounds():
        try:
            return files.open_fifo(str(path))
        except files.Broken as error:
            raise OutpostError(
                f"{worker} cannot be typed to: {error.said}", hint=f"outpost show {worker}"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENXIO, errno.ENOENT):
                raise
    raise OutpostError(f"{worker} does not listen to its input", hint=f"outpost show {worker}")


def _write(fifo: int, data: bytes) -> None:
    """Write to a FIFO whose reader may be slow, and perhaps never reads."""
    for _ in every(0.02, within=WRITE_WAIT).tries():
        with contextlib.suppress(BlockingIOError):
            while data:
                data = data[os.write(fifo, data) :]
            return
    raise BrokenPipeError(errno.EPIPE, "nobody reads it")


def check_interactive(worker: str, interactive: bool) -> None:
    """Refuse to type into a worker that has no terminal of its own.

    Raises:
        UnsupportedError: it is headless.
    """
    if not interactive:
        raise UnsupportedError(
            f"{worker} is headless: it reads no input", hint="spawn it with --interactive"
        )
