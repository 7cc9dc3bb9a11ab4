"""Talking with a worker that runs: its screen, and what is typed into it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from outpost_core.errors import UsageError
from outpost_manager.manager.workers import Workers

if TYPE_CHECKING:
    from outpost_core.types import Worker


class Talking(Workers):
    """What is asked of a worker that runs."""

    async def nudge(self, ref: str, text: str) -> None:
        """Type text and Enter into an interactive worker."""
        worker = await self._running(ref, "nudge")
        await self._verb(worker, "nudge", text=text)

    async def peek(self, ref: str, lines: int = 50) -> str:
        """Return what the worker's terminal shows."""
        worker = await self.worker(ref)
        self.fleet.require(worker.outpost, "peek")
        return await self._screen(worker, lines)

    async def attach(self, ref: str) -> int:
        """Give this terminal to the worker until the user detaches; the viewer's exit code."""
        worker = await self._running(ref, "attach")
        return await self.fleet.ask_for(
            int, worker.outpost, "outpost_attach", timeout=float("inf"), worker=worker.id
        )

    async def _running(self, ref: str, capability: str) -> Worker:
        worker = await self.worker(ref)
        self.fleet.require(worker.outpost, capability)
        if worker.state.terminal:
            raise UsageError(
                f"{worker.id} has ended ({worker.state.value})", hint=f"outpost logs {worker.id}"
            )
        return worker

    async def _verb(self, worker: Worker, verb: str, **arguments: Any) -> None:
        await self.fleet.ask(
            worker.outpost,
            f"outpost_{verb}",
            timeout=self.config.defaults.answer_timeout,
            worker=worker.id,
            **arguments,
        )
