"""Starting supervisors: in tmux where a person may type to the agent, else as detached processes.

A headless worker needs no terminal to work: who looks at one is given a session that shows its log
(see `Starter.show`). Several of them at once are forked by the warm process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from outpost_core.errors import OutpostError
from outpost_shared import programs
from outpost_worker.console.tmux import Tmux, TmuxError
from outpost_worker.folder import files, publish, status
from outpost_worker.recovery.attend import fault
from outpost_worker.system.detached import Detached
from outpost_worker.warm.client import Warm

#: In the folder of a worker that works without a terminal.
NO_TERMINAL: Final = "no-terminal"


class Starter:
    """Starts the supervisors of one outpost.

    Args:
        root: its state folder.
        tmux: its tmux; None for detached processes only.
        tmux_only: nothing is started where tmux fails; else detached processes will do.
        detached: its detached processes.
        withdraw: takes back a worker that could not be started, and returns its refusal.
    """

    def __init__(
        self,
        root: Path,
        tmux: Tmux | None,
        detached: Detached,
        withdraw: Callable[[Path, str], Exception | None],
        *,
        tmux_only: bool = False,
    ) -> None:
        self._root = root
        self._tmux_only = tmux_only
        self._tmux = tmux
        self._detached = detached
        self._warm = Warm(str(root), detached.start)
        self._withdraw = withdraw

    def start(self, folders: Sequence[Path]) -> list[Exception | None]:
        """Start supervisors; the launcher calls this in a thread with all that wait.

        Args:
            folders: the workers' folders.

        Returns:
            For each, None, or why it could not be started; then it was taken back.
        """
        failed: dict[Path, str] = {}
        plain: list[Path] = []
        typed: list[Path] = []
        for folder in folders:
            without = self._tmux is None or is_without_terminal(folder)
            (plain if without else typed).append(folder)
        if self._tmux is not None:
            failed = self._start_in_tmux(typed)
            if not self._tmux_only:
                plain += failed
                failed = {}
            elif plain and (why := self._tmux.why_not()):
                failed |= dict.fromkeys(plain, why)
                plain = []
        failed |= self._start_detached(plain)
        return [
            self._withdraw(folder, failed[folder]) if folder in failed else None
            for folder in folders
        ]

    def show(self, folder: Path) -> None:
        """Have a session that shows the log of a worker which works without a terminal.

        It is for who looks at it now, and ends with the worker, or with the last who looks.

        Raises:
            OutpostError: there can be none.
        """
        assert self._tmux is not None
        try:
            argv = publish.command(folder, "view")
            failed = self._tmux.start({folder.name: argv}, {}, lambda _: False)
            if failed:
                raise TmuxError(failed[folder.name])
        except TmuxError as error:
            raise OutpostError(
                f"{folder.name} cannot be shown: {error.message}",
                hint=error.hint or f"outpost logs -f {folder.name}",
            ) from error

    def _start_in_tmux(self, folders: Sequence[Path]) -> dict[Path, str]:
        """Start supervisors in sessions of their own; returns why not, for those that failed."""
        if self._tmux is None or not folders:
            return {}
        argvs = {folder.name: publish.command(folder) for folder in folders}
        try:
            failed = self._tmux.start(argvs, fault(), self._has_begun)
        except TmuxError as error:
            return dict.fromkeys(folders, error.message)
        return {folder: failed[folder.name] for folder in folders if folder.name in failed}

    def _start_detached(self, folders: Sequence[Path]) -> dict[Path, str]:
        """Start supervisors without a terminal; returns why not, for those that failed.

        While the warm process is only just starting, some are started in the plain way.
        """
        failed: dict[Path, str] = {}
        waiting: list[Path] = []
        for folder in folders:
            try:
                if not is_without_terminal(folder):
                    without_terminal(folder)
                waiting.append(folder)
            except OSError as error:
                failed[folder] = f"its folder cannot be written: {error.strerror}"
        env = programs.own_env(os.environ) | fault()
        while waiting:
            begun = self._warm.start([folder.name for folder in waiting], env)
            waiting = [folder for folder in waiting if folder.name not in begun]
            if begun or not waiting:
                continue
            folder = waiting.pop(0)
            try:
                self._detached.start(publish.command(folder), env)
            except OSError as error:
                failed[folder] = f"its process cannot be started: {error.strerror}"
        return failed

    def _has_begun(self, worker: str) -> bool:
        return status.started(self._root / files.WORKERS / worker)


def without_terminal(folder: Path) -> None:
    """Write down that a worker works without a terminal.

    Raises:
        OSError: its folder cannot be written.
    """
    (folder / NO_TERMINAL).touch(mode=0o600)


def is_without_terminal(folder: Path) -> bool:
    """Whether a worker works without a terminal."""
    return (folder / NO_TERMINAL).exists()


def interactive(folder: Path) -> bool:
    """Whether a worker's agent is one that a person may type to."""
    agent = (files.order(str(folder)) or {}).get("agent") or {}
    return bool(agent.get("interactive"))


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
    return terminal == 0 and not is_without_terminal(folder)
