"""Mode instance: a worker is a Cloud Run instance of its own, without a time limit.

An instance (Preview) is one container with an address: created under a name that says which worker
it is, so that it is there once, and never started again by Google (`restartPolicy: NEVER`). Its
program is the one of a service, so its stream is, too. An instance is paid for while it exists:
once a result is here it is removed first, and only then the worker counts as ended.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from outpost_cloudrun import price
from outpost_cloudrun.admin import names, specs
from outpost_cloudrun.keeper import endings
from outpost_cloudrun.keeper.admincourse import AdminCourse
from outpost_cloudrun.keeper.client import Way
from outpost_cloudrun.keeper.overdue import end_overdue, until_result
from outpost_cloudrun.keeper.runs import Runs
from outpost_cloudrun.keeper.stream import Stream
from outpost_cloudrun.keeper.terms import Patience, Terms
from outpost_cloudrun.keeper.unheard import why_unheard
from outpost_core import wire
from outpost_core.errors import (
    NotFoundError,
    OutpostError,
    SpawnRefusedError,
    UnreachableError,
    UsageError,
)
from outpost_core.types import Result, State
from outpost_exec.gitlogin import git_login
from outpost_shared import faults
from outpost_shared.backoff import Backoff, reaching_again
from outpost_shared.log import Logger
from outpost_worker.record.kinds import RecordRefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from outpost_cloudrun.admin.answers import Instance, Operation
    from outpost_cloudrun.admin.client import AdminClient
    from outpost_cloudrun.keeper.far import Far
    from outpost_cloudrun.keeper.witness import Witness
    from outpost_cloudrun.keeper.workerrecord import WorkerRecord
    from outpost_cloudrun.options import CloudRunOptions
    from outpost_core.backend import BuildContext

_log = Logger("cloudrun.instance")

#: Seconds that an instance has until it can be reached: its image may be large.
READY: Final = 600.0
#: Seconds between two looks at whether an instance is still there.
WATCH: Final = 20.0
#: Seconds for which a stream may still bring the result of an instance that has stopped.
_LAST_WORDS: Final = 5.0
#: Seconds for which a rig is asked for unpushed work.
_RIG: Final = 60.0
#: Seconds that the program in an instance has to remove what it left on a share.
_TIDY: Final = 15.0
#: What of a worker's course holds its result while its instance is being removed.
_HARVEST: Final = "harvest"


class InstanceCourse(AdminCourse):
    """Workers as instances; see `Course`.

    Args:
        name: the outpost's name.
        options: its options.
        context: what paths are relative to.
        admin: the Admin API; closed with this.
        way: reaches the programs in the instances; closed with this.
        witness: reads the records of workers; closed with this.
        patience: how long what is waited for.
        watch: seconds between two looks at an instance.
    """

    kind = "instance"
    deleted_by = "gcloud beta run instances delete"
    asks_rig_for = 60.0

    def __init__(
        self,
        name: str,
        options: CloudRunOptions,
        context: BuildContext,
        admin: AdminClient,
        way: Way,
        witness: Witness,
        *,
        patience: Patience | None = None,
        watch: float = WATCH,
    ) -> None:
        super().__init__(options, admin, witness)
        self._outpost = name
        self._context = context
        self._way = way
        self._watch = watch
        self._terms = Terms(
            name=name,
            request_timeout=None,
            resume=False,  # nothing takes an instance away but whoever stops it
            credentials=self._credentials,
            runs=Runs(options, context.state_dir.absolute()),
            patience=patience or Patience(),
            finish=self._finish,
        )
        self._streams: dict[str, Stream] = {}

    async def aclose(self) -> None:
        """Let go of connections; workers keep running."""
        await self._way.aclose()
        await super().aclose()

    async def unreached(self, running: Sequence[WorkerRecord]) -> str:
        """Return why none of the running workers can be heard; see `Course`."""
        return await why_unheard(self._streams, running)

    # --- start ------------------------------------------------------------------------------------

    async def start(self, record: WorkerRecord, secrets: Mapping[str, str]) -> None:
        """Create the instance of a worker, or find it, and have the worker started in it."""
        name = self._name(record)
        # nobody may come to end it: then it ends by itself once nobody has reserved money for more
        life = {"OUTPOST_LIFE": str(math.ceil(price.longest(self._options, record.order)))}
        labels = names.worker_labels(record.worker, record.order.owner, record.digest)
        await asyncio.to_thread(record.remember, asked=True)
        await asyncio.to_thread(self._terms.runs.made, record)
        record.tell(State.QUEUED, "its instance is created")
        try:
            made = await self._admin.create_instance(
                name, specs.instance_body(self._options, life, labels)
            )
        except (NotFoundError, UsageError) as error:
            raise SpawnRefusedError(error.message, hint=error.hint) from error
        faults.point("instance.created")
        try:
            if made is None:
                await self._adopt(record, name)
            await self._ready(record, name)
            await self._stream(record).start(secrets, first=made is not None)
        except SpawnRefusedError as error:
            # it was there and is paid for, so it counts: as a worker that has ended before it began
            await asyncio.to_thread(record.accept)
            await self._finish(record, _never_started(error.message))
        except UnreachableError as error:
            error.sent = True  # the instance is there, whatever became of the question
            raise

    async def _ready(self, record: WorkerRecord, name: str) -> str:
        """Wait until an instance can be reached; return its address.

        Raises:
            SpawnRefusedError: it will never be.
            UnreachableError: nobody can say.
        """
        pauses = Backoff(0.5, 5.0, within=READY)
        async for _ in pauses.rounds():
            try:
                instance = await self._admin.instance(name)
            except NotFoundError:
                raise UnreachableError(f"the instance {name} is gone", hint="try again") from None
            if failure := instance.failure:
                raise SpawnRefusedError(
                    endings.of_instance(failure, self._memory, asked=False).message
                )
            if instance.url and _is_ready(instance):
                await asyncio.to_thread(record.remember, url=instance.url)
                return instance.url
            record.tell(State.QUEUED, "waits for its instance")
        raise SpawnRefusedError(f"the instance {name} was not ready after {READY:.0f} s")

    # --- follow -----------------------------------------------------------------------------------

    async def follow(self, record: WorkerRecord) -> None:
        """Follow its stream to the result, and remove the instance; see `Course`."""
        if (harvest := record.course.get(_HARVEST)) is not None:
            await self._finish(record, wire.from_json(Result, harvest))
            return
        stream = self._stream(record)
        begun = self._terms.runs.begun(record)

        async def let_go() -> None:
            if _HARVEST not in record.course:
                await stream.let_go()

        try:
            await until_result(
                record,
                stream.follow(),
                self._watch_it(record),
                end_overdue(record, self._options, begun, self.stop, let_go),
            )
        finally:
            self._streams.pop(record.worker, None)

    async def _watch_it(self, record: WorkerRecord) -> None:
        """End a worker whose instance has ended without a word."""
        name, trouble = self._name(record), reaching_again()
        while record.result is None:
            await asyncio.sleep(self._watch)
            asked = record.stop_grace is not None
            try:
                instance = await self._admin.instance(name)
            except NotFoundError:
                if any(each.short == name for each in await self._admin.instances()):
                    continue
                ending = endings.deleted(asked=asked, what="its instance")
            except UnreachableError:  # says nothing about the worker
                await trouble.wait()
                continue
            else:
                if instance.failure is None:
                    trouble.reset()
                    continue
                ending = endings.of_instance(instance.failure, self._memory, asked=asked)
            await asyncio.sleep(_LAST_WORDS)
            if record.result is None and _HARVEST not in record.course:
                if ending.began is False:  # it was accepted: it did begin
                    ending = replace(ending, state=State.LOST, reason="lost_process", began=None)
                result = ending.result(
                    checkpoint=await self._checkpoint(record),
                    started=record.status.started_at,
                    ended=None,
                )
                await self._finish(record, await self._settled(record, result))
            return

    async def _settled(self, record: WorkerRecord, result: Result) -> Result:
        """Return how a worker ended: as its record says, which this side writes where it is open.

        A record that does not answer in time says nothing; what Google says is the result then.
        """
        if not self._witness.has_place(record.order):
            return result
        pauses = Backoff(1.0, 10.0, within=_RIG)
        async for _ in pauses.rounds():
            with suppress(UnreachableError, RecordRefusedError):
                found = await self._witness.settle(record.order, record.digest, result)
                return found.result or result
        return result

    async def _finish(self, record: WorkerRecord, result: Result) -> None:
        """Write a result down, once nothing of its instance is paid for any more."""
        if record.result is not None:
            return
        if _HARVEST not in record.course:
            await asyncio.to_thread(record.remember, **{_HARVEST: wire.to_json(result)})
        faults.point("instance.harvested")
        await self._tidy_volume(record)
        name, again = self._name(record), reaching_again()
        while True:
            try:
                if await self._is_removed(name):
                    break
                why = "it is still there"
            except OutpostError as error:
                why = error.message
            record.tell(record.status.state, f"has ended; its instance is being removed: {why}")
            await again.wait()
        faults.point("instance.removed")
        kept = wire.from_json(Result, record.course[_HARVEST])

        def settle() -> None:
            record.finish(replace(kept, cost_usd=self._terms.runs.cost(record)))

        await asyncio.to_thread(settle)

    async def _tidy_volume(self, record: WorkerRecord) -> None:
        """Have the worker's record and log removed from the share, which only a container reaches.

        All that they say is here by now. Where the program does not answer they stay there.
        """
        url = record.course.get("url")
        if not self._options.volume or not isinstance(url, str):
            return
        with suppress(OutpostError, TimeoutError):
            async with asyncio.timeout(_TIDY):
                body = await self._stream_of(record).about()
                await self._way.to(url).clean(record.worker, body, "", force=True)

    # --- stop and remove --------------------------------------------------------------------------

    async def stop(self, record: WorkerRecord, grace: float) -> None:
        """Ask the program in the instance; one that has not begun is removed."""
        name = self._name(record)
        try:
            instance = await self._admin.instance(name)
        except NotFoundError:
            if record.accepted:
                return  # whoever follows it finds out how it ended
            raise
        if not record.accepted:
            if not await self._is_removed(name):
                raise UnreachableError(f"the instance {name} is being removed", hint="try again")
            raise NotFoundError(f"{record.worker} has no instance any more")
        if instance.failure is not None:
            return
        far = self._way.to(instance.url)
        body = {**await self._stream_of(record).about(), "grace": grace}
        try:
            await far.stop(record.worker, body, "")
        except SpawnRefusedError as error:
            raise UnreachableError(error.message, hint=error.hint) from error
        except NotFoundError:  # it has ended there, or never began: its container can go
            await self._admin.stop_instance(name)
        faults.point("instance.stopped")

    async def _found(self, name: str) -> Instance:
        return await self._admin.instance(name)

    async def _delete(self, name: str) -> Operation | None:
        return await self._admin.delete_instance(name)

    # --- the far side -----------------------------------------------------------------------------

    def _stream(self, record: WorkerRecord) -> Stream:
        stream = self._streams.get(record.worker)
        if stream is None:
            stream = self._streams[record.worker] = self._stream_of(record)
        return stream

    def _stream_of(self, record: WorkerRecord) -> Stream:
        """Return a stream of a worker for a question; the one that follows it is left alone."""

        async def reach() -> Far:
            url = record.course.get("url")
            if not isinstance(url, str):
                url = await self._ready(record, self._name(record))
            return self._way.to(url)

        return self._streams.get(record.worker) or Stream(record, self._terms, reach)

    async def _credentials(self, record: WorkerRecord) -> str:
        argv = self._options.git_credentials
        return await git_login(argv, self._context.config_dir, record.order.rig)


def _never_started(why: str) -> Result:
    return Result(
        state=State.FAILED,
        reason="never_started",
        message=f"{why}; its instance is removed",
        agent_began=False,
    )


def _is_ready(instance: Instance) -> bool:
    return any(each.succeeded for each in instance.conditions) and not instance.reconciling
