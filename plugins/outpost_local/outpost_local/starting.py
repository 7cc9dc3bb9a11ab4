"""Starting supervisors: in tmux, or as detached processes where there is no tmux."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from outpost_core.errors import SpawnRefusedError
from outpost_local.detached import Detached
from outpost_local.options import Mode
from outpost_local.tmux import Tmux, TmuxError
from outpost_shared import programs
from outpost_worker.folder import files, publish, status
from outpost_worker.recovery import cleaning

#: In the folder of a worker that was started without tmux.
NO_TERMINAL: Final = "no-terminal"


class Starter:
    """Starts the supervisors of one outpost.

    Args:
        name: the outpost, for messages.
        root: its state folder.
        mode: whether detached processes will do where tmux fails.
        tmux: its tmux; None for detached processes only.
        detached: its detached processes.
    """

    def __init__(
        self, name: str, root: Path, mode: Mode, tmux: Tmux | None, detached: Detached
    ) -> None:
        self._name = name
        self._root = root
        self._mode = mode
        self._tmux = tmux
        self._detached = detached

    def start(self, folders: Sequence[Path]) -> list[Exception | None]:
        """Start supervisors; the launcher calls this in a thread with all that wait.

        Args:
            folders: the workers' folders.

        Returns:
            For each, None, or why it could not be started; then it was taken back.
        """
        failed: dict[str, str] = {}
        if self._tmux is not None:
            argvs = {folder.name: publish.command(folder) for folder in folders}
            try:
                failed = self._tmux.start(argvs, fault(), self._has_begun)
            except TmuxError as error:
                failed = dict.fromkeys(argvs, error.message)
            if self._mode is Mode.TMUX:
                return [
                    self._withdraw(folder, failed[folder.name]) if folder.name in failed else None
                    for folder in folders
                ]
        return [
            self._start_detached(folder) if self._tmux is None or folder.name in failed else None
            for folder in folders
        ]

    def _start_detached(self, folder: Path) -> Exception | None:
        try:
            (folder / NO_TERMINAL).touch(mode=0o600)
            self._detached.start(publish.command(folder), programs.own_env(os.environ) | fault())
        except OSError as error:
            return self._withdraw(folder, f"its process cannot be started: {error.strerror}")
        return None

    def _has_begun(self, worker: str) -> bool:
        return status.started(self._root / files.WORKERS / worker)

    def _withdraw(self, folder: Path, why: str) -> Exception | None:
        """Take back a worker that could not be started, so that another outpost may have it."""
        with cleaning.locked(folder) as mine:
            if not mine or status.started(folder):
                return None  # somebody else started it
            cleaning.discard(self._root, folder)
        cleaning.empty_trash(self._root)
        return SpawnRefusedError(
            f"{folder.name} cannot be started: {why}", hint=f"outpost doctor {self._name}"
        )


def fault() -> dict[str, str]:
    """Return what tests tell the far side about where to crash."""
    asked = os.environ.get("OUTPOST_FAULT")
    return {"OUTPOST_FAULT": asked} if asked else {}


def terminal_gone(folder: Path) -> bool:
    """Whether a living worker that was started in tmux has lost its terminal.

    The kernel takes the terminal from a session whose other end was closed, so this needs no
    question to tmux.
    """
    pid = (files.load(str(folder), files.CLAIM) or {}).get("pid")
    if type(pid) is not int:
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        terminal = int(stat.rpartition(")")[2].split()[4])
    except (OSError, ValueError):
        return False  # it ended meanwhile
    return terminal == 0 and not (folder / NO_TERMINAL).exists()
