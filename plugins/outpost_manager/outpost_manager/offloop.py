"""Work that may wait for a disk, a lock or a program, kept off the event loop.

What is written with these functions runs in both worlds: where an event loop runs it waits in a
thread while the loop does other things; where none runs, it is done here and at once, so that a
command that only reads what is known starts neither a loop nor a thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

if TYPE_CHECKING:
    import asyncio

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds that work on the event loop continues without giving others their turn.
BREATH: Final = 0.01


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread; None where none does."""
    events = sys.modules.get("asyncio.events")  # not imported: then there is none
    return None if events is None else events._get_running_loop()  # noqa: SLF001


async def off_loop(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a thread; where no event loop runs, here.

    Args:
        function: what may wait.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Raises:
        Exception: whatever it raises.
    """
    if running_loop() is None:
        return function(*args, **kwargs)
    import asyncio

    return await asyncio.to_thread(function, *args, **kwargs)


class Breather:
    """Lets the event loop take breath in the middle of long work of its own."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    async def breathe(self) -> None:
        """Let others have their turn, when they had none for a while."""
        now = time.monotonic()
        if now - self._last < BREATH or running_loop() is None:
            return
        import asyncio

        await asyncio.sleep(0)
        self._last = time.monotonic()


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that asks no outpost to its end, without an event loop.

    Args:
        work: awaits `off_loop` and the ledger alone, which do not wait where no loop runs.

    Raises:
        RuntimeError: it needs an event loop.
        Exception: whatever it raises.
    """
    if running_loop() is not None:
        work.close()
        raise RuntimeError("an event loop runs here: await it")
    try:
        work.send(None)
    except StopIteration as done:
        answer: T = done.value
        return answer
    work.close()
    raise RuntimeError("it waits for something, which needs an event loop")
