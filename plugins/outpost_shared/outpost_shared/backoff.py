"""Waiting between two tries: how long, until when, and never in step with others.

Every loop of Outpost that tries something again waits by this. It needs the standard library only,
and nothing of that which starts slowly: the far side waits by it too.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Backoff:
    """The pauses between the tries at one thing: each longer than the one before, up to a bound.

    Args:
        first: seconds of the first pause.
        most: seconds of the longest.
        growth: by how much each is longer than the one before.
        jitter: which part of a pause is left to chance, from 0 (none) to 1 (all of it), so that
            those who were turned away together do not come back together.
        within: seconds until the last try; None to try for ever.
    """

    def __init__(
        self,
        first: float,
        most: float,
        *,
        growth: float = 2.0,
        jitter: float = 0.0,
        within: float | None = None,
    ) -> None:
        self._first = first
        self._most = most
        self._growth = growth
        self._jitter = jitter
        self._end = None if within is None else time.monotonic() + within
        self._next = first

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return self._end is not None and time.monotonic() >= self._end

    def reset(self) -> None:
        """Begin again with the first pause: something was heard, or has changed."""
        self._next = self._first

    def pause(self) -> float:
        """Return the seconds of the next pause, which ends no later than the time is up."""
        pause, self._next = self._next, min(self._next * self._growth, self._most)
        if self._jitter:
            chance = int.from_bytes(os.urandom(4), "big") / 2**32
            pause *= 1.0 - self._jitter * chance
        if self._end is not None:
            pause = min(pause, max(self._end - time.monotonic(), 0.0))
        return pause

    def sleep(self) -> None:
        """Wait for the next pause, in a thread that may stand still."""
        time.sleep(self.pause())

    async def wait(self) -> None:
        """Wait for the next pause, while other tasks run."""
        import asyncio

        await asyncio.sleep(self.pause())

    def tries(self) -> Iterator[None]:
        """Yield at once, and then after each pause; the last time when the time is up."""
        while True:
            last = self.over
            yield
            if last:
                return
            self.sleep()

    async def rounds(self) -> AsyncIterator[None]:
        """Yield as `tries` does, while other tasks run in the pauses."""
        while True:
            last = self.over
            yield
            if last:
                return
            await self.wait()


def reaching_again() -> Backoff:
    """Return the pauses of who waits, for however long, for an outpost that cannot be reached.

    Short at first, since most lines are back at once; then a few times a minute, which costs a
    host nothing; never in step, so that a host that is back is not asked by all at once.
    """
    return Backoff(0.5, 15.0, jitter=0.5)


def every(seconds: float, *, within: float | None = None) -> Backoff:
    """Return equal pauses, for who waits for something to become true.

    Args:
        seconds: between two looks.
        within: seconds until the last one; None for ever.
    """
    return Backoff(seconds, seconds, within=within)


class Retries:
    """When each of many things may be tried again, and why the last try failed.

    Args:
        first: seconds until the second try at a thing.
        most: seconds between two tries, at most.
    """

    def __init__(self, first: float, most: float) -> None:
        self._first = first
        self._most = most
        self._failed: dict[str, tuple[float, Backoff, str]] = {}

    def is_due(self, name: str) -> bool:
        """Whether a thing may be tried now."""
        known = self._failed.get(name)
        return known is None or time.monotonic() >= known[0]

    def failed(self, name: str, why: str = "") -> None:
        """Remember that a try has failed.

        Args:
            name: the thing.
            why: for people.
        """
        known = self._failed.get(name)
        backoff = Backoff(self._first, self._most) if known is None else known[1]
        self._failed[name] = (time.monotonic() + backoff.pause(), backoff, why)

    def done(self, name: str) -> None:
        """Forget the tries at a thing: it succeeded, or is not wanted any more."""
        self._failed.pop(name, None)

    def why(self, name: str) -> str:
        """Return why the last try at a thing failed; "" when it did not."""
        known = self._failed.get(name)
        return "" if known is None else known[2]
