"""The Cloud Run outpost: what is asked of it is answered by its keeper."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path

from outpost_cloudrun import price
from outpost_cloudrun.capabilities import CAPABILITIES
from outpost_cloudrun.keeper import find
from outpost_cloudrun.keeper.knock import knock
from outpost_cloudrun.keeper.place import CLEAN
from outpost_cloudrun.options import CloudRunOptions, Mode
from outpost_core import wire
from outpost_core.backend import BuildContext
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Cleaned, Facts, Finding, Health, Order, Scale, Step, WorkerStatus
from outpost_exec.stdio.client import Client
from outpost_exec.stdio.remote import HeadlessStdioOutpost


class CloudRunOutpost(HeadlessStdioOutpost):
    """Workers in containers of Cloud Run.

    A keeper holds their streams between commands (`outpost_cloudrun.keeper`); it is started by the
    first question that only it can answer.

    Args:
        name: the configured name.
        options: its options.
        context: where its keeper keeps what it knows.
    """

    type = "cloudrun"
    capabilities = CAPABILITIES
    options: CloudRunOptions

    def __init__(self, name: str, options: CloudRunOptions, context: BuildContext) -> None:
        super().__init__(name, options.located(context.config_dir), context)
        self._since = time.time()  # a keeper with older options makes way
        if options.mode is not Mode.SERVICE:  # only a container knows its programs
            self.capabilities = CAPABILITIES - {"facts"}
        if not options.project:  # whoever runs its container has deployed it
            self.capabilities -= {"bootstrap", "scale"}
        if options.mode is not Mode.SERVICE:  # each worker has a container of its own
            self.capabilities -= {"scale"}
        if options.mode is Mode.JOB:  # an order's secrets would be seen by who may look at jobs
            self.capabilities -= {"secrets"}

    async def connect(self) -> Client:
        """Connect to the keeper of this outpost, which is started when there is none.

        Raises:
            UnreachableError: there is none, and none can be started.
        """
        return await find.connect(self.name, self.options, self.context, self._since)

    def kept_under(self) -> Path | None:
        """Return the folder that bundles of unpushed work are brought to."""
        return self.context.state_dir.absolute()

    @hookimpl
    async def outpost_list(self) -> Sequence[WorkerStatus]:
        """Return all workers; where all have ended, no keeper is started to say so."""
        if not find.is_kept(self.context):
            ended = await asyncio.to_thread(self._all_ended)
            if ended is not None:
                return ended
        return await super().outpost_list()

    def _all_ended(self) -> list[WorkerStatus] | None:
        """Return all workers as they are written down; None where one has not ended."""
        from outpost_cloudrun.keeper.records import Records

        records = [*Records(self.context.state_dir.absolute()).all()]
        if any(record.result is None for record in records):
            return None
        return [record.status for record in records]

    @hookimpl
    async def outpost_ping(self) -> Health:
        """Say whether the service, or Google, can be reached; wakes no container."""
        if find.is_kept(self.context):
            return await super().outpost_ping()
        options = self.options
        google = options.endpoint or f"https://{options.region}-run.googleapis.com"
        return await knock(self.name, options.url or google)

    @hookimpl
    async def outpost_clean(self, worker: str, force: bool) -> Cleaned:
        """Remove what is left of an ended worker; by its order also where nothing is known here."""
        ordered = self.context.ordered
        order = await ordered(worker) if ordered is not None else None
        if order is None:
            return await super().outpost_clean(worker, force)
        answer = await self.call(CLEAN, {"order": wire.to_json(order), "force": force})
        return self._read(Cleaned, answer, CLEAN)

    @hookimpl
    async def outpost_facts(self, programs: Sequence[str]) -> Facts:
        """Ask a container for its programs; no keeper is started for that."""
        if find.is_kept(self.context):
            return await super().outpost_facts(programs)
        from outpost_cloudrun.keeper.courses import course_of

        course = course_of(self.name, self.options, self.context)
        try:
            return await course.facts(programs)
        finally:
            await course.aclose()

    @hookimpl
    async def outpost_doctor(self, rig: str | None) -> Sequence[Finding]:
        """Say what is missing, here and at Google."""
        from outpost_cloudrun import doctor

        return await doctor.examine(self.name, self.options, rig)

    @hookimpl
    async def outpost_bootstrap(self, agents: Sequence[str], dry_run: bool) -> AsyncIterator[Step]:
        """Deploy what workers need, step by step."""
        from outpost_cloudrun import bootstrap

        steps = bootstrap.bootstrap(self.name, self.options, agents, dry_run=dry_run)
        async with aclosing(steps) as found:  # type: ignore[type-var]
            async for step in found:
                yield step

    @hookimpl
    async def outpost_scale(self, to: int | None) -> Scale:
        """Have Google keep so many containers of the service warm."""
        from outpost_cloudrun import scaling

        return await scaling.scale(self.options, to)

    @hookimpl
    def outpost_price(self, order: Order) -> float:
        """Return the most that the order can cost here, in USD.

        Raises:
            SpawnRefusedError: it may take longer than this mode can hold it.
        """
        return price.worst_case(self.options, order)
