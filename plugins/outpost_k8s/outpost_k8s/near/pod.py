"""A worker's pod as an outpost: the stdio protocol, spoken through an exec into it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from outpost_core.errors import NotFoundError, OutpostError, UnreachableError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import State
from outpost_exec.stdio.client import Client
from outpost_exec.stdio.remote import StdioOutpost
from outpost_k8s.capabilities import CAPABILITIES
from outpost_k8s.near import seen
from outpost_shared import border
from outpost_shared.backoff import Backoff

if TYPE_CHECKING:
    from outpost_core.types import Json
    from outpost_k8s.api.process import Process
    from outpost_k8s.near.desk import Desk
    from outpost_k8s.near.seen import Object

#: What is run in the container: its own entry first, for the environment that a worker has.
ENTER: Final = ("outpost-enter",)
SERVE: Final = (*ENTER, "python", "-m", "outpost_k8s.far", "serve")
#: Seconds until the program in the pod has said hello; a busy node starts Python late.
HELLO: Final = 30.0
#: Seconds for which a worker is waited for that is about to begin.
BEGINS: Final = 60.0
#: Characters of what it writes to stderr that are looked at, to be quoted.
_STDERR: Final = 1000


class NoPodError(NotFoundError):
    """Nothing runs in the worker's pod that could be asked: it has not begun, or has ended."""


class PodOutpost(StdioOutpost):
    """One worker, in its pod.

    Args:
        desk: of the outpost that it belongs to.
        worker: the worker's id.
        pod: the name of the pod.
        uid: the pod's.
        hosted: its repository is one of this machine.

    Attributes:
        uid: the pod's.
        pod: its name.
    """

    type = "k8s"
    capabilities = CAPABILITIES

    def __init__(self, desk: Desk, worker: str, pod: str, uid: str, *, hosted: bool) -> None:
        super().__init__(desk.name, desk.options, desk.context)
        self.only_worker = worker
        self._hosted = hosted
        self.uid = uid
        self.pod = pod
        self._desk = desk
        self._worker = worker
        self._endings: set[asyncio.Task[None]] = set()
        self._process: Process | None = None

    async def living(self) -> Object:
        """Return the pod, whose container runs.

        Raises:
            NoPodError: it does not, or not any more.
            UnreachableError: nobody can say.
        """
        try:
            found = await self._desk.cluster().get(self._desk.path("pods", self.pod))
        except NotFoundError:
            raise NoPodError(f"the pod of {self._worker} is gone") from None
        if seen.uid(found) != self.uid or seen.has_ended(found) or not seen.is_running(found):
            raise NoPodError(f"the pod of {self._worker} does not run")
        return found

    async def connect(self) -> Client:
        """Start the server in the pod, through an exec.

        Raises:
            NoPodError: nothing runs there.
            UnreachableError: that is not possible, and why; `sent` is False.
        """
        try:
            process = await self._desk.cluster().exec(self.pod, [*SERVE])
        except OutpostError as error:
            await self.living()
            raise UnreachableError(error.message, hint=error.hint, sent=False) from error
        self._drop(self._process)
        self._process = process
        try:
            return await Client.start(
                f"the pod of {self._worker}",
                process.stdout,
                process.stdin,
                name=self.name,
                options=await asyncio.to_thread(self._hello),
                timeout=HELLO,
            )
        except UnreachableError as error:
            await process.close()
            await self.living()
            said = border.line(process.stderr.decode("utf-8", "replace").strip()[-_STDERR:], 300)
            raise UnreachableError(
                error.message + (f"; {said}" if said else ""),
                hint=f"kubectl exec {self.pod} -- {' '.join(SERVE)}",
                sent=False,
            ) from error
        except BaseException:
            self._drop(process)
            raise

    async def begun(self) -> None:
        """Wait until the worker is there that a person can be shown: a pod prepares at first.

        Raises:
            NoPodError: its pod has ended.
            UnreachableError: it does not begin, or nobody can say.
        """
        detail = ""
        async for _ in Backoff(0.2, 2.0, within=BEGINS).rounds():
            for status in await self.outpost_list():
                if status.id == self._worker:
                    detail = status.detail
                    if status.state is not State.QUEUED:
                        return
        why = detail or "its program does not begin"
        raise UnreachableError(f"{self._worker} cannot be asked: {why}", sent=False)

    def _hello(self) -> dict[str, Json]:
        """Return what the program in the pod is to know."""
        if not self._hosted:
            return {}
        from outpost_exec import rigs

        return {"controller": rigs.controller_id(self.context.state_dir)}

    def given_up(self, client: Client, why: str) -> None:
        """End a channel on which nothing is heard, and the exec below it."""
        super().given_up(client, why)
        self._drop(self._process)

    def _drop(self, process: Process | None) -> None:
        """End an exec behind what is going on."""
        if process is not None:
            ending = asyncio.create_task(process.close())
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)

    @hookimpl
    async def outpost_close(self) -> None:
        """End the channel for good, and the program that serves it; the worker keeps running."""
        if self._hosted:
            from outpost_exec import rigs

            await rigs.close(self)
        await super().outpost_close()
        self._drop(self._process)
        await asyncio.gather(*self._endings, return_exceptions=True)

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Ask the program in the pod; return the object that it answers.

        Raises:
            OutpostError: as `call`, or it answers something else.
        """
        return self._object(await self.call(method, params), method)


class Pods:
    """The channels into the pods of one outpost: one a worker, opened when something is asked.

    Args:
        desk: of the outpost.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._open: dict[str, PodOutpost] = {}

    def of(self, worker: str, pod: Object) -> PodOutpost:
        """Return the channel into a worker's pod; opens nothing.

        Args:
            worker: the worker's id.
            pod: its pod; another one than before has a channel of its own.
        """
        uid = seen.uid(pod)
        known = self._open.get(worker)
        if known is None or known.uid != uid:
            hosted = self._desk.keeping.of(worker).hosted
            known = PodOutpost(self._desk, worker, seen.name(pod), uid, hosted=hosted)
            self._open[worker] = known
        return known

    async def leave(self, worker: str) -> None:
        """Close the channel into a worker's pod."""
        known = self._open.pop(worker, None)
        if known is not None:
            await known.outpost_close()

    async def aclose(self) -> None:
        """Close all channels; workers keep running."""
        pods, self._open = [*self._open.values()], {}
        await asyncio.gather(*(pod.outpost_close() for pod in pods), return_exceptions=True)
