"""What is done beside a worker that is at work: its claim kept alive, its log kept elsewhere."""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Final

from outpost_core.errors import OutpostError
from outpost_worker.container.holding import Holding
from outpost_worker.record.kinds import BEAT_EVERY

#: Seconds between two looks whether there is log to keep.
_KEEP: Final = 1.0


class Keeping:
    """Keeps the claim of one worker, as long as it runs.

    Args:
        holding: its claim; None for a worker that has none.
        end: has it ended, within so many seconds of grace.
        look: seconds between two looks at the record.

    Attributes:
        stopped: somebody wants its end, which the record says.
        superseded: another pod has it, so that nothing of it counts here.
    """

    def __init__(
        self, holding: Holding | None, end: Callable[[float], Awaitable[None]], look: float
    ) -> None:
        self.stopped = False
        self.superseded = False
        self._holding = holding
        self._end = end
        self._look = look
        self._looked = self._beaten = time.monotonic()

    async def run(self) -> None:
        """Do that until it is cancelled, or there is nothing to keep."""
        while self._holding is not None and not self.superseded:
            await asyncio.sleep(min(_KEEP, self._look))
            try:
                await self._step(self._holding)
            except (OutpostError, OSError) as error:
                sys.stderr.write(f"{error}\n")
            except Exception:  # noqa: BLE001 - told, and tried again: nobody else does it
                sys.stderr.write(traceback.format_exc())

    async def _step(self, holding: Holding) -> None:
        if holding.log is not None:
            await asyncio.to_thread(holding.log.step)
        now = time.monotonic()
        beat = now >= self._beaten + BEAT_EVERY
        if not beat and now < self._looked + self._look:
            return
        self._looked = now
        found = await asyncio.to_thread(holding.ask, beat=beat)
        if beat:
            self._beaten = now
        if found is None:
            self.superseded = True
            await self._end(0.0)
        elif found.stop is not None and not self.stopped:
            self.stopped = True
            await self._end(found.stop)
