"""What time it is for the ledger: that of this machine, or that of a simulation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_MOVED: ContextVar[Callable[[], float] | None] = ContextVar("outpost_clock", default=None)


def now() -> float:
    """Return seconds since the epoch."""
    moved = _MOVED.get()
    return time.time() if moved is None else moved()


@contextmanager
def moved(clock: Callable[[], float]) -> Iterator[None]:
    """Have ledgers that are used in the block, in this thread or task, go by another clock.

    Args:
        clock: returns seconds since the epoch.
    """
    token = _MOVED.set(clock)
    try:
        yield
    finally:
        _MOVED.reset(token)
