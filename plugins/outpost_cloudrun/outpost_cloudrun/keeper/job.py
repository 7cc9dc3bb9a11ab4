"""Mode job: a worker is a Cloud Run job of its own, which runs once.

A job for each worker, and not one job that is run with overrides: `jobs.run` is not idempotent, so
that a lost answer would leave open whether a worker runs twice. `jobs.create` under a name that
says which worker it is answers 409 the second time, and `startExecutionToken` begins the one
execution with it. Google takes 1,000 jobs in a region, so a job is removed once its result is here.

The truth is with Google (executions and tasks) and in the worker's record on its rig, which the
near side reads with the git of its user. A 503 while looking says nothing.
"""

from __future__ import annotations

import asyncio
import base64
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from outpost_cloudrun import price
from outpost_cloudrun.admin import names, specs
from outpost_cloudrun.keeper import endings, steady
from outpost_cloudrun.keeper.admincourse import AdminCourse
from outpost_cloudrun.keeper.workbody import packed_order
from outpost_core.errors import (
    NotFoundError,
    OutpostError,
    SpawnRefusedError,
    UnreachableError,
    UsageError,
)
from outpost_core.types import Result, State
from outpost_shared import faults
from outpost_shared.backoff import Backoff, reaching_again
from outpost_worker.record.kinds import Found, RecordRefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from outpost_cloudrun.admin.answers import Execution, Job, Operation
    from outpost_cloudrun.admin.client import AdminClient
    from outpost_cloudrun.keeper.witness import Witness
    from outpost_cloudrun.keeper.workerrecord import WorkerRecord
    from outpost_cloudrun.options import CloudRunOptions
    from outpost_core.types import Order

#: Bytes of an order that fit into a variable, next to others: Google allows 32 KiB.
MOST_IN_ENV: Final = 24 << 10
#: Seconds for which a job that was created is watched before its start counts as taken.
_FIRST_LOOK: Final = 20.0
#: Seconds between two looks at a worker, at most: when nobody waits for it, and when somebody does.
_MOST: Final = 20.0
_AWAITED: Final = 3.0
#: Seconds for which it is believed that Google answers, and that one question at it may take.
_FRESH: Final = 2.0
_QUICK: Final = 3.0
#: Seconds, besides the grace, that a container has to read the word of a stop and to end.
HEARD: Final = 30.0


class JobCourse(AdminCourse):
    """Workers as jobs; see `AdminCourse`."""

    kind = "job"
    deleted_by = "gcloud run jobs delete"
    asks_rig_for = 600.0

    def __init__(self, options: CloudRunOptions, admin: AdminClient, witness: Witness) -> None:
        super().__init__(options, admin, witness)
        self._asked = 0.0  # when Google was last seen to answer (monotonic)
        self._trouble: dict[str, str] = {}  # worker → why it cannot be looked at

    async def unreached(self, running: Sequence[WorkerRecord]) -> str:
        """Return why none of some workers can be looked at; "" when one can."""
        whys = [self._trouble.get(record.worker, "") for record in running]
        if all(whys):
            return whys[0]
        if time.monotonic() - self._asked < _FRESH:
            return ""
        try:
            async with asyncio.timeout(_QUICK):
                await self._admin.reach("jobs", once=True)
        except OutpostError as error:
            return error.message
        except TimeoutError:
            return "Google does not answer"
        self._asked = time.monotonic()
        return ""

    # --- start ------------------------------------------------------------------------------------

    async def start(self, record: WorkerRecord, secrets: Mapping[str, str]) -> None:
        """Create the job of a worker, or find it; see `Course`."""
        order, name = record.order, self._name(record)
        self._refuse_impossible(order, secrets)
        body = await self._body(order, record.digest)
        await asyncio.to_thread(record.remember, asked=True)
        try:
            made = await self._admin.create_job(name, body)
        except (NotFoundError, UsageError) as error:
            raise SpawnRefusedError(error.message, hint=error.hint) from error
        faults.point("job.created")
        record.tell(State.QUEUED, "its job is created")
        if made is None:
            try:
                await self._adopt(record, name)
            except UnreachableError as error:
                error.sent = True  # a job is there, whatever became of the question
                raise
        else:
            with suppress(UnreachableError):  # its job is there: what comes of it is followed
                await self._admin.wait(made, _FIRST_LOOK)
        await self._refuse_if_hopeless(name)
        await asyncio.to_thread(record.accept)

    async def _body(self, order: Order, digest: str) -> dict[str, object]:
        packed = packed_order(order)
        text = base64.b64encode(packed).decode("ascii")
        env = {"OUTPOST_ORDER": text}
        if len(text) > MOST_IN_ENV:
            if not self._witness.keeps_orders:
                raise SpawnRefusedError(
                    f"the order of {order.worker} has {len(text)} bytes, more than a job's"
                    f" environment takes ({MOST_IN_ENV})",
                    hint="configure a `bucket`, shorten the issue's text, or use `mode: service`",
                )
            env = {"OUTPOST_ORDER_OBJECT": await self._witness.keep_order(order, digest, packed)}
        labels = names.worker_labels(order.worker, order.owner, digest)
        timeout = price.longest(self._options, order)
        try:
            return specs.job_body(self._options, env, labels, timeout)
        except UsageError as error:
            raise SpawnRefusedError(error.message, hint=error.hint) from error

    def _refuse_impossible(self, order: Order, secrets: Mapping[str, str]) -> None:
        """Refuse what a job cannot do, before anything is sent."""
        self._witness.check(order)
        if secrets or order.secrets:
            raise SpawnRefusedError(
                "a job cannot take secrets of an order: who may look at jobs would see them",
                hint="put them into Secret Manager and name them in the outpost's `secrets`",
            )
        if self._options.git_credentials:
            raise SpawnRefusedError(
                "a job cannot take what `git_credentials` prints: who may look at jobs would"
                " see it",
                hint="put it into Secret Manager, and write"
                " secrets: {OUTPOST_GIT_CREDENTIALS: projects/P/secrets/S:latest}",
            )

    async def _refuse_if_hopeless(self, name: str) -> None:
        """Refuse the order when Google says that its job will never begin; removes it first."""
        try:
            job = await self._admin.job(name)
        except (NotFoundError, UnreachableError):
            return  # nothing is known: it is followed
        ending = endings.of_unstarted(job)
        if ending is None or job.latest or job.executions:
            return
        if await self._is_removed(name):
            raise SpawnRefusedError(
                ending.message, hint="outpost doctor names what is missing there"
            )

    # --- follow -----------------------------------------------------------------------------------

    async def follow(self, record: WorkerRecord) -> None:
        """Look at a job until its record has a result; see `Course`."""
        hurry = record.hurry
        pauses, trouble = Backoff(2.0, _MOST, jitter=0.3), reaching_again()
        try:
            while record.result is None:
                try:
                    await self._look(record)
                    pause = min(pauses.pause(), _AWAITED if record.waited_for else _MOST)
                    trouble.reset()
                    self._trouble.pop(record.worker, None)
                except UnreachableError as error:  # says nothing about the worker
                    self._trouble[record.worker] = error.message
                    record.tell(record.status.state, f"not to be asked: {error.message}")
                    pause = trouble.pause()
                if record.result is None:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(hurry.wait(), pause)
                        pauses.reset()
                    hurry.clear()
        finally:
            self._trouble.pop(record.worker, None)

    async def _look(self, record: WorkerRecord) -> None:
        name = self._name(record)
        try:
            execution = await self._admin.execution(name, f"{name}-{names.TOKEN}")
        except NotFoundError:
            await self._look_at_job(record, name)
            return
        if execution.ended:
            await self._harvest(record, name, execution)
        elif execution.started is None and not execution.running:
            record.tell(State.STARTING, _waiting(execution.condition("Completed").message))
        else:
            record.tell(State.WORKING, "in its container", started_at=execution.started)
            await self._fetch_log(record)

    async def _look_at_job(self, record: WorkerRecord, name: str) -> None:
        """See what there is of a worker that has no execution."""
        try:
            job = await self._admin.job(name)
        except NotFoundError:
            if await self._is_listed(name):
                return
            asked = record.stop_grace is not None
            await self._settle(record, endings.deleted(asked=asked, what="its job"))
            return
        ending = endings.of_unstarted(job)
        if ending is not None or job.executions:
            if job.executions:  # it had one
                asked = record.stop_grace is not None
                ending = endings.deleted(asked=asked, what="its execution")
            assert ending is not None
            await self._settle(record, ending)
            await self._tidy(name)
        else:
            record.tell(
                State.STARTING, _waiting(job.conditions[0].message if job.conditions else "")
            )

    async def _is_listed(self, name: str) -> bool:
        """Whether a job that was not found is there all the same: a list says more than a 404."""
        return any(job.short == name for job in await self._admin.jobs())

    async def _harvest(self, record: WorkerRecord, name: str, execution: Execution) -> None:
        """Write down the result of an execution that has ended, and remove its job."""
        times = {"began": execution.started, "ended": execution.completed}
        await asyncio.to_thread(record.remember, **times)
        ending = None
        found = await self._on_record(record)
        if found is None or found.result is None:
            tasks = await self._admin.tasks(name, execution.short)
            ending = endings.of_execution(
                execution, tasks, self._memory,
                asked=record.stop_grace is not None, claimed=found is not None,
            )  # fmt: skip
        if ending is not None:
            await self._settle(record, ending, job=name)
        else:
            assert found is not None
            await self._finish(record, found, name)

    async def _on_record(self, record: WorkerRecord) -> Found | None:
        try:
            return await self._witness.found(record.order)
        except RecordRefusedError:  # something else stands there: it says nothing
            return None

    async def _settle(self, record: WorkerRecord, ending: endings.Ending, job: str = "") -> None:
        """Finish a worker that left no result; one that it did leave stands."""
        began, ended = (record.course.get(name) for name in ("began", "ended"))
        result = ending.result(
            checkpoint=None if ending.began is False else await self._checkpoint(record),
            started=began if isinstance(began, float) else None,
            ended=ended if isinstance(ended, float) else None,
        )
        try:
            found = await self._witness.settle(record.order, record.digest, result)
        except RecordRefusedError:  # no record can be there: what Google says is all there is
            await self._tidy(job)
            result = replace(result, cost_usd=self._cost(record))
            await asyncio.to_thread(record.finish, result)
            return
        await self._finish(record, found, job)

    async def _finish(self, record: WorkerRecord, found: Found, job: str) -> None:
        assert found.result is not None
        faults.point("job.settled")
        await self._fetch_log(record)
        self._put_tail(record, found.result, found.tail)
        await self._tidy(job)
        faults.point("job.removed")
        result = replace(found.result, cost_usd=self._cost(record))
        if record.stop_grace is not None and result.reason == "terminated":
            result = replace(result, reason="stopped")  # its execution was cancelled from here
        await asyncio.to_thread(record.finish, result)

    def _cost(self, record: WorkerRecord) -> float | None:
        """Return what the container cost; None where its times are not known."""
        began, ended = (record.course.get(name) for name in ("began", "ended"))
        if not (isinstance(began, float) and isinstance(ended, float)):
            return None
        ended = max(began, ended)
        run = price.Run(worker=record.worker, begun=began, ended=ended, requests=0)
        return price.bill(self._options, [run], now=ended)[record.worker]

    async def _fetch_log(self, record: WorkerRecord) -> None:
        """Write down what of the log is kept in a bucket and not here yet."""
        try:
            while piece := await self._witness.log(record.order, record.log_wanted):
                await asyncio.to_thread(record.put_log, record.log_wanted, piece)
        except RecordRefusedError as error:
            record.tell(record.status.state, f"its log cannot be read: {error.message}")

    @staticmethod
    def _put_tail(record: WorkerRecord, result: Result, tail: bytes) -> None:
        """Put the end of the log, which the record has, where the whole log would be."""
        if record.log_wanted:
            return
        missing = (result.log_bytes or 0) - len(tail)
        head = b""
        if missing > 0:
            head = (
                f"[outpost: {missing} bytes of output before this are not kept: a job keeps all of"
                " its output with a `bucket`]\n"
            ).encode()
        if head or tail:
            record.put_log(0, head + tail)

    async def _tidy(self, name: str) -> None:
        """Remove an ended job, if Google answers; `remove` does it otherwise."""
        if name:
            with suppress(OutpostError):
                await self._admin.delete_job(name)

    # --- stop and remove --------------------------------------------------------------------------

    async def stop(self, record: WorkerRecord, grace: float) -> None:
        """Leave word in the worker's record; where that does not help in time, cancel.

        A container that reads the word ends its agent with the grace that is asked for. One whose
        execution is cancelled gets SIGTERM, and SIGKILL 10 s later, whatever was asked for.
        """
        name = self._name(record)
        now = steady.now()
        asked = record.course.get("stop_at")
        if not isinstance(asked, float) and await self._is_told(record, grace):
            await asyncio.to_thread(record.remember, stop_at=now)
            record.hurry.set()
            return
        if isinstance(asked, float) and 0 <= now - asked < grace + HEARD:
            return
        cancelled = await self._admin.cancel_execution(name, f"{name}-{names.TOKEN}")
        faults.point("job.cancelled")
        if cancelled is None:
            await self._stop_unstarted(record, name)
        record.hurry.set()

    async def _is_told(self, record: WorkerRecord, grace: float) -> bool:
        """Leave word for a container that has the worker; False where that cannot be done."""
        try:
            found = await self._witness.found(record.order)
            if found is None or found.result is not None:
                return False
            await self._witness.ask_stop(record.order, grace)
        except (UnreachableError, RecordRefusedError):
            return False
        return True

    async def _stop_unstarted(self, record: WorkerRecord, name: str) -> None:
        """See to it that nothing begins of a worker that has no execution."""
        try:
            job = await self._admin.job(name)
        except NotFoundError:
            if record.accepted:
                return  # whoever follows it finds out how it ended
            # A creation that is still on its way finds this, and does nothing.
            ending = endings.stopped(asked=True, what="its job")
            result = ending.result(checkpoint=None, started=None, ended=None)
            await self._witness.settle(record.order, record.digest, result)
            raise
        if not (job.executions or job.latest):
            await self._is_removed(name)

    async def _found(self, name: str) -> Job:
        return await self._admin.job(name)

    async def _delete(self, name: str) -> Operation | None:
        return await self._admin.delete_job(name)


def _waiting(said: str) -> str:
    return f"waits for its container: {said}" if said else "waits for its container"
