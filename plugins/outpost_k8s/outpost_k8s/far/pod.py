"""One pod, one worker, once: from the order to the termination message.

What outlives the pod comes first: where another pod has the claim, nothing runs here. How the
worker ends is put on record before it is told. The agent is under a supervisor of its own, as
everywhere; this keeps what is around it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from outpost_core import wire
from outpost_core.errors import (
    NotFoundError,
    OutpostError,
    SpawnRefusedError,
    UnreachableError,
    UsageError,
)
from outpost_core.types import Order, Result, State
from outpost_k8s.far import notes, place, podorder, rescue, results, termination
from outpost_k8s.far.copying import Copy
from outpost_k8s.far.keeping import Keeping
from outpost_k8s.far.notes import Notes
from outpost_k8s.far.settings import Settings
from outpost_k8s.far.workers import PodWorkers
from outpost_shared.backoff import Backoff, every
from outpost_worker.container.claims import Claims, Known
from outpost_worker.container.holding import Holding
from outpost_worker.container.signals import on_end
from outpost_worker.folder import files
from outpost_worker.record.kinds import Claim, Record
from outpost_worker.record.standing import REASON as SUPERSEDED
from outpost_worker.record.standing import launched
from outpost_worker.repository import credentials
from outpost_worker.run import stop

T = TypeVar("T")

#: Seconds after the agent's grace in which its work is pushed and all is told, before the cluster
#: kills what is left: that gives the pod a minute beyond that grace.
AFTER_GRACE: Final = 50.0
#: Seconds of these for the record and the message alone.
LAST: Final = 10.0
#: Seconds for which a record is asked again that cannot be reached: for a claim, and for an end.
CLAIM_PATIENCE: Final = 300.0
END_PATIENCE: Final = 600.0
#: Seconds that a repository may take to be brought from the machine that ordered.
BRING_PATIENCE: Final = 3600.0
#: Seconds between two looks at the worker's folder and at notes.
_LOOK: Final = 0.2
#: Seconds for the last of the log to be read by whoever collects it.
_LAST_LINES: Final = 30.0


class _ElsewhereError(Exception):
    """Another pod has the worker, whose claim says this instance."""


class _NotBegunError(Exception):
    """Nothing runs here, and nothing will."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.message)
        self.result = result


class Pod:
    """The work of one pod.

    Args:
        settings: of this program.
        printed: the descriptor that the log is copied to.

    Attributes:
        trouble: why nothing was run, or what went wrong, for people; "" for nothing.
    """

    def __init__(self, settings: Settings, printed: int) -> None:
        self.trouble = ""
        self._settings = settings
        self._out = printed
        self._notes = Notes(settings.root)
        self._claims = Claims(settings.root)
        self._workers = PodWorkers(settings.pod or "this pod", settings)
        self._order: Order | None = None
        self._known: Known | None = None
        self._record: Record | None = None
        self._holding: Holding | None = None
        self._keeping: Keeping | None = None
        self._copy: Copy | None = None
        self._grace = 0.0
        self._ends = asyncio.Event()  # the cluster wants the pod to end
        self._until = math.inf  # time.monotonic() when all has to be told

    @property
    def printed(self) -> bool:
        """Whether anything of the log was printed."""
        return self._copy is not None and self._copy.copied > 0

    async def run(self) -> int:
        """Run the order; returns the exit code: 0 where it is done."""
        on_end(self._end)
        try:
            ordered = podorder.read(self._settings)
        except OutpostError as error:
            self._tell(self._not_begun(results.NO_ORDER, error))
            return 1
        try:
            result = await self._whole(ordered)
        except _ElsewhereError as error:
            self.trouble = f"another pod has this worker: {error}"
            termination.write(self._settings.termination, termination.elsewhere(str(error)))
            return 1
        return 0 if result.state is State.DONE else 1

    def defect(self, error: Exception) -> int:
        """End what runs after something that should not happen, and tell; returns the exit code."""
        self.trouble = f"{type(error).__name__}: {error}"
        self._end()
        result = self._ended_by_force() or results.defect(error)
        self._tell(result)
        return 0 if result.state is State.DONE else 1

    def _ended_by_force(self) -> Result | None:
        """Have the worker ended with its work saved; returns how it did, None where nobody says."""
        if self._order is None:
            return None
        folder = self._settings.root / files.WORKERS / self._order.worker
        with contextlib.suppress(OutpostError, OSError):
            stop.request(folder, self._grace, results.TERMINATED)
            for _ in every(_LOOK, within=self._grace + AFTER_GRACE - LAST).tries():
                result = self._workers.status_of(self._order.worker).result
                if result is not None:
                    return result
        return None

    # --- from the order to its end ----------------------------------------------------------------

    async def _whole(self, ordered: podorder.Ordered) -> Result:
        order = self._order = ordered.order
        self._grace = order.limits.grace
        hosted = self._settings.hosted
        phase = notes.WAITING if hosted else notes.CLAIMING
        self._say(phase, worker=order.worker, digest=wire.digest(order))
        try:
            if hosted:
                await self._brought()
            stands = await self._claimed(ordered)
            result = stands or await self._worked(order)
        except _NotBegunError as error:
            result = error.result
        return await self._ended(order, result)

    async def _brought(self) -> None:
        """Wait until the repository is here that the worker starts from."""
        end = time.monotonic() + BRING_PATIENCE
        while (controller := self._notes.brought()) is None:
            self._check_wanted()
            if time.monotonic() > end:
                why = "its repository was not brought from the machine that ordered it"
                raise _NotBegunError(self._not_begun(results.NOT_BROUGHT, UsageError(why)))
            await self._pause()
        self._workers.controller = controller

    async def _claimed(self, ordered: podorder.Ordered) -> Result | None:
        """Claim the worker for this pod; returns the result that stands already, if there is one.

        Raises:
            _ElsewhereError: another pod has it.
            _NotBegunError: nobody can say.
        """
        order, settings = ordered.order, self._settings
        self._say(notes.CLAIMING)
        try:
            login = place.login_of(settings, order, ordered.git_credentials)
            record = self._record = place.record_of(settings, order, login)
            if record is None:
                return None
            claim, again = self._claim(order)
            stands = await self._asked(lambda: record.claim(claim))
            if stands.id != claim.id:
                raise _ElsewhereError(stands.instance)
            found = await self._asked(lambda: record.read(order.worker)) if again else None
        except OutpostError as error:
            raise _NotBegunError(self._not_begun(results.NOT_CLAIMED, error)) from error
        self._say(notes.CLAIMING, claim=claim.id)
        folder = str(settings.root / files.WORKERS / order.worker)
        self._holding = Holding(record, claim, folder, place.log_keeper(settings, order))
        return found.result if found is not None else None

    def _claim(self, order: Order) -> tuple[Claim, bool]:
        """Return the claim of this pod, noted; and whether it was before this program began."""
        digest, known = wire.digest(order), self._claims.read(order.worker)
        if known is not None and known.claim.digest == digest:
            self._known = known
            return known.claim, True
        claim = Claim(
            worker=order.worker, digest=digest, owner=order.owner, instance=self._settings.uid
        )
        self._known = Known(claim=claim)
        try:
            self._claims.write(self._known)
        except OSError as error:
            why = f"its claim cannot be written down: {error.strerror}"
            raise SpawnRefusedError(why, hint="give the pod more ephemeral_storage") from error
        return claim, False

    async def _asked(self, ask: Callable[[], T]) -> T:
        """Ask a record that may be away for a while.

        Raises:
            _NotBegunError: the pod ends meanwhile.
            OutpostError: it cannot be asked, or says no.
        """
        pauses = Backoff(0.5, 15.0, jitter=0.3, within=CLAIM_PATIENCE)
        while True:
            over = pauses.over
            asking = asyncio.ensure_future(asyncio.to_thread(ask))
            ends = asyncio.ensure_future(self._ends.wait())
            await asyncio.wait({asking, ends}, return_when=asyncio.FIRST_COMPLETED)
            ends.cancel()
            if not asking.done():
                self._check_wanted()
            try:
                return await asking
            except UnreachableError:
                if over:
                    raise
            self._check_wanted()
            await pauses.wait()

    async def _worked(self, order: Order) -> Result:
        """Have the worker run, and return how it ended.

        Raises:
            _NotBegunError: it was not started.
        """
        self._check_wanted()
        settings, holding = self._settings, self._holding
        with contextlib.suppress(OSError):  # it is not in the way: the work says what it lacks
            if settings.volume:
                await asyncio.to_thread(rescue.bring, settings.root, order, settings.volume)
            await asyncio.to_thread(rescue.carried, settings.root, order, settings.order)
        if settings.rig_reference and order.rig and not settings.hosted:
            await asyncio.to_thread(place.begin_mirror, settings, order.rig)
        if holding is not None:
            asked_by = place.asked_by(settings, holding.claim)
            self._workers.run_by(launched(holding.claim, asked_by))
        self._say(notes.WORKING)
        try:
            await self._workers.outpost_spawn(order=order)
        except SpawnRefusedError as error:
            raise _NotBegunError(self._not_begun(results.NOT_CLAIMED, error)) from error
        log = settings.root / files.WORKERS / order.worker / files.LOG
        self._copy = Copy(log, self._out)
        self._copy.start()
        self._keeping = Keeping(holding, self._stop, settings.look)
        keeping = asyncio.create_task(self._keeping.run())
        try:
            return await self._watched(order)
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})

    async def _watched(self, order: Order) -> Result:
        told = ""
        while True:
            with contextlib.suppress(OSError, UnreachableError):
                try:
                    status = await asyncio.to_thread(self._workers.status_of, order.worker)
                except NotFoundError:
                    return results.lost("its files were removed")
                if status.result is not None:
                    return status.result
            if time.monotonic() > self._until - LAST:
                return await asyncio.to_thread(results.cut_off, self._settings.root, order)
            if (why := self._wanted_end()) and why != told:
                told = why
                asked = self._notes.stop()
                ends = self._ends.is_set()
                await self._stop(self._grace if ends or asked is None else asked, why)
            await self._pause()

    async def _stop(self, grace: float, reason: str = results.STOPPED) -> None:
        """Have the worker ended, with its work saved."""
        assert self._order is not None
        folder = self._settings.root / files.WORKERS / self._order.worker
        try:
            await asyncio.to_thread(stop.request, folder, grace, reason)
        except (OutpostError, OSError) as error:
            self._note(error)

    async def _ended(self, order: Order, result: Result) -> Result:
        """Put the end on record and tell it; wait for its work to be fetched where that is due."""
        self._say(notes.ENDING)
        copied = asyncio.ensure_future(self._copied())
        result, waits = await self._kept(order, result)
        if result.reason == SUPERSEDED or (self._keeping and self._keeping.superseded):
            await self._who_else(order)
        elif self._holding is not None:
            result = await self._on_record(self._holding, result)
        await copied
        self._tell(result)
        if waits and not self._ends.is_set():
            self._say(notes.LINGERING)
            await self._fetched()
            if self._notes.collected():
                self._tell(result, collected=True)
        self._say(notes.ENDED)
        return result

    async def _copied(self) -> None:
        if self._copy is not None:
            left = self._until - time.monotonic() - LAST / 2
            await asyncio.to_thread(self._copy.finish, min(_LAST_LINES, left))

    async def _kept(self, order: Order, result: Result) -> tuple[Result, bool]:
        """See that work which no remote took outlives this pod; whether it has to be waited for."""
        settings = self._settings
        if settings.hosted and (result.commit or result.checkpoint):
            return result, True
        try:
            if not await asyncio.to_thread(rescue.find, settings.root, order.worker):
                return result, False
            if not settings.volume:
                return result, True
            keep = asyncio.to_thread(rescue.keep, settings.root, order.worker, settings.volume)
            kept = await asyncio.wait_for(keep, min(END_PATIENCE, self._left()))
        except (OSError, OutpostError, TimeoutError) as error:
            self._note(error)
            return result, True
        if kept and (result.checkpoint or "").startswith("/"):
            result = dataclasses.replace(result, checkpoint=kept)
        return result, False

    async def _on_record(self, holding: Holding, result: Result) -> Result:
        """Put the end on record; returns the result that stands, or this where that fails.

        Raises:
            _ElsewhereError: another pod has the worker.
        """
        assert self._order is not None
        pauses = Backoff(0.5, 15.0, jitter=0.3, within=min(END_PATIENCE, self._left()))
        while True:
            over = pauses.over
            try:
                finish = asyncio.to_thread(holding.finish, result)
                stands = await asyncio.wait_for(finish, self._left())
            except (OutpostError, OSError, TimeoutError) as error:
                self._note(error)
                if over or self._left() <= 1.0:
                    return result
                await self._wait(pauses.pause())
                continue
            if stands is None:
                await self._who_else(self._order)
                return result
            assert self._known is not None
            self._known = dataclasses.replace(self._known, result=stands)
            with contextlib.suppress(OSError):  # a full disk: the record is what counts
                self._claims.write(self._known)
            await asyncio.to_thread(
                credentials.remove, str(self._settings.root), self._order.worker
            )
            return stands

    async def _who_else(self, order: Order) -> None:
        """Say that another pod has the worker.

        Raises:
            _ElsewhereError: it has; else nobody knows of it any more.
        """
        assert self._record is not None
        with contextlib.suppress(OutpostError, TimeoutError):
            read = asyncio.to_thread(self._record.read, order.worker)
            found = await asyncio.wait_for(read, min(60.0, self._left()))
            mine = self._holding.claim.id if self._holding is not None else ""
            if found is not None and found.claim.id != mine:
                raise _ElsewhereError(found.claim.instance)

    async def _fetched(self) -> None:
        """Wait until the work was fetched, as long as that may take."""
        end = time.monotonic() + self._settings.linger
        while not (self._notes.collected() or self._ends.is_set() or time.monotonic() > end):
            await self._pause()

    # --- small ------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Note that the cluster wants the pod to end."""
        if not self._ends.is_set():
            self._until = time.monotonic() + self._grace + AFTER_GRACE
            self._ends.set()

    def _left(self) -> float:
        """Return the seconds until all has to be told."""
        return max(self._until - time.monotonic() - LAST / 2, 1.0)

    async def _pause(self) -> None:
        await self._wait(_LOOK)

    async def _wait(self, seconds: float) -> None:
        """Wait, but no longer than until the pod is to end."""
        if self._ends.is_set():
            await asyncio.sleep(min(seconds, _LOOK))
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ends.wait(), seconds)

    def _wanted_end(self) -> str:
        """Return why the worker is to end; "" where nobody wants that."""
        if self._notes.stop() is not None or (self._keeping and self._keeping.stopped):
            return results.STOPPED
        return results.TERMINATED if self._ends.is_set() else ""

    def _check_wanted(self) -> None:
        """See that the worker is still wanted that has not begun.

        Raises:
            _NotBegunError: it is not.
        """
        if why := self._wanted_end():
            raise _NotBegunError(results.not_wanted(why))

    def _not_begun(self, reason: str, error: OutpostError) -> Result:
        self.trouble = str(error)
        return results.not_begun(reason, error)

    def _say(self, phase: str, **about: Any) -> None:
        """Say what is done now; a full disk only loses the saying."""
        try:
            self._notes.say(phase, **about)
        except OSError as error:
            self._note(error)

    def _note(self, error: BaseException) -> None:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.stderr.flush()

    def _tell(self, result: Result, *, collected: bool = False) -> None:
        """Leave the termination message."""
        copy, claim = self._copy, self._holding.claim.id if self._holding else ""
        said = termination.ended(
            result,
            log=result.log_bytes or 0,
            copied=copy.copied if copy else 0,
            newline=bool(copy and copy.newline),
            claim=claim,
            collected=collected,
        )
        termination.write(self._settings.termination, said)
