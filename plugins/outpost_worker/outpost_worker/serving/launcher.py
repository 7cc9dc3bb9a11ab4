"""Many launches asked for at once become few: what waits is started together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor


class Launcher:
    """Collects launches and hands all that wait to one call of `start`.

    While `start` runs in a thread of its own, further launches queue up for the next call. A
    caller that is cancelled does not take its launch back.

    Args:
        start: starts the workers of the given folders, and returns an error or None for each.
    """

    def __init__(self, start: Callable[[Sequence[Path]], Sequence[Exception | None]]) -> None:
        self._start = start
        self._waiting: list[tuple[Path, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def launch(self, folder: Path) -> None:
        """Start the worker of `folder`; returns when it was started.

        Raises:
            Exception: what `start` returned for it.
        """
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((folder, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        await future

    async def _run(self) -> None:
        from concurrent.futures import ThreadPoolExecutor

        await asyncio.sleep(0)  # let those that were scheduled together queue up first
        # not in the loop's own threads: there it would wait until all the others are published
        thread = ThreadPoolExecutor(1, "launcher")
        try:
            await self._launch(thread)
        finally:
            thread.shutdown(wait=False)

    async def _launch(self, thread: ThreadPoolExecutor) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            folders = list(dict.fromkeys(folder for folder, _ in batch))
            try:
                errors = dict(zip(folders, await self._call(folders, thread), strict=True))
            except BaseException:
                for _, future in batch + self._waiting:
                    future.cancel()
                self._waiting = []
                raise
            for folder, future in batch:
                if future.done():
                    continue
                error = errors[folder]
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)

    async def _call(
        self, folders: Sequence[Path], thread: ThreadPoolExecutor
    ) -> Sequence[Exception | None]:
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, self._start, folders)
        except Exception as error:  # noqa: BLE001 - it is handed to every caller
            return [error] * len(folders)
