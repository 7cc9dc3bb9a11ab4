"""Mode `service`: workers in the containers of a Cloud Run service, which wake on demand.

A request goes to whichever container the front picks, so every worker's claim is outside of the
containers, and its stream finds the one that has it (`stream`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from outpost_cloudrun.keeper.client import Way
from outpost_cloudrun.keeper.knock import knock
from outpost_cloudrun.keeper.overdue import end_overdue, until_result
from outpost_cloudrun.keeper.runs import Runs
from outpost_cloudrun.keeper.stream import Stream
from outpost_cloudrun.keeper.terms import Patience, Terms
from outpost_cloudrun.keeper.unheard import why_unheard
from outpost_cloudrun.options import KeepWarm
from outpost_core.errors import (
    NotFoundError,
    OutpostError,
    SpawnRefusedError,
    UnreachableError,
)
from outpost_core.types import Cleaned, Facts, Health
from outpost_exec.gitlogin import git_login
from outpost_shared.backoff import reaching_again
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_cloudrun.keeper.far import Far
    from outpost_cloudrun.keeper.workerrecord import WorkerRecord
    from outpost_cloudrun.options import CloudRunOptions
    from outpost_core.backend import BuildContext

_log = Logger("cloudrun.service")


class ServiceCourse:
    """The workers of one service; a `Course`.

    Args:
        name: the outpost's name.
        options: its options.
        context: what paths are relative to.
        patience: how long what is waited for.
    """

    def __init__(
        self,
        name: str,
        options: CloudRunOptions,
        context: BuildContext,
        patience: Patience | None = None,
    ) -> None:
        self._name = name
        self._options = options
        self._context = context
        self._patience = patience or Patience()
        self._terms = Terms(
            name=name,
            request_timeout=options.request_timeout,
            resume=options.resume,
            credentials=self._credentials,
            runs=Runs(options, context.state_dir.absolute()),
            patience=self._patience,
        )
        self._streams: dict[str, Stream] = {}
        self._way = Way(name, options)
        self._warming: asyncio.Task[None] | None = None

    # --- the course ------------------------------------------------------------------------------

    async def start(self, record: WorkerRecord, secrets: Mapping[str, str]) -> None:
        """Post the order until a container has it; see `Course`."""
        self._cool()
        await self._stream(record).start(secrets)

    async def follow(self, record: WorkerRecord) -> None:
        """Follow its stream to the result; see `Course`."""
        self._cool()
        stream = self._stream(record)
        begun = self._terms.runs.begun(record)
        try:
            await until_result(
                record,
                stream.follow(),
                end_overdue(record, self._options, begun, self.stop, stream.let_go),
            )
        finally:
            self._streams.pop(record.worker, None)
            if record.result is not None and not self._streams:
                self._keep_warm()

    async def stop(self, record: WorkerRecord, grace: float) -> None:
        """Ask a container: it stops the worker, or marks its record; see `Course`."""
        far = await self._reach()
        body = {**await self._stream_of(record).about(), "grace": grace}
        try:
            await far.stop(record.worker, body, str(record.course.get("cookie") or ""))
        except SpawnRefusedError as error:
            raise UnreachableError(error.message, hint=error.hint) from error

    async def remove(self, record: WorkerRecord, *, force: bool) -> Cleaned:
        """Have its files there removed, and its claims forgotten; see `Course`."""
        checkpoint = record.result.checkpoint if record.result is not None else None
        here = checkpoint if checkpoint and checkpoint.startswith("/") else None
        try:
            far = await self._reach()
            body = await self._stream_of(record).about()
            cookie = str(record.course.get("cookie") or "")
            cleaned = await far.clean(record.worker, body, cookie, force=force)
        except NotFoundError:
            return Cleaned(removed=True, rescued=here)
        except OutpostError as error:
            if force:
                said = f"what is left of it there was not removed: {error.message}"
                return Cleaned(removed=True, rescued=here, detail=said)
            if isinstance(error, UnreachableError):
                raise
            raise UnreachableError(error.message, hint=error.hint) from error
        if here is not None:
            return Cleaned(removed=cleaned.removed, rescued=here, detail=cleaned.detail)
        return cleaned

    async def find(self, record: WorkerRecord) -> bool:
        """Ask a container, which may have to be started; see `Course`."""
        return await self._stream_of(record).find()

    async def unreached(self, running: Sequence[WorkerRecord]) -> str:
        """Return why none of the running workers can be heard; see `Course`."""
        return await why_unheard(self._streams, running)

    async def facts(self, programs: Sequence[str]) -> Facts:
        """Ask a container for its programs; it is started where none is there."""
        found: dict[str, str] = {}
        words = [name for name in programs if name and "," not in name]
        if words:
            said = await (await self._reach()).health(",".join(words))
            told = said.get("programs")
            known = told if isinstance(told, dict) else {}
            found = {name: str(known.get(name) or "") for name in words}
        found |= dict.fromkeys((name for name in programs if name not in found), "")
        return Facts(cpus=self._options.cpu, memory=self._options.memory, programs=found)

    async def ping(self) -> Health:
        """Say whether the front can be reached, which wakes no container."""
        heard = sum(stream.attached for stream in self._streams.values())
        if heard:
            return Health(ok=True, detail=f"{heard} workers are heard")
        try:
            return await knock(self._name, await self._way.address())
        except OutpostError as error:
            return Health(ok=False, detail=error.message, hint=error.hint)

    async def aclose(self) -> None:
        """Let go of connections; workers keep running."""
        warming = self._warming
        self._cool()
        if warming is not None:
            await asyncio.gather(warming, return_exceptions=True)
        await self._way.aclose()

    # --- keeping warm ----------------------------------------------------------------------------

    def _keep_warm(self) -> None:
        """Hold a request that keeps a container for a while after the last worker."""
        if self._options.keep_warm == KeepWarm.STREAM and self._warming is None:
            self._warming = asyncio.create_task(self._warm())

    def _cool(self) -> None:
        """A worker's stream keeps its container by itself."""
        if self._warming is not None:
            self._warming.cancel()
            self._warming = None

    async def _warm(self) -> None:
        end = time.monotonic() + self._options.warm_for
        again = reaching_again()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.warm_for):
                while time.monotonic() < end:
                    with contextlib.suppress(OutpostError):
                        async for _ in (await self._reach()).warm():
                            again.reset()
                    await again.wait()

    # --- the far side ----------------------------------------------------------------------------

    def _stream(self, record: WorkerRecord) -> Stream:
        stream = self._streams[record.worker] = self._stream_of(record)
        return stream

    def _stream_of(self, record: WorkerRecord) -> Stream:
        """Return the stream of a worker for a question; it is not held for that."""
        stream = self._streams.get(record.worker)
        if stream is not None and stream.is_of(record):
            return stream
        return Stream(record, self._terms, self._reach)

    async def _credentials(self, record: WorkerRecord) -> str:
        argv = self._options.git_credentials
        return await git_login(argv, self._context.config_dir, record.order.rig)

    async def _reach(self) -> Far:
        """Return the program at the service's address.

        Raises:
            UnreachableError: nobody could say where it is; `sent` is False.
        """
        return self._way.to(await self._way.address())
