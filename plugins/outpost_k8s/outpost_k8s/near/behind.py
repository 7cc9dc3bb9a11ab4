"""What a list has begun and does not wait for to its end: it goes on behind whoever has looked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

T = TypeVar("T")


class Behind:
    """The tasks of one outpost, each under a name of its own while it runs.

    Attributes:
        done: set whenever one has ended; who waits for that clears it.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[object]] = {}
        self.done = asyncio.Event()

    def __contains__(self, name: str) -> bool:
        """Whether something of that name runs."""
        return name in self._tasks

    def start(self, name: str, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        """Do something that nothing of that name does yet; what fails is tried by the next list."""
        task = asyncio.create_task(work)
        self._tasks[name] = task

        def over(done: asyncio.Task[T]) -> None:
            self._tasks.pop(name, None)
            self.done.set()
            _ = done.cancelled() or done.exception()  # seen

        task.add_done_callback(over)
        return task

    async def wait(self, names: Iterable[str], seconds: float) -> None:
        """Wait for some of them, not for long; they go on."""
        tasks = [task for name in names if (task := self._tasks.get(name)) is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    async def aclose(self) -> None:
        """Break all of it off; it is taken up again by the next list."""
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
