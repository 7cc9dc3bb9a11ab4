"""The outpost that a keeper serves: its workers as they are written down, each with its course.

What is asked is answered from the records, which say what was heard last. Each worker that has not
ended has a task that follows it; each stop that was asked for has one that repeats it until the
worker has ended. Nothing here is needed to know the truth: a keeper that is killed is started
again, and adopts what it finds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

from outpost_cloudrun import price
from outpost_cloudrun.capabilities import CAPABILITIES
from outpost_cloudrun.keeper import disk
from outpost_cloudrun.keeper.courses import course_of
from outpost_cloudrun.keeper.disk import NotWrittenError
from outpost_cloudrun.keeper.moves import Moves
from outpost_cloudrun.keeper.records import Records
from outpost_cloudrun.keeper.site import Site
from outpost_cloudrun.keeper.workerrecord import WorkerRecord
from outpost_cloudrun.options import CloudRunOptions
from outpost_core.backend import BuildContext, Outpost
from outpost_core.errors import (
    ConflictError,
    NotFoundError,
    OutpostError,
    SpawnRefusedError,
    UnreachableError,
    UsageError,
)
from outpost_core.types import (
    Cleaned,
    Facts,
    Health,
    Json,
    Order,
    Result,
    State,
    WorkerStatus,
)
from outpost_shared import faults
from outpost_shared.backoff import Backoff, reaching_again
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_cloudrun.keeper.course import Course

_log = Logger("cloudrun.keeper")

#: What a command asks of the keeper; the rest is done by the command itself.
SERVED: Final = CAPABILITIES - {"price", "doctor", "bootstrap"}
#: What the course of a record has said when it was refused and nobody waited for that.
_REFUSED: Final = "refused"
#: What of a worker's course says that it was looked for when nothing was known of it.
_RECALLED: Final = "recalled"
#: Seconds for which the end of such a one is waited for: less than a command waits for an answer.
_ENDS: Final = 60.0
#: Where a worker was started; its mode was all that keepers have remembered of that at first.
_SITE: Final = "site"
_MODE: Final = "mode"


class Held(Outpost):
    """The workers of one outpost, held. Its hooks are called by `serve`; it outlives its clients.

    Args:
        name: the configured name.
        options: its options.
        context: where it writes down what it knows.
    """

    type = "cloudrun"
    capabilities = SERVED
    options: CloudRunOptions

    def __init__(self, name: str, options: CloudRunOptions, context: BuildContext) -> None:
        super().__init__(name, options, context)
        self._records = Records(context.state_dir.absolute())
        self._known: dict[str, WorkerRecord] = {}
        self._moves = Moves()
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._courses: dict[Site, Course] = {}

    # --- for the process -------------------------------------------------------------------------

    async def adopt(self) -> None:
        """Take up every worker that is written down."""
        await asyncio.to_thread(self._records.tidy)
        for record in await asyncio.to_thread(lambda: [*self._records.all()]):
            self._know(record)
            await self._note_site(record)
            if record.accepted:
                self._follow(record)
            if record.stop_grace is not None:
                self._see_to_stop(record)

    @property
    def busy(self) -> bool:
        """Whether something runs that is held, or is to be."""
        return bool(self._starting or self._tasks)

    async def aclose(self) -> None:
        """Let go of everything; workers keep running."""
        tasks = [*self._starting.values(), *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for course in self._courses.values():
            with contextlib.suppress(Exception):
                await course.aclose()

    # --- hooks -----------------------------------------------------------------------------------

    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Start the worker of an order, or adopt it.

        Raises:
            ConflictError: the id is there with another order.
            SpawnRefusedError: it was certainly not started.
            UnreachableError: nothing is known, unless it says `sent=False`.
        """
        record = self._known.get(order.worker)
        if record is None:
            _refuse_paths(order)
            price.longest(self.options, order)
            record = await self._create(order)
        else:
            record.check(order)
        if record.result is not None or record.accepted:
            return record.status
        task = self._starting.get(order.worker)
        if task is None:
            if _REFUSED in record.course:
                raise await self._refusal(record)
            task = asyncio.create_task(self._start(record, dict(order.secrets)))
            self._starting[order.worker] = task
            task.add_done_callback(lambda _: self._starting.pop(order.worker, None))
            task.add_done_callback(_seen)
        try:
            await asyncio.shield(task)
        except (SpawnRefusedError, ConflictError, UsageError):
            await self._forget(record)
            raise
        except UnreachableError as error:
            if not error.sent:
                await self._forget(record)
            raise
        except asyncio.CancelledError:
            if task.cancelled():
                raise UnreachableError(f"the keeper of {self.name} ended") from None
            raise
        return record.status

    async def outpost_list(self) -> Sequence[WorkerStatus]:
        """Return all workers, as they were heard of last.

        Raises:
            UnreachableError: workers run, and none of them can be heard.
        """
        for site, course in [*self._courses.items()]:
            running = [one for one in self._known.values() if self._is_at(one, site)]
            if running and (why := await course.unreached(running)):
                raise UnreachableError(
                    f"{self.name} cannot be reached: {why}", hint=f"outpost doctor {self.name}"
                )
        return [record.status for record in self._known.values()]

    async def outpost_ping(self) -> Health:
        """Say whether a worker could be started now; wakes no container."""
        return await self._course(Site.of(self.options)).ping()

    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """Yield the worker's output from byte `offset` on, as it is written down here.

        Raises:
            NotFoundError: there is no such worker.
        """
        record = self._record(worker)
        with record.read():
            while True:
                news = record.news
                ended = record.result is not None or worker not in self._known
                while piece := record.read_log(offset):
                    offset += len(piece)
                    yield piece
                if ended or not follow:
                    return
                await news.wait()

    async def outpost_changes(self) -> AsyncIterator[None]:
        """Yield at once, and whenever a worker here is new, in another state, or gone."""
        async with contextlib.aclosing(self._moves.listen()) as moves:  # type: ignore[type-var]
            async for _ in moves:
                yield

    async def outpost_stop(self, worker: str, grace: float) -> None:
        """Write down that the worker is to end; it is asked until it has.

        On a full disk it is asked all the same, for as long as this keeper lives.
        """
        record = self._known.get(worker)
        if record is None or record.result is not None:
            return
        try:
            await asyncio.to_thread(record.ask_stop, grace)
        except NotWrittenError as error:
            _log.warning("the stop of %s: %s", worker, error.message)
        self._see_to_stop(record)

    async def outpost_clean(self, worker: str, force: bool) -> Cleaned:
        """Remove what is left of an ended worker, there and here."""
        record = self._known.get(worker)
        if record is None:
            return Cleaned(removed=True)
        if record.result is None and _REFUSED not in record.course:
            return Cleaned(removed=False, detail=f"it is {record.status.state.value}")
        cleaned = Cleaned(removed=True)
        if record.accepted:
            cleaned = await self._course_of(record).remove(record, force=force)
        if cleaned.removed:
            await self._forget(record)
        return cleaned

    async def clean_ordered(self, order: Order, force: bool) -> Cleaned:
        """Remove what is left of an ended worker, there and here; it need not be known here.

        The state folder may be gone, and with it what was known. What was made for the order is
        looked for then where orders go now, and what still runs there is taken up and stopped: its
        end is waited for, for a while.

        Raises:
            ConflictError: what is there is another order's.
            UnreachableError: nobody could be asked whether something is there.
        """
        record = self._known.get(order.worker)
        if record is None or (_RECALLED in record.course and not record.accepted):
            record = record or await self._create(order)
            try:
                await self._recall(record)
            except OutpostError as error:
                await self._forget(record)
                if force:
                    said = f"whether something of it is left was not found out: {error.message}"
                    return Cleaned(removed=True, detail=said)
                raise
            if record.result is None:
                said = "it was still there and is being stopped"
                return Cleaned(removed=False, detail=f"{said}; outpost clean {record.worker} again")
        return await self.outpost_clean(order.worker, force)

    async def _recall(self, record: WorkerRecord) -> None:
        """Find a worker of which nothing was known here, and see to its end."""
        notes: dict[str, Json] = {_SITE: Site.of(self.options).written, _RECALLED: True}
        await asyncio.to_thread(record.remember, **notes, asked=True)
        faults.point("keeper.recalled")
        is_there = await self._course_of(record).find(record)
        if not is_there and record.result is None:
            await asyncio.to_thread(record.finish, _gone())
        await asyncio.to_thread(record.accept)
        if record.result is None:
            await asyncio.to_thread(record.ask_stop, record.order.limits.grace)
            self._follow(record)
            self._see_to_stop(record)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ENDS):
                    while (news := record.news) and record.result is None:
                        await news.wait()

    async def outpost_facts(self, programs: Sequence[str]) -> Facts:
        """Say how much a container has, and where it has agents' programs."""
        return await self._course(Site.of(self.options)).facts(programs)

    # --- starting --------------------------------------------------------------------------------

    async def _create(self, order: Order) -> WorkerRecord:
        try:
            record = await asyncio.to_thread(self._records.create, order)
        except NotWrittenError as error:
            raise SpawnRefusedError(error.message, hint=error.hint) from error
        except OSError as error:
            raise SpawnRefusedError(
                f"{order.worker} cannot be written down: {disk.said(error)}",
                hint=f"outpost doctor {self.name}",
            ) from error
        return self._know(record)

    def _know(self, record: WorkerRecord) -> WorkerRecord:
        """Take up a record, unless there is one of its worker; return that which counts."""
        counts = self._known.setdefault(record.worker, record)
        counts.moves = self._moves
        self._moves.tell()
        return counts

    async def _start(self, record: WorkerRecord, secrets: dict[str, str]) -> None:
        try:
            await self._started(record, secrets)
        except NotWrittenError as error:
            if record.course.get("asked") is not True:  # nobody was: it may be started elsewhere
                raise SpawnRefusedError(error.message, hint=error.hint) from error
            raise UnreachableError(error.message, hint=error.hint) from error

    async def _started(self, record: WorkerRecord, secrets: dict[str, str]) -> None:
        if record.course.get("asked") is not True:  # it is nowhere else yet
            await asyncio.to_thread(record.remember, **{_SITE: Site.of(self.options).written})
        if self.options.resume:  # another leg of it has to be given them again
            record.keep_secrets(secrets)
        try:
            await self._course_of(record).start(record, secrets)
        except (SpawnRefusedError, ConflictError, UsageError) as error:
            if record.accepted or record.result is not None:
                raise
            record.forget_secrets()
            said: dict[str, Json] = {"message": error.message, "hint": error.hint}
            with contextlib.suppress(NotWrittenError):
                await asyncio.to_thread(record.remember, **{_REFUSED: said})
            raise
        if not record.accepted:
            await asyncio.to_thread(record.accept)
        if record.status.state is State.QUEUED:
            record.tell(State.STARTING)
        self._follow(record)

    async def _refusal(self, record: WorkerRecord) -> SpawnRefusedError:
        """Return the refusal that nobody has waited for; the order may be given again."""
        said = record.course.get(_REFUSED)
        told = said if isinstance(said, dict) else {}
        await self._forget(record)
        return SpawnRefusedError(str(told.get("message", "")), hint=str(told.get("hint", "")))

    async def _forget(self, record: WorkerRecord) -> None:
        if self._known.get(record.worker) is record:
            for kind in ("follow", "stop"):
                if task := self._tasks.get((kind, record.worker)):
                    task.cancel()
            with contextlib.suppress(FileNotFoundError):
                await asyncio.to_thread(self._records.remove, record)
            self._known.pop(record.worker, None)
            self._moves.tell()

    # --- holding ---------------------------------------------------------------------------------

    def _follow(self, record: WorkerRecord) -> None:
        if record.result is None:
            self._task("follow", record, self._followed(record))

    async def _followed(self, record: WorkerRecord) -> None:
        again = reaching_again()
        while record.result is None:
            try:
                await self._course_of(record).follow(record)
            except OutpostError as error:
                why = error.message
            except OSError as error:
                why = disk.said(error)
            except Exception as error:  # noqa: BLE001 - one worker's trouble is not the others'
                why = type(error).__name__
                _log.warning("%s: %s: %s", record.worker, why, error, error=error)
            else:
                continue
            record.tell(record.status.state, f"it cannot be followed: {why}")
            _log.warning("%s cannot be followed: %s", record.worker, why)
            await again.wait()

    def _see_to_stop(self, record: WorkerRecord) -> None:
        if record.result is None:
            self._task("stop", record, self._stopped(record))

    async def _stopped(self, record: WorkerRecord) -> None:
        """Ask for a worker's end until it has ended."""
        worker = record.worker
        if task := self._starting.get(worker):
            task.cancel()
            await asyncio.wait({task})
        again = Backoff(1.0, 15.0)
        while True:
            ended = record.news
            if record.result is not None:
                return
            try:
                await self._ask_to_end(record)
            except OutpostError as error:
                _log.info("%s cannot be stopped yet: %s", worker, error.message)
            except OSError as error:
                _log.warning("%s cannot be stopped yet: %s", worker, disk.said(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), again.pause())

    async def _ask_to_end(self, record: WorkerRecord) -> None:
        """Ask for a worker's end, once."""
        try:
            if not record.accepted and record.course.get("asked") is not True:
                raise NotFoundError("nobody was asked to start it")
            await self._course_of(record).stop(record, record.stop_grace or 0.0)
        except NotFoundError:
            if record.accepted:
                _log.info("%s is to stop and is not found", record.worker)
            else:
                await asyncio.to_thread(record.finish, _never_began())
            return
        if not record.accepted:
            await asyncio.to_thread(record.accept)
            self._follow(record)

    def _task(self, kind: str, record: WorkerRecord, work: Coroutine[Any, Any, None]) -> None:
        key = (kind, record.worker)
        if key in self._tasks:
            work.close()
            return
        task = asyncio.create_task(work)
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key, None))
        task.add_done_callback(_seen)

    # --- what belongs to what --------------------------------------------------------------------

    def _record(self, worker: str) -> WorkerRecord:
        record = self._known.get(worker)
        if record is None:
            raise NotFoundError(
                f"{ascii(worker[:120])[1:-1]} is not a worker of {self.name}",
                hint="outpost workers --all",
            )
        return record

    def _course(self, site: Site) -> Course:
        course = self._courses.get(site)
        if course is None:
            course = course_of(self.name, site.options(self.options), self.context)
            self._courses[site] = course
        return course

    def _course_of(self, record: WorkerRecord) -> Course:
        return self._course(self._site_of(record))

    def _site_of(self, record: WorkerRecord) -> Site:
        said = record.course.get(_SITE) or {_MODE: record.course.get(_MODE)}
        return Site.read(said, self.options) or Site.of(self.options)

    async def _note_site(self, record: WorkerRecord) -> None:
        """Write down where a worker is whose keeper of before has not."""
        if record.result is None and _SITE not in record.course:
            site = self._site_of(record)
            with contextlib.suppress(NotWrittenError):
                await asyncio.to_thread(record.remember, **{_SITE: site.written, _MODE: None})

    def _is_at(self, record: WorkerRecord, site: Site) -> bool:
        return record.accepted and record.result is None and self._site_of(record) == site


def _refuse_paths(order: Order) -> None:
    """Refuse a rig that no container can reach.

    Raises:
        SpawnRefusedError: it is a path of this machine.
    """
    if order.resume is not None and order.resume.startswith("/"):
        raise SpawnRefusedError(
            f"{order.resume} is a file of this machine, which no container can continue from",
            hint="push what it holds to the rig (git fetch it, then git push), and resume from"
            " that commit",
        )
    push_url = order.delivery.push_url if order.delivery is not None else ""
    for what in filter(None, (order.rig, push_url)):
        if what.startswith(("/", "./", "../", "~", "file:")):
            raise SpawnRefusedError(
                f"{what} is a path of this machine, which no container of Cloud Run can reach",
                hint="give the repository's URL (https or ssh), or use a local or an SSH outpost",
            )


def _never_began() -> Result:
    return Result(
        state=State.STOPPED,
        reason="stopped",
        message="it was stopped before it was started",
        cost_usd=0.0,
        agent_began=False,
    )


def _gone() -> Result:
    return Result(
        state=State.LOST,
        reason="lost_process",
        message="nothing of it was known here, and nothing of it is there",
    )


def _seen(task: asyncio.Task[None]) -> None:
    """Nobody complains of an error that nobody waits for: it is written down."""
    _ = task.cancelled() or task.exception()
