"""The supervisor's forked helpers: heavy steps, and checkpoints beside the agent's work."""

from __future__ import annotations

import time

from outpost_worker.folder import outcome
from outpost_worker.run.forked import Stage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from outpost_worker.run.forked import Report
    from outpost_worker.run.stopping import Stopping
    from outpost_worker.run.tree import Tree
    from outpost_worker.system.loop import Loop

    Call = Callable[[Report], dict[str, Any]]

#: Seconds that a preparation or a delivery may take; far beyond what a working network needs.
LIMIT = 3600.0
#: Seconds for the rescue of unpushed work, and for reading the agent's output.
RESCUE_LIMIT = 150.0
#: Seconds for a checkpoint that is under way when the delivery is to begin.
_SETTLE_LIMIT = 10.0
#: Seconds between TERM and KILL for a helper that takes too long, and between two KILLs.
_GRACE = 2.0
_KILL_AGAIN = 0.1


class Helpers:
    """Runs heavy steps in forked children.

    Args:
        loop: turned while it waits.
        tree: learns which processes are helpers.
        stopping: a stop cuts steps short.
        folder: the worker's folder.
        order: `order.json`.
        env: environment of the helpers.
        close: descriptors that no helper may keep.
    """

    def __init__(
        self,
        loop: Loop,
        tree: Tree,
        stopping: Stopping,
        folder: str,
        order: dict[str, Any],
        env: dict[str, str],
        close: tuple[int, ...],
    ) -> None:
        self._loop = loop
        self._tree = tree
        self._stopping = stopping
        self._folder = folder
        self._order = order
        self._env = env
        self._close = close
        self._saving: Stage | None = None

    def run(
        self,
        call: Call,
        *,
        limit: float,
        after_stop: float | None,
        report: Report | None = None,
        again: bool = True,
    ) -> dict[str, Any]:
        """Run a heavy step and wait for it.

        Args:
            call: the step.
            limit: seconds that it may take.
            after_stop: seconds that it may continue after a stop was asked for; None for the grace
                of that stop.
            report: told what it reports.
            again: run it once more when something else killed it.

        Returns:
            `{"answer": …}` or `{"error": …}`; empty when it was ended or died.
        """
        stage = self._begin(call, report or _silent)
        answer = self._wait(stage, limit, after_stop)
        if again and not answer and not stage.ended:  # perhaps memory ran out
            self._tree.end(0.0)  # what it had started would be in the way
            answer = self._wait(self._begin(call, report or _silent), limit, after_stop)
        return answer

    def save(self, workspace: dict[str, Any]) -> None:
        """Begin a checkpoint beside the agent's work, unless one is under way."""
        if self._saving and not self._saving.done:
            return
        from outpost_worker.work import checkpoint

        if self._saving:
            self._forget(self._saving)
        self._saving = self._begin(
            lambda _: checkpoint.save(self._order, self._folder, workspace), _silent
        )

    def settle(self) -> None:
        """Wait for a checkpoint that is under way, not for long: a delivery makes it needless."""
        if self._saving:
            self._wait(self._saving, _SETTLE_LIMIT, _SETTLE_LIMIT)

    def rescue(self, workspace: dict[str, Any], result: dict[str, Any]) -> None:
        """Save what is not pushed, and say in the result where it is."""
        if self._saving:  # it may have missed the last changes
            self._wait(self._saving, RESCUE_LIMIT, RESCUE_LIMIT)
        from outpost_worker.work import checkpoint

        answer = self.run(
            lambda _: checkpoint.save(self._order, self._folder, workspace, ended=True),
            limit=RESCUE_LIMIT,
            after_stop=RESCUE_LIMIT,
        )
        outcome.add_rescue(result, answer, checkpoint.place(self._order, self._folder))

    def _begin(self, call: Call, report: Report) -> Stage:
        stage = Stage(
            self._loop,
            self._folder,
            call,
            env=self._env,
            report=report,
            close=(*self._close, *self._tree.life),
        )
        self._tree.helpers.append(stage)
        self._tree.grown()
        return stage

    def _wait(self, stage: Stage, limit: float, after_stop: float | None) -> dict[str, Any]:
        end = time.monotonic() + limit
        terminated = False
        while not stage.done:
            now = time.monotonic()
            patience = self._stopping.grace if after_stop is None else after_stop
            due = min(end, self._stopping.due(patience))
            if now >= due:
                if terminated:
                    stage.kill()
                else:
                    stage.terminate()
                end = due = now + (_KILL_AGAIN if terminated else _GRACE)
                after_stop = float("inf")
                terminated = True
            self._loop.turn(max(0.0, due - now))
        self._forget(stage)
        return stage.answer

    def _forget(self, stage: Stage) -> None:
        if stage in self._tree.helpers:
            self._tree.helpers.remove(stage)


def _silent(_: str) -> None:
    """Nobody is told what the step reports."""
