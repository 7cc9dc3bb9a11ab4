"""Jobs, their executions and tasks."""

from __future__ import annotations

import asyncio
import secrets
import string
from typing import Any

from google.cloud import run_v2

from outpost_cloudrun.testing import rules
from outpost_cloudrun.testing.cloud import (
    FAILED,
    RECONCILING,
    SUCCEEDED,
    Cloud,
    Operation,
    check_etag,
    find,
    last,
    page,
    parent_of,
    set_condition,
    stamp,
)
from outpost_cloudrun.testing.containers import Container, Ended
from outpost_cloudrun.testing.environment import spec, variables
from outpost_cloudrun.testing.errors import GoogleError

#: Numbers of `Condition.ExecutionReason`.
_NON_ZERO, _CANCELLED, _CANCELLING = 2, 3, 4
#: How long a task may take where nothing is said.
_TASK_TIMEOUT = 600


class Jobs:
    """What the Admin API does with jobs.

    Args:
        cloud: the resources.
    """

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self._runs: dict[str, _Run] = {}

    async def create_job(self, call: Any) -> Operation | Any:
        """`jobs.create`."""
        cloud, job = self.cloud, call.job
        name = f"{call.parent}/jobs/{call.job_id}"
        rules.check_job(call.job_id, job)
        if name in cloud.jobs:
            raise GoogleError(409, f"Resource '{call.job_id}' already exists.")
        siblings = [each for each in cloud.jobs if parent_of(each) == call.parent]
        if len(siblings) >= cloud.knobs.most_jobs:
            raise _quota("JobsPerProject", cloud.knobs.most_jobs)
        self._check_image_and_secrets(name, job.template.template)
        token = job.start_execution_token or job.run_execution_token
        if token:
            self._check_room(call.parent)
        job.name = name
        _fill(job.template)
        if call.validate_only:
            return cloud.begin(call.parent, job, _giving(job))
        stamp(cloud, job, new=True)
        cloud.jobs[name] = job
        job.reconciling = True
        set_condition(cloud, job.terminal_condition, "Ready", RECONCILING)
        cloud.journal.write("job.created", name=name)

        async def ready() -> Any:
            if token:
                run = self._execute(job, f"{call.job_id}-{token}", job.template)
                if job.run_execution_token:
                    await run.over.wait()
            job.reconciling = False
            job.observed_generation = job.generation
            set_condition(cloud, job.terminal_condition, "Ready", SUCCEEDED)
            return job

        return cloud.begin(call.parent, job, ready)

    async def get_job(self, call: Any) -> Any:
        """`jobs.get`."""
        return find(self.cloud.jobs, call.name, "JOB")

    async def list_jobs(self, call: Any) -> Any:
        """`jobs.list`."""
        names = [name for name in self.cloud.jobs if _within(name, call.parent)]
        chosen, more = page(names, call.page_size, call.page_token)
        answer = run_v2.ListJobsResponse.pb(run_v2.ListJobsResponse())
        answer.jobs.extend(self.cloud.jobs[name] for name in chosen)
        answer.next_page_token = more
        return answer

    async def update_job(self, call: Any) -> Any:
        """`jobs.patch`; the whole job is replaced, as the API does."""
        cloud, job = self.cloud, call.job
        rules.check_job(last(job.name), job)
        if job.name not in cloud.jobs:
            if not call.allow_missing:
                find(cloud.jobs, job.name, "JOB")
            create = run_v2.CreateJobRequest.pb(run_v2.CreateJobRequest())
            create.parent, create.job_id = parent_of(job.name), last(job.name)
            create.job.CopyFrom(job)
            create.validate_only = call.validate_only
            return await self.create_job(create)
        old = cloud.jobs[job.name]
        check_etag(job.etag, old)
        self._check_image_and_secrets(job.name, job.template.template)
        for kept in ("uid", "create_time", "generation", "execution_count", "creator"):
            _copy(old, job, kept)
        job.latest_created_execution.CopyFrom(old.latest_created_execution)
        _fill(job.template)
        stamp(cloud, job, new=False)
        set_condition(cloud, job.terminal_condition, "Ready", SUCCEEDED)
        if not call.validate_only:
            cloud.jobs[job.name] = job
        return cloud.begin(parent_of(job.name), job, _giving(job))

    async def delete_job(self, call: Any) -> Any:
        """`jobs.delete`: with its executions, running ones too."""
        cloud = self.cloud
        job = find(cloud.jobs, call.name, "JOB")
        check_etag(call.etag, job)
        if not call.validate_only:
            del cloud.jobs[call.name]
            job.delete_time.CopyFrom(cloud.now())
            cloud.journal.write("job.deleted", name=call.name)
            for name in [each for each in cloud.executions if _within(each, call.name)]:
                self._drop(name)
        return cloud.begin(parent_of(call.name), job, _giving(job))

    async def run_job(self, call: Any) -> Any:
        """`jobs.run`: not idempotent; each call is a new execution."""
        cloud = self.cloud
        job = find(cloud.jobs, call.name, "JOB")
        check_etag(call.etag, job)
        template = run_v2.ExecutionTemplate.pb(run_v2.ExecutionTemplate())
        template.CopyFrom(job.template)
        _override(template, call.overrides)
        rules.check_task("overrides", template.template)
        self._check_room(parent_of(call.name))
        suffix = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(5))
        run = self._execute(job, f"{last(call.name)[:57]}-{suffix}", template)

        async def over() -> Any:
            await run.over.wait()
            if not run.execution.succeeded_count:
                raise GoogleError(500, run.execution.conditions[0].message)
            return run.execution

        return cloud.begin(parent_of(call.name), run.execution, over)

    async def get_execution(self, call: Any) -> Any:
        """`executions.get`."""
        return find(self.cloud.executions, call.name, "EXECUTION")

    async def list_executions(self, call: Any) -> Any:
        """`executions.list`; a job called `-` stands for all."""
        names = [name for name in self.cloud.executions if _within(name, call.parent)]
        chosen, more = page(names, call.page_size, call.page_token)
        answer = run_v2.ListExecutionsResponse.pb(run_v2.ListExecutionsResponse())
        answer.executions.extend(self.cloud.executions[name] for name in chosen)
        answer.next_page_token = more
        return answer

    async def delete_execution(self, call: Any) -> Any:
        """`executions.delete`."""
        execution = find(self.cloud.executions, call.name, "EXECUTION")
        check_etag(call.etag, execution)
        if not call.validate_only:
            self._drop(call.name)
        return self.cloud.begin(parent_of(call.name), execution, _giving(execution))

    async def cancel_execution(self, call: Any) -> Any:
        """`executions.cancel`: SIGTERM, then SIGKILL."""
        execution = find(self.cloud.executions, call.name, "EXECUTION")
        check_etag(call.etag, execution)
        run = self._runs.get(call.name)
        if run is None or run.over.is_set():
            raise GoogleError(
                400, "The execution has completed and cannot be cancelled.",
                word="FAILED_PRECONDITION",
            )  # fmt: skip

        async def cancelled() -> Any:
            run.cancel()
            await run.over.wait()
            return execution

        return self.cloud.begin(parent_of(call.name), execution, cancelled)

    async def get_task(self, call: Any) -> Any:
        """`tasks.get`."""
        return find(self.cloud.tasks, call.name, "TASK")

    async def list_tasks(self, call: Any) -> Any:
        """`tasks.list`; an execution called `-` stands for all."""
        names = [name for name in self.cloud.tasks if _within(name, call.parent)]
        chosen, more = page(names, call.page_size, call.page_token)
        answer = run_v2.ListTasksResponse.pb(run_v2.ListTasksResponse())
        answer.tasks.extend(self.cloud.tasks[name] for name in chosen)
        answer.next_page_token = more
        return answer

    def _execute(self, job: Any, identity: str, template: Any) -> _Run:
        cloud = self.cloud
        execution = run_v2.Execution.pb(run_v2.Execution())
        execution.name = f"{job.name}/executions/{identity}"
        execution.job = last(job.name)
        execution.labels.update(job.labels)
        execution.labels.update(template.labels)
        execution.launch_stage = job.launch_stage
        execution.task_count = template.task_count
        execution.parallelism = template.parallelism or template.task_count
        execution.template.CopyFrom(template.template)
        execution.reconciling = True
        stamp(cloud, execution, new=True)
        set_condition(cloud, execution.conditions.add(), "Completed", RECONCILING)
        execution.log_uri = f"https://console.cloud.google.com/logs/viewer?resource={identity}"
        cloud.executions[execution.name] = execution
        job.execution_count += 1
        job.latest_created_execution.name = identity
        job.latest_created_execution.create_time.CopyFrom(execution.create_time)
        job.latest_created_execution.completion_status = 3  # EXECUTION_RUNNING
        cloud.journal.write("execution.created", name=execution.name)
        run = _Run(cloud, job, execution)
        self._runs[execution.name] = run
        cloud.go(run.go())
        return run

    def _drop(self, name: str) -> None:
        run = self._runs.pop(name, None)
        if run is not None:
            run.cancel()
        self.cloud.executions.pop(name, None)
        for task in [each for each in self.cloud.tasks if _within(each, name)]:
            del self.cloud.tasks[task]

    def _check_room(self, parent: str) -> None:
        running = sum(
            not run.over.is_set() and parent_of(name) == parent for name, run in self._runs.items()
        )
        if running >= self.cloud.knobs.most_executions:
            raise _quota("RunningExecutionsPerProject", self.cloud.knobs.most_executions)

    def _check_image_and_secrets(self, name: str, task: Any) -> None:
        for container in task.containers:
            image = self.cloud.knobs.images.get(container.image)
            if image is not None and image.missing:
                raise GoogleError(400, f"Image '{container.image}' not found.")
            try:
                variables(self.cloud, name, container)
            except GoogleError as error:
                raise GoogleError(400, f"spec.template.spec.containers.env: {error}") from error


class _Run:
    """One execution under way.

    Args:
        cloud: the resources.
        job: whose execution it is.
        execution: as the API tells it.
    """

    def __init__(self, cloud: Cloud, job: Any, execution: Any) -> None:
        self.over = asyncio.Event()
        self.execution = execution
        self._cloud = cloud
        self._job = job
        self._cancelled = asyncio.Event()
        self._containers: set[Container] = set()

    def cancel(self) -> None:
        """End it: SIGTERM, and SIGKILL after the grace."""
        if self._cancelled.is_set() or self.over.is_set():
            return
        self._cancelled.set()
        self.execution.conditions[0].execution_reason = _CANCELLING
        self._cloud.journal.write("execution.cancelled", name=self.execution.name)
        for container in list(self._containers):
            self._cloud.go(self._end(container))

    async def go(self) -> None:
        """Run all tasks, and say how it went."""
        cloud, execution = self._cloud, self.execution
        execution.start_time.CopyFrom(cloud.now())
        room = asyncio.Semaphore(max(1, execution.parallelism))

        async def one(index: int) -> None:
            async with room:
                await self._task(index)

        await asyncio.gather(*(one(index) for index in range(execution.task_count)))
        execution.completion_time.CopyFrom(cloud.now())
        execution.reconciling = False
        execution.observed_generation = execution.generation
        condition = execution.conditions[0]
        latest = self._job.latest_created_execution
        mine = latest.name == last(execution.name)
        if execution.succeeded_count == execution.task_count:
            set_condition(cloud, condition, "Completed", SUCCEEDED)
            status = 1
        elif self._cancelled.is_set():
            set_condition(cloud, condition, "Completed", FAILED, "The execution was cancelled.")
            condition.execution_reason = _CANCELLED
            status = 5
        else:
            set_condition(
                cloud, condition, "Completed", FAILED,
                f"Task {last(execution.name)}-task0 failed with message: {self._why()}",
            )  # fmt: skip
            condition.execution_reason = _NON_ZERO
            status = 2
        if mine:
            latest.completion_status = status
            latest.completion_time.CopyFrom(execution.completion_time)
        cloud.journal.write("execution.ended", name=execution.name, message=condition.message)
        self.over.set()

    def _why(self) -> str:
        name = f"{self.execution.name}/tasks/{last(self.execution.name)}-task0"
        task = self._cloud.tasks.get(name)
        return task.last_attempt_result.status.message if task is not None else "deleted"

    async def _task(self, index: int) -> None:
        cloud, execution = self._cloud, self.execution
        if self._cancelled.is_set():
            execution.cancelled_count += 1
            return
        task = run_v2.Task.pb(run_v2.Task())
        task.name = f"{execution.name}/tasks/{last(execution.name)}-task{index}"
        task.job, task.execution, task.index = execution.job, last(execution.name), index
        task.containers.extend(execution.template.containers)
        task.volumes.extend(execution.template.volumes)
        task.max_retries = execution.template.max_retries
        task.timeout.CopyFrom(execution.template.timeout)
        task.service_account = execution.template.service_account
        task.labels.update(execution.labels)
        stamp(cloud, task, new=True)
        task.start_time.CopyFrom(cloud.now())
        set_condition(cloud, task.conditions.add(), "Completed", RECONCILING)
        cloud.tasks[task.name] = task
        execution.running_count += 1
        ended, message = Ended(1), ""
        for attempt in range(task.max_retries + 1):
            ended, message = await self._attempt(task, index, attempt)
            result = task.last_attempt_result
            result.Clear()
            result.exit_code, result.term_signal = ended.code, ended.signal
            result.status.message = message
            result.status.code = 0 if ended.well else 2
            if ended.well or self._cancelled.is_set() or attempt == task.max_retries:
                break
            task.retried += 1
            execution.retried_count += 1
        execution.running_count -= 1
        task.completion_time.CopyFrom(cloud.now())
        condition = task.conditions[0]
        if ended.well and not self._cancelled.is_set():
            execution.succeeded_count += 1
            set_condition(cloud, condition, "Completed", SUCCEEDED)
        elif self._cancelled.is_set():
            execution.cancelled_count += 1
            set_condition(cloud, condition, "Completed", FAILED, "The task was cancelled.")
            condition.execution_reason = _CANCELLED
        else:
            execution.failed_count += 1
            set_condition(cloud, condition, "Completed", FAILED, message)
            condition.execution_reason = _NON_ZERO

    async def _attempt(self, task: Any, index: int, attempt: int) -> tuple[Ended, str]:
        cloud, knobs = self._cloud, self._cloud.knobs
        own = {
            "CLOUD_RUN_JOB": task.job,
            "CLOUD_RUN_EXECUTION": task.execution,
            "CLOUD_RUN_TASK_INDEX": str(index),
            "CLOUD_RUN_TASK_ATTEMPT": str(attempt),
            "CLOUD_RUN_TASK_COUNT": str(self.execution.task_count),
        }
        try:
            order = spec(cloud, self.execution.name, task.containers[0], own, task.volumes)
            if knobs.cold_start:
                await asyncio.sleep(knobs.cold_start)
            container = await cloud.containers.start(order)
        except (GoogleError, OSError) as error:
            return Ended(1), str(error)
        self._containers.add(container)
        cloud.journal.write(
            "task.started", name=task.name, attempt=attempt, container=order.id, image=order.image
        )
        if self._cancelled.is_set():
            cloud.go(self._end(container))
        seconds = knobs.task_timeout or task.timeout.seconds + task.timeout.nanos / 1e9
        late = False
        try:
            async with asyncio.timeout(seconds):
                ended = await container.ended()
        except TimeoutError:
            late = True
            cloud.journal.write("task.late", name=task.name)
            await self._end(container)
            ended = await container.ended()
        self._containers.discard(container)
        cloud.journal.write(
            "task.ended", name=task.name, code=ended.code, signal=ended.signal, memory=ended.memory
        )
        return self._told(ended, order.memory, late=late)

    def _told(self, ended: Ended, memory: int, *, late: bool) -> tuple[Ended, str]:
        if late:
            end = ended if not ended.well else Ended(0, 15)
            return end, "The configured timeout was reached."
        if ended.memory:
            return ended, f"Memory limit of {memory >> 20} MiB exceeded."
        if ended.signal:
            return ended, f"Container terminated on signal {ended.signal}."
        if ended.code:
            return ended, f"The container exited with an error: exit code {ended.code}."
        return ended, ""

    async def _end(self, container: Container) -> None:
        self._cloud.journal.write("task.sigterm", container=container.spec.id)
        container.terminate()
        try:
            async with asyncio.timeout(self._cloud.knobs.grace):
                await container.ended()
        except TimeoutError:
            self._cloud.journal.write("task.sigkill", container=container.spec.id)
            container.kill()


def _fill(template: Any) -> None:
    """Set what Google sets where nothing is said; three retries among it."""
    template.task_count = template.task_count or 1
    task = template.template
    if not task.HasField("timeout"):
        task.timeout.seconds = _TASK_TIMEOUT
    if task.WhichOneof("retries") is None:
        task.max_retries = 3


def _override(template: Any, overrides: Any) -> None:
    """Change a template as a run asks for."""
    if overrides.task_count:
        template.task_count = overrides.task_count
    if overrides.HasField("timeout"):
        template.template.timeout.CopyFrom(overrides.timeout)
    for change in overrides.container_overrides:
        named = [
            each for each in template.template.containers
            if not change.name or each.name == change.name
        ]  # fmt: skip
        if not named:
            raise GoogleError(400, f"Container '{change.name}' of the overrides does not exist.")
        container = named[0]
        if change.clear_args or change.args:
            del container.args[:]
            container.args.extend(change.args)
        for variable in change.env:
            kept = [each for each in container.env if each.name != variable.name]
            del container.env[:]
            container.env.extend([*kept, variable])


def _copy(old: Any, new: Any, field: str) -> None:
    value = getattr(old, field)
    if hasattr(value, "CopyFrom"):
        getattr(new, field).CopyFrom(value)
    else:
        setattr(new, field, value)


def _within(name: str, parent: str) -> bool:
    """Whether a resource is under a parent, in which `-` stands for any."""
    mine, theirs = name.split("/"), parent.split("/")
    return len(mine) > len(theirs) and all(
        ask in ("-", have) for have, ask in zip(mine, theirs, strict=False)
    )


def _giving(resource: Any) -> Any:
    async def give() -> Any:
        return resource

    return give


def _quota(name: str, most: int) -> GoogleError:
    return GoogleError(
        429, f"Quota exceeded for quota metric '{name}': limit {most} per project and region."
    )
