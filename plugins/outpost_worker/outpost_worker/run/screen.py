"""What an interactive agent's terminal shows: for whoever looks later, or asks what it waits for.

In a tmux pane, tmux knows; elsewhere the end of the log has to do. Imported for interactive
agents only.
"""

from __future__ import annotations

import os
import re

from outpost_worker.folder import files
from outpost_worker.repository.git import run

#: Bytes of the log that are looked at without tmux, and of a screen that are kept.
_TAIL = 16 * 1024
_MOST = 64 * 1024
#: Seconds that tmux may take.
_PATIENCE = 2.0
#: Longest line that is told as what an agent said last.
_LONGEST = 160

_ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # operating system commands: titles, links
    r"|\x1b[PX^_][^\x1b]*\x1b\\"  # strings meant for the terminal itself
    r"|\x1b\[[0-?]*[ -/]*[@-~]"  # colours and cursor moves
    r"|\x1b[ -/]*[0-~]"
)
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
#: What frames are drawn with, prompts and hints of keys: not what an agent says.
_FRAME = " \t│┃|╭╮╰╯─━═┌┐└┘├┤>❯›*•·…"
_KEYS = re.compile(
    r"(\? for shortcuts|ctrl[+-]|esc to|shift\+|enter to|⏎|context left)", re.IGNORECASE
)


def show(folder: str) -> str:
    """Return the lines that the agent's terminal shows, without control sequences.

    Args:
        folder: the worker's folder.
    """
    socket, pane = os.environ.get("TMUX", "").partition(",")[0], os.environ.get("TMUX_PANE", "")
    if socket and pane:
        argv = ["tmux", "-S", socket, "-f", os.devnull, "capture-pane", "-p", "-J", "-t", pane]
        done = run(argv, dict(os.environ), timeout=_PATIENCE)
        if done.code == 0:
            return _tidy(done.out.decode("utf-8", "replace"))
    try:
        with open(files.open_plain(os.path.join(folder, files.LOG)), "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL))
            return _tidy(log.read().decode("utf-8", "replace"))
    except OSError:
        return ""


def keep(folder: str) -> None:
    """Keep what the terminal shows now, for those who look after the end; a full disk is fine."""
    text = show(folder).encode("utf-8", "replace")[-_MOST:]
    try:
        if text.strip():
            files.write(os.path.join(folder, files.SCREEN), text)
    except OSError:
        pass


def last_words(folder: str) -> str:
    """Return the last line on the terminal that says something; "" when there is none."""
    for line in reversed(show(folder).splitlines()):
        words = " ".join(line.strip(_FRAME).split())
        if sum(c.isalnum() for c in words) > 2 and not _KEYS.search(words):
            return words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "…"
    return ""


def plain(text: str) -> str:
    """Return what a terminal would roughly show of `text`: without control sequences."""
    lines = _ESCAPES.sub("", text).replace("\r\n", "\n").split("\n")
    # A progress bar returns to the start of its line; only its last state counts.
    return "\n".join(CONTROLS.sub("", line.rstrip("\r").rpartition("\r")[2]) for line in lines)


def _tidy(text: str) -> str:
    """Return the lines of a screen, printable characters alone."""
    lines = [
        "".join(c for c in line if c.isprintable()).rstrip() for line in plain(text).split("\n")
    ]
    return "\n".join(lines).rstrip("\n") + "\n"
