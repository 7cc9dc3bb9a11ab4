"""The outpost of a machine where a person can look at its workers, and type to them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from outpost_agents.dialogs import question
from outpost_core.backend import BuildContext, OutpostOptions
from outpost_core.errors import OutpostError, UnsupportedError, UsageError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Order, WorkerStatus
from outpost_worker.console import nudging
from outpost_worker.console.starting import (
    Starter,
    interactive,
    is_without_terminal,
    terminal_gone,
    without_terminal,
)
from outpost_worker.console.tmux import Tmux
from outpost_worker.folder import files, status
from outpost_worker.run.screen import plain
from outpost_worker.serving.folderoutpost import FolderOutpost


class Console(FolderOutpost):
    """An outpost over a folder whose interactive workers have a terminal in tmux.

    Args:
        name: the configured name.
        options: its options.
        context: where it keeps its state unless `root` says so.
        root: the state folder, absolute.
        tmux: where terminals are; None for detached processes alone.
        tmux_only: nothing is started where tmux fails; else detached processes will do.
    """

    def __init__(
        self,
        name: str,
        options: OutpostOptions,
        context: BuildContext,
        *,
        root: Path | None = None,
        tmux: Tmux | None = None,
        tmux_only: bool = False,
    ) -> None:
        super().__init__(name, options, context, root=root)
        self._tmux = tmux
        self._starter = Starter(
            self._root, tmux, self._detached, self.withdraw, tmux_only=tmux_only
        )

    def start_all(self, folders: Sequence[Path]) -> Sequence[Exception | None]:
        """Start supervisors: in tmux, or as detached processes."""
        return self._starter.start(folders)

    def prepare(self, order: Order, folder: Path) -> None:
        """Have a headless worker work without a terminal: it never needs one."""
        if not order.agent.interactive:
            with contextlib.suppress(OSError):  # then it gets one
                without_terminal(folder)

    def adjust_status(self, found: WorkerStatus) -> WorkerStatus:
        """Say besides when the terminal of a worker is gone."""
        if found.result is not None or found.started_at is None:
            return super().adjust_status(found)
        if terminal_gone(self._root / files.WORKERS / found.id):
            detail = f"{found.detail}; terminal gone" if found.detail else "terminal gone"
            return dataclasses.replace(found, detail=detail)
        return found

    @hookimpl
    async def outpost_nudge(self, worker: str, text: str) -> None:
        """Type `text` and Enter into an interactive worker.

        Raises:
            NotFoundError: there is no such worker.
            UnsupportedError: it is headless.
            UsageError: it has ended.
            OutpostError: it does not listen.
        """
        folder = self.folder_of(worker)
        nudging.check_interactive(worker, interactive(folder))
        self._check_running(worker, folder)
        if self._tmux and not is_without_terminal(folder):
            screen = await asyncio.to_thread(self._tmux.capture, worker, 50)
            if asked := question(screen or ""):
                raise OutpostError(
                    f"{worker} shows a dialog, and a line of text does not answer it: {asked}",
                    hint=f"outpost attach {worker}",
                )
        await nudging.nudge(worker, folder, text)

    @hookimpl
    async def outpost_peek(self, worker: str, lines: int) -> str:
        """Return the last lines of an interactive worker's screen, else those of its log.

        Raises:
            NotFoundError: there is no such worker.
        """
        folder = self.folder_of(worker)
        if self._tmux and interactive(folder) and not is_without_terminal(folder):
            screen = await asyncio.to_thread(self._tmux.capture, worker, lines)
            if screen is not None:
                return screen
        kept = files.load_text(str(folder), files.SCREEN) if interactive(folder) else ""
        if kept:  # it has ended
            shown = kept.splitlines()[-lines:]
            return "\n".join(map(plain, shown)) + "\n"
        return await asyncio.to_thread(nudging.tail, folder / files.LOG, lines)

    async def viewer(self, worker: str) -> list[str]:
        """Return the command that shows the worker's tmux session; headless ones read-only.

        Raises:
            NotFoundError: there is no such worker.
            UnsupportedError: it runs without tmux.
            UsageError: it has ended.
            OutpostError: its terminal is gone.
        """
        folder = self.folder_of(worker)
        self._check_running(worker, folder)
        typed = interactive(folder)
        if self._tmux is None or (typed and is_without_terminal(folder)):
            raise UnsupportedError(
                f"{worker} runs without tmux, so there is nothing to attach to",
                hint=f"outpost logs -f {worker}",
            )
        if not typed:
            await asyncio.to_thread(self._starter.show, folder)
        elif not await asyncio.to_thread(self._tmux.has, worker):
            raise OutpostError(
                f"the terminal of {worker} is gone (its tmux session ended); the work continues",
                hint=f"outpost logs -f {worker}",
            )
        return self._tmux.attach_argv(worker, read_only=not typed)

    def _check_running(self, worker: str, folder: Path) -> None:
        state = self.adjust_status(status.read(folder)).state
        if state.terminal:
            raise UsageError(f"{worker} has ended ({state})", hint=f"outpost logs {worker}")
