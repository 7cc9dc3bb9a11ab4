"""A worker of this instance: the claim that it runs by, kept alive, and its end put on record.

Nothing here is told to a caller before it stands: a result is what the record says, and an end
that another instance has been faster with is not ours.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from outpost_cloudrun.server.instance import Instance
from outpost_cloudrun.server.places import Place
from outpost_cloudrun.server.watching import Watched, Watching
from outpost_core.errors import ConflictError, OutpostError
from outpost_core.names import REFS
from outpost_core.types import Result, State, WorkerStatus
from outpost_shared.backoff import Backoff
from outpost_worker.container.claims import Claims, Known
from outpost_worker.container.holding import Holding
from outpost_worker.folder import files
from outpost_worker.record.segments import KeptLog, LogKeeper
from outpost_worker.record.standing import REASON as SUPERSEDED
from outpost_worker.repository import credentials
from outpost_worker.work.checkpoint import place

#: Reason of a worker that was ended since its machine ends, and goes on elsewhere.
TERMINATED: Final = "terminated"
#: Seconds by which a wait has to be longer than asked for, so that this instance was frozen.
_FROZEN: Final = 10.0
#: Seconds between two looks whether there is log to keep.
_KEEP: Final = 1.0
#: Seconds in which a question at its record takes at most a share of a core: many workers of one
#: instance ask less often, by this for each.
_EACH: Final = 0.3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """How often a record is asked, in seconds.

    Args:
        look: between two looks, for a stop that was asked for elsewhere.
        beat: between two beats while nobody follows, `record.kinds.BEAT_EVERY`.
        followed: between two beats while somebody does, less than `LEASE`: heartbeats on the stream
            say that the worker lives, but a line that is dead without anybody knowing must not make
            others take it over.
    """

    look: float
    beat: float
    followed: float
    unrecorded: float


def not_yours(worker: str) -> ConflictError:
    """Return what a caller is told whose worker is not the one that is here."""
    return ConflictError(
        f"the {worker} that is in this container was ordered by somebody else, and yours is not"
        " here",
        hint="try again: another container may answer, or the other one has ended",
    )


class Here:
    """One worker of this instance.

    Args:
        instance: this instance.
        watching: looks at its folder.
        claims: where it is written down by what the worker runs.
        place: where its record is; None where nothing outlives this instance.
        known: its claim; None likewise.
        status: what is known of it.
        pace: how often its record is asked.
        final: when this instance ends, the worker has ended.

    Attributes:
        settled: the result that stands; None while there is none.
        superseded: another instance has it, so that nothing of it counts here.
        unrecorded: its record does not take its end; whoever follows it is told all the same.
        trouble: why its record could not be asked; "" while it can.
        followers: how many streams follow it.
        moved: this instance ends, and with it this worker's leg; its checkpoint, "" for none;
            None while it does not.
        moved_detail: what is to be said of its work then.
    """

    def __init__(
        self,
        instance: Instance,
        watching: Watching,
        claims: Claims,
        place: Place | None,
        known: Known | None,
        status: WorkerStatus,
        pace: Pace,
        *,
        final: bool = False,
    ) -> None:
        self.settled = known.result if known else None
        self.superseded = False
        self.unrecorded = False
        self.trouble = ""
        self.followers = 0
        self.moved: str | None = None
        self.moved_detail = ""
        self._instance = instance
        self._watching = watching
        self._claims = claims
        self.place = place
        self.known = known
        self._first = status
        self._pace = pace
        self._final = final
        self._watched: Watched | None = None
        self._holding = self._held()
        self._log = self._holding.log if self._holding else None
        self._looked = self._beaten = time.monotonic()
        self._stopping = False
        self._refused: float | None = None  # since when its record does not take its end
        self._task: asyncio.Task[None] | None = None

    @property
    def base(self) -> int:
        """Bytes of its log that were printed before it was on this instance."""
        return self.known.base if self.known else 0

    @property
    def worker(self) -> str:
        """Its id."""
        return self._first.id

    @property
    def at_once(self) -> bool:
        """Whether its end counts as soon as it is in its folder."""
        return self.known is None

    def check_owner(self, owner: str) -> None:
        """Refuse a caller whose worker this is not; blocks.

        The same order of two machines has one digest, and one place in this container.

        Args:
            owner: the id of the ledger that he has ordered it by; "" for none.

        Raises:
            ConflictError: another machine has ordered the worker that is here.
        """
        if self.known is not None:
            mine = self.known.claim.owner
        else:
            mine = self._instance.order_of(self.worker).get("owner") or ""
        if owner != mine:
            raise not_yours(self.worker)

    def kept_log(self) -> KeptLog | None:
        """Return what is kept of its log elsewhere; None where logs are not kept."""
        if self.place is None or self.known is None:
            return None
        return self.place.log(self.worker, self.known.claim.owner)

    def as_shown(self, status: WorkerStatus) -> WorkerStatus:
        """Return its status as it may be told: an end only once it stands."""
        if status.result is None:
            return status
        if self.at_once and status.result.reason == TERMINATED and self.moved is None:
            self.move(status.result)
        if self.moved is None and self.settled is not None:
            result = self.settled
            return dataclasses.replace(
                status, state=result.state, detail=result.reason, result=result
            )
        if self.moved is None and (self.at_once or self.unrecorded):
            return status
        detail = "its end is being put on record"
        if self.trouble:
            detail += f", which does not work yet: {self.trouble}"
        return dataclasses.replace(status, state=State.WORKING, detail=detail[:500], result=None)

    def begin(self) -> None:
        """Keep its claim alive, and its end, from now on."""
        if self.known is not None and self.settled is None and self._task is None:
            self._task = asyncio.create_task(self._run())

    async def end(self) -> None:
        """Do nothing more for it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    def tell(self) -> None:
        """Have whoever follows look again."""
        if self._watched is not None:
            self._watched.poke()

    def move(self, result: Result | None) -> None:
        """Note that this instance ends before the worker's work does.

        Args:
            result: how its leg here has ended; None when it has not.
        """
        kept = result.checkpoint if result else self._last_checkpoint()
        self.moved = kept if kept and kept.startswith(REFS) else ""
        if result is None:
            self.moved_detail = "its last changes could not be pushed in time"
        elif kept:
            self.moved_detail = "its work was pushed" if self.moved else "its work was not pushed"
        else:
            self.moved_detail = "it had nothing that was not pushed"
        self.tell()

    def _last_checkpoint(self) -> str | None:
        """Return where the last checkpoint of a worker is that still runs."""
        try:
            order = self._instance.order_of(self.worker)
            folder = str(self._instance.root / files.WORKERS / self.worker)
            return place(order, folder) if order else None
        except (OutpostError, OSError):
            return None

    # --- inside ---------------------------------------------------------------------------------

    def _is_moving(self, result: Result) -> bool:
        return result.reason == TERMINATED and not self._final

    def _held(self) -> Holding | None:
        if self.place is None or self.known is None:
            return None
        folder, known, kept = self._instance.root / files.WORKERS / self.worker, self.known, None
        if (log := self.kept_log()) is not None:
            kept = LogKeeper(log, known.claim.leg, known.base, str(folder / files.LOG))
        return Holding(self.place.record, known.claim, str(folder), kept, known.base)

    async def _run(self) -> None:
        """Keep the claim and the end, whatever goes wrong on the way: nobody else does it."""
        pauses = Backoff(1.0, 60.0)
        while True:
            try:
                return await self._keep()
            except Exception as error:  # noqa: BLE001 - told, and tried again
                sys.stderr.write(traceback.format_exc())
                self.trouble = f"{type(error).__name__}: {error}"
                await pauses.wait()

    async def _keep(self) -> None:
        again = Backoff(0.5, 15.0, jitter=0.3)
        with self._watching.follow(self.worker, self._first) as watched:
            self._watched = watched
            while watched.status is not None and self.settled is None:
                changes, status = watched.changes, watched.status
                if status.result is not None and self.superseded:
                    return
                if status.result is not None and self._is_moving(status.result):
                    await self._keep_log()
                    self.move(status.result)
                    return
                if status.result is not None:
                    if not await self._settle(status.result):
                        self._refused = self._refused or time.monotonic()
                        if time.monotonic() - self._refused >= self._pace.unrecorded:
                            self.unrecorded = True
                            self.tell()
                        await again.wait()
                    continue
                wait = _KEEP if self._log else min(self._pace.look, _KEEP * 5)
                before = time.monotonic()
                await watched.change(changes, wait)
                now = time.monotonic()
                if now - before > wait + _FROZEN:  # others may have taken it over meanwhile
                    self._looked = self._beaten = 0.0
                await self._step(now)

    async def _step(self, now: float) -> None:
        """Do what is due."""
        if self._log is not None:
            await self._try(self._log.step)
        if self.superseded:
            return
        many = _EACH * self._watching.count
        pause = self._pace.followed if self.followers else self._pace.beat
        if now >= self._beaten + max(pause, many):
            await self._ask(beat=True)
        elif now >= self._looked + max(self._pace.look, many):
            await self._ask(beat=False)

    async def _try(self, step: Callable[[], object]) -> bool:
        """Do something at a place that may be away; whether that worked."""
        try:
            await asyncio.to_thread(step)
        except (OutpostError, OSError) as error:
            self.trouble = str(error).partition("\n")[0]
            return False
        self.trouble = ""
        return True

    async def _keep_log(self) -> bool:
        """Keep all that is in the log; whether that worked."""
        log = self._log
        return log is None or await self._try(lambda: log.step(whole=True))

    async def _ask(self, *, beat: bool) -> None:
        """Look whether the claim stands, and whether a stop was asked for."""
        assert self._holding is not None
        self._looked = time.monotonic()
        try:
            found = await asyncio.to_thread(self._holding.ask, beat=beat)
        except OutpostError as error:
            self.trouble = error.message
            return
        self.trouble = ""
        if beat:
            self._beaten = time.monotonic()
        if found is None:
            await self._supersede()
        elif found.stop is not None and not self._stopping:
            self._stopping = True
            await self._instance.outpost_stop(worker=self.worker, grace=found.stop)

    async def _supersede(self) -> None:
        """End a worker that another instance has now; its supervisor pushes nothing."""
        self.superseded = True
        self.tell()
        await self._instance.outpost_stop(worker=self.worker, grace=0.0)

    async def _settle(self, result: Result) -> bool:
        """Put the end on record, and read it back; False where it has to be tried again."""
        assert self._holding is not None
        assert self.known is not None
        if result.reason == SUPERSEDED:
            await self._supersede()
            return True
        try:
            stands = await asyncio.to_thread(self._holding.finish, result)
        except (OutpostError, OSError) as error:
            self.trouble = str(error).partition("\n")[0]
            self.tell()
            return False
        if stands is None:
            await self._supersede()
            return True
        self.trouble = ""
        self.known = dataclasses.replace(self.known, result=stands)
        with suppress(OSError):  # a full disk: the record is what counts
            await asyncio.to_thread(self._claims.write, self.known)
        await asyncio.to_thread(credentials.remove, str(self._instance.root), self.worker)
        self.settled = stands
        self.tell()
        return True
