"""What an interactive agent's terminal shows: for whoever looks later, or asks what it waits for.

In a tmux pane, tmux knows; elsewhere the end of the log has to do. Imported for interactive
agents only.
"""

from __future__ import annotations

import os
import re

from outpost_core.worker import files
from outpost_core.worker.git import run

#: Bytes of the log that are looked at without tmux, and of a screen that are kept.
_TAIL = 16 * 1024
_MOST = 64 * 1024
#: Seconds that tmux may take.
_PATIENCE = 2.0
#: Longest line that is told as what an agent said last.
_LONGEST = 160

_ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[PX^_][^\x1b]*\x1b\\"
    r"|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]"
)
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
            return _plain(done.out.decode("utf-8", "replace"))
    try:
        with open(os.path.join(folder, files.LOG), "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL))
            return _plain(log.read().decode("utf-8", "replace"))
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


def _plain(text: str) -> str:
    lines = _ESCAPES.sub("", text).replace("\r\n", "\n").split("\n")
    clean = ["".join(c for c in line.rpartition("\r")[2] if c.isprintable()) for line in lines]
    return "\n".join(line.rstrip() for line in clean).rstrip("\n") + "\n"
