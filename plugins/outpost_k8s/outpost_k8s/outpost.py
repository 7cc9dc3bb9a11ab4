"""The Kubernetes outpost: each worker is a Job, and its pod is asked through exec.

Nothing of this program has to run between two commands: the truth is at the cluster, on the record
of a worker's rig, and of ended workers in this outpost's state folder.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from outpost_core import wire
from outpost_core.backend import BuildContext, Outpost
from outpost_core.errors import (
    ConflictError,
    NotFoundError,
    OutpostError,
    SpawnRefusedError,
    UnreachableError,
    UsageError,
)
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Cleaned, Finding, Health, Order, State, Step, WorkerStatus
from outpost_k8s import price
from outpost_k8s.capabilities import CAPABILITIES
from outpost_k8s.near import seen
from outpost_k8s.near.collecting import Collecting
from outpost_k8s.near.desk import Desk
from outpost_k8s.near.ending import Ending
from outpost_k8s.near.harvest import Harvest
from outpost_k8s.near.listing import Listing
from outpost_k8s.near.logs import Logs
from outpost_k8s.near.look import Look, Seen
from outpost_k8s.near.placing import Placing
from outpost_k8s.near.pod import BEGINS, NoPodError, Pods
from outpost_k8s.near.reasons import explain
from outpost_shared.backoff import Backoff

if TYPE_CHECKING:
    from outpost_k8s.near.kept import Kept
    from outpost_k8s.near.pod import PodOutpost
    from outpost_k8s.options import K8sOptions

#: Seconds for a ping.
_QUICK = 8.0


class K8sOutpost(Outpost):
    """Workers in Jobs of a Kubernetes cluster.

    Args:
        name: the configured name.
        options: its options.
        context: where what belongs to this side is kept.
    """

    type = "k8s"
    capabilities = CAPABILITIES
    options: K8sOptions

    def __init__(self, name: str, options: K8sOptions, context: BuildContext) -> None:
        options = options.located(context.config_dir)
        super().__init__(name, options, context)
        self.desk = Desk(name, options, context)
        self._look = Look(self.desk)
        self._harvest = Harvest(self.desk)
        self._placing = Placing(self.desk)
        self._pods = pods = Pods(self.desk)
        self._ending = Ending(self.desk, pods, self._look, self._harvest)
        collecting = Collecting(self.desk, pods, self._harvest)
        self._listing = Listing(
            self.desk, pods, self._look, self._harvest, self._ending, collecting
        )
        self._logs = Logs(self.desk, pods, self._look, self._harvest)

    def kept_under(self) -> Path | None:
        """Return the folder that bundles of unpushed work are brought to."""
        return self.context.state_dir.absolute()

    # --- required -------------------------------------------------------------------------------

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Create or adopt the worker's Job.

        Raises:
            ConflictError: the id exists with another order.
            SpawnRefusedError: it was certainly not started.
            UnreachableError: nothing is known, unless it says `sent=False`.
        """
        from outpost_k8s.near import travelling

        kept = self.desk.keeping.of(order.worker)
        if kept.digest:
            known = await self._known(kept, order)
            if known is not None:
                return known
        hosted = await asyncio.to_thread(travelling.travels, order, self.name)
        try:
            login = "" if hosted else await self._login(order)
            job = await self._placing.place(order, login, hosted=hosted)
        except UsageError as error:
            raise SpawnRefusedError(error.message, hint=error.hint) from error
        if hosted:
            try:
                return await travelling.bring(self._pods, self._look, job, order)
            except SpawnRefusedError:
                await self._ending.stop(order.worker, 0.0)
                raise
        if kept.result is not None:  # it was there, and has ended
            return await self._listing.one(order.worker, Seen(order.worker)) or _placed(order)
        return _placed(order)

    async def _known(self, kept: Kept, order: Order) -> WorkerStatus | None:
        """Return the status of a worker that was ordered here before; None where it is to be.

        What was at the cluster once is never made anew there.

        Raises:
            ConflictError: it was another order.
        """
        if kept.digest != wire.digest(order):
            raise ConflictError(
                f"{order.worker} was ordered before, and something else",
                hint=f"outpost show {order.worker}; outpost spawn --again for another attempt",
            )
        one = Seen(order.worker) if kept.result is not None else await self._look.one(order.worker)
        if kept.result is None and one.job is not None and kept.hosted:
            return None  # its repository may not be there yet
        return await self._listing.one(order.worker, one)

    async def _login(self, order: Order) -> str:
        from outpost_exec.gitlogin import git_login

        return await git_login(self.options.git_credentials, self.context.config_dir, order.rig)

    @hookimpl
    async def outpost_list(self) -> Sequence[WorkerStatus]:
        """Return all workers; what has ended is brought home, as far as time allows."""
        return await self._listing.all()

    @hookimpl
    async def outpost_ping(self) -> Health:
        """Say whether the API server answers."""
        try:
            async with asyncio.timeout(_QUICK):
                cluster = self.desk.cluster()
                version = await cluster.version()
        except TimeoutError:
            return Health(ok=False, detail=f"the API server did not answer within {_QUICK:g} s")
        except OutpostError as error:
            return Health(ok=False, detail=error.message, hint=error.hint)
        where = f"context {cluster.context}, namespace {cluster.namespace}"
        return Health(ok=True, detail=f"Kubernetes {version}, {where}")

    @hookimpl
    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """Yield a worker's output."""
        read = self._logs.read(worker, offset, follow=follow)
        async with aclosing(read) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                yield piece

    @hookimpl
    async def outpost_stop(self, worker: str, grace: float) -> None:
        """Ask for the worker's end, at the cluster and in its pod."""
        await self._ending.stop(worker, grace)

    # --- optional -------------------------------------------------------------------------------

    @hookimpl
    async def outpost_clean(self, worker: str, force: bool) -> Cleaned:
        """Remove an ended worker, once all of it is here."""
        return await self._ending.clean(worker, force=force)

    @hookimpl
    async def outpost_attach(self, worker: str) -> int:
        """Give the caller's terminal to the worker; return the exit code of the viewer."""
        from outpost_k8s.api import terminal

        pod = await self._pod(worker)
        argv = await pod.viewer(worker)
        return await terminal.attach(
            self.desk.cluster(), pod.pod, argv, worker=worker, name=self.name
        )

    @hookimpl
    async def outpost_nudge(self, worker: str, text: str) -> None:
        """Type into the worker's terminal."""
        await (await self._pod(worker)).outpost_nudge(worker=worker, text=text)

    @hookimpl
    async def outpost_peek(self, worker: str, lines: int) -> str:
        """Return the last lines of the worker's screen."""
        shown: str = await (await self._pod(worker)).outpost_peek(worker=worker, lines=lines)
        return shown

    async def _pod(self, worker: str) -> PodOutpost:
        """Return the channel into a worker's pod; what begins just now is waited for.

        Raises:
            NotFoundError: there is no such worker.
            UnreachableError: its pod does not run.
        """
        status: WorkerStatus | None = None
        async for _ in Backoff(0.2, 2.0, within=BEGINS).rounds():
            one = await self._look.one(worker)
            if seen.is_running(one.pod) and one.pod is not None:
                pod = self._pods.of(worker, one.pod)
                with suppress(NoPodError):  # it has ended meanwhile: what is told of it below
                    await pod.begun()
                    return pod
            status = await self._listing.one(worker, one)
            if (
                status is None
                or status.state is not State.STARTING
                or explain(one.job, one.pod).reason
            ):
                break
        if status is None:
            raise NotFoundError(f"{worker} is not a worker of {self.name}")
        if status.state.terminal:
            raise UsageError(f"{worker} has ended: {status.state.value}, {status.detail}")
        raise UnreachableError(
            f"{worker} cannot be asked: {status.detail or 'its pod does not run'}", sent=False
        )

    @hookimpl
    async def outpost_changes(self) -> AsyncIterator[None]:
        """Yield once the cluster is watched, and whenever workers here may have changed."""
        from outpost_k8s.near import hearing

        heard = hearing.changes(self.desk, self._listing.came_home)
        async with aclosing(heard) as news:  # type: ignore[type-var]
            async for _ in news:
                yield

    @hookimpl
    def outpost_price(self, order: Order) -> float:
        """Return the most that the order can cost here, in USD."""
        return price.worst_case(self.options, order)

    @hookimpl
    async def outpost_doctor(self, rig: str | None) -> Sequence[Finding]:
        """Say what is missing, here and at the cluster."""
        from outpost_k8s import doctor

        return await doctor.examine(self.name, self.options, rig)

    @hookimpl
    async def outpost_bootstrap(self, agents: Sequence[str], dry_run: bool) -> AsyncIterator[Step]:
        """Make what the namespace needs around workers, step by step."""
        from outpost_k8s import bootstrap

        steps = bootstrap.bootstrap(self.name, self.options, agents, dry_run=dry_run)
        async with aclosing(steps) as found:  # type: ignore[type-var]
            async for step in found:
                yield step

    @hookimpl
    async def outpost_close(self) -> None:
        """Let go of connections; workers keep running."""
        await self._listing.aclose()
        await self._pods.aclose()
        await self.desk.aclose()


def _placed(order: Order) -> WorkerStatus:
    """Return the status of a worker whose Job has just been created."""
    return WorkerStatus(
        id=order.worker, state=State.STARTING, digest=wire.digest(order), detail="waits for its pod"
    )
