"""git's words about foreign work, on a terminal: by the user's own pager, and made harmless first.

git sends what stands in files to the terminal as it is, and a pager such as `cat`, or none, hands
it on. So git writes into a pipe, and what comes out goes through the filter for foreign output.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from outpost_manager.cli import output
from outpost_manager.cli.terminal import TerminalFilter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_PIECE: Final = 64 * 1024
#: what git tells pagers that are told nothing else.
_SETTINGS: Final = {"LESS": "FRX", "LV": "-c"}


def show(folder: Path, command: str, words: Sequence[str], *, colour: bool) -> int:
    """Run `git COMMAND` and show what it prints on this terminal.

    Args:
        folder: the repository.
        command: such as `diff`.
        words: its arguments, without `--color`.
        colour: colours are not forbidden; git's configuration says whether there are any.

    Returns:
        git's exit code; 0 when the pager was left before the end.
    """
    colours = colour and _git(folder, "config", "--get-colorbool", f"color.{command}", "true")
    flag = "--color=always" if colours == "true" else "--color=never"
    argv = ["git", "-C", str(folder), command, flag, *words]
    with contextlib.suppress(OSError):
        os.environ.setdefault("COLUMNS", str(os.get_terminal_size(sys.stdout.fileno()).columns))
    pager = _pager(folder, command)
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as git:
        assert git.stdout is not None
        shown = _harmless(git.stdout.fileno())
        if pager in ("", "cat"):
            for text in shown:
                output.filtered(text)
        elif not _paged(pager, shown):
            git.kill()
            git.wait()
            return 0
    return git.returncode


def _harmless(fd: int) -> Iterator[str]:
    filtered = TerminalFilter()
    while chunk := os.read(fd, _PIECE):
        yield filtered.feed(chunk)
    yield filtered.feed(b"", final=True)


def _paged(pager: str, shown: Iterator[str]) -> bool:
    """Write text into a pager and wait until it is left; False when that was before the end."""
    env = {**_SETTINGS, **os.environ}
    # what it is, is a line for a shell, out of the user's own configuration or environment
    process = subprocess.Popen(["sh", "-c", pager], stdin=subprocess.PIPE, env=env)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the pager's, as with git
    try:
        assert process.stdin is not None
        with process.stdin as stdin:
            for text in shown:
                stdin.write(text.encode("utf-8", "backslashreplace"))
        return True
    except BrokenPipeError:
        return False
    finally:
        process.wait()
        signal.signal(signal.SIGINT, before)


def _pager(folder: Path, command: str) -> str:
    """Return the pager that git would use for a command; "" for none."""
    said = _git(folder, "config", "--get", f"pager.{command}")
    if said.lower() in ("false", "no", "off", "0"):
        return ""
    if said and said.lower() not in ("true", "yes", "on", "1"):
        return said
    return _git(folder, "var", "GIT_PAGER")


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
