"""The smallest complete outpost: what the conformance kit itself is tested with.

Workers are detached processes of this machine, each in its folder; the far side does the work.
Backend authors can read it as the shortest answer to every check, and `mutants` break it in
many ways. The module is a backend package: it offers the type `reference`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final

from outpost_core import wire
from outpost_core.backend import Backend, BuildContext, Outpost, OutpostOptions
from outpost_core.errors import NotFoundError, UnreachableError, UsageError
from outpost_core.hookspecs import API_VERSION, hookimpl
from outpost_core.types import (
    Cleaned,
    Facts,
    Health,
    Message,
    Order,
    State,
    WorkerStatus,
    split_worker_id,
)
from outpost_shared import faults
from outpost_shared.message import check, is_for
from outpost_shared.programs import base_env, own_env
from outpost_testing.target import Target
from outpost_worker.folder import files, logs, publish, status
from outpost_worker.recovery import cleaning, recover
from outpost_worker.run import stop

OUTPOST_API: Final = API_VERSION
#: A file of that name in the state folder makes the outpost unreachable.
CUT: Final = "cut"


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions(OutpostOptions):
    """Nothing beyond what every outpost has."""


class ReferenceOutpost(Outpost):
    """Workers on this machine, as detached processes."""

    type = "reference"
    capabilities = frozenset(
        {"rig", "local_rig", "checkpoint", "secrets", "price", "mail", "inbox", "clean", "facts"}
    )

    #: None for the best fence around agents that works here.
    fence: ClassVar[Mapping[str, Any] | None] = None

    def __init__(self, name: str, options: OutpostOptions, context: BuildContext) -> None:
        super().__init__(name, options, context)
        self.root = context.state_dir
        self._scanned: dict[str, Any] = {}

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Publish the order, and start its supervisor unless that has begun."""
        self.check_line()
        env = base_env(os.environ)
        folder, _ = await asyncio.to_thread(
            publish.publish, self.root, order, env, fence=self.fence
        )
        if not status.started(folder):
            self.start(folder)
            faults.point("local.launched")
        return await self.looked_at(status.read(folder))

    @hookimpl
    async def outpost_list(self) -> Sequence[WorkerStatus]:
        """Read every worker's folder; what a dead supervisor left is recovered."""
        self.check_line()
        found = await asyncio.to_thread(status.scan, self.root, self._scanned)
        return [await self.looked_at(one) for one in found]

    @hookimpl
    async def outpost_ping(self) -> Health:
        """Say that all is well."""
        self.check_line()
        return Health(ok=True, detail="detached processes")

    @hookimpl
    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """Yield from the worker's log."""
        self.check_line()
        async for chunk in logs.follow(self.folder_of(worker), offset, follow):
            yield chunk

    @hookimpl
    async def outpost_stop(self, worker: str, grace: float) -> None:
        """Write the request down and wake the supervisor."""
        self.check_line()
        try:
            folder = self.folder_of(worker)
        except NotFoundError:
            return
        await asyncio.to_thread(stop.request, folder, grace)

    @hookimpl
    async def outpost_clean(self, worker: str, force: bool) -> Cleaned:
        """Remove an ended worker's folder, after its unpushed work was rescued."""
        self.check_line()
        try:
            folder = self.folder_of(worker)
        except NotFoundError:
            return Cleaned(removed=True)
        return await asyncio.to_thread(cleaning.clean, self.root, folder, force=force)

    @hookimpl
    async def outpost_facts(self, programs: Sequence[str]) -> Facts:
        """Look for programs as a worker does."""
        self.check_line()
        path = base_env(os.environ).get("PATH", os.defpath)
        found = {name: shutil.which(name, path=path) or "" for name in programs}
        return Facts(cpus=os.cpu_count(), programs=found)

    @hookimpl
    async def outpost_mail(self, message: Message) -> None:
        """Keep the message in a file that has its id as name."""
        self.check_line()
        check(message)
        self.keep(message)

    @hookimpl
    async def outpost_inbox(self, identity: str) -> Sequence[Message]:
        """Read every file."""
        self.check_line()
        found = []
        for path in (self.root / "mail").glob("*.json"):
            message = wire.from_json(Message, json.loads(path.read_text("utf-8")))
            if not identity or is_for(message.to, identity):
                found.append(message)
        return sorted(found, key=lambda one: one.sent_at or 0.0)

    @hookimpl
    def outpost_price(self, order: Order) -> float:  # noqa: ARG002 - the hook has it
        """Nothing costs anything here."""
        return 0.0

    # --- the steps that a mutant breaks -------------------------------------------------------

    def check_line(self) -> None:
        """Raise UnreachableError while the line is cut."""
        if (self.root / CUT).exists():
            raise UnreachableError(f"{self.name}: the line is cut", hint="remove the file `cut`")

    def keep(self, message: Message) -> None:
        """Write a message down; the same one again is the same file."""
        folder = self.root / "mail"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        said: Any = wire.to_json(message)
        files.store(str(folder), f"{message.id}.json", said)

    def start(self, folder: Path) -> None:
        """Start a worker's supervisor as a detached process."""
        self.start_detached(publish.command(folder))

    def start_detached(self, argv: Sequence[str]) -> None:
        """Start a program that outlives this one, as a child of nobody."""
        # the shell ends at once, so that nobody has to wait for its child
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "sh", *argv],
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            check=True,
        )

    def environment(self) -> dict[str, str]:
        """Return the environment of what lives on: nothing that may be a secret is in it."""
        fault = {"OUTPOST_FAULT": os.environ.get("OUTPOST_FAULT", "")}
        return own_env(os.environ) | fault

    async def looked_at(self, found: WorkerStatus) -> WorkerStatus:
        """Tell what has not begun as queued, and finish what has lost its supervisor."""
        folder = self.root / files.WORKERS / found.id
        if status.needs_recovery(folder):
            await asyncio.to_thread(recover.recover, folder)
            return status.read(folder)
        return found if found.started_at or found.result else replace(found, state=State.QUEUED)

    def work_of(self, found: WorkerStatus) -> Path:
        """Return where a worker's agent works."""
        return self.root / files.WORKERS / found.id / files.WORK

    def folder_of(self, worker: str) -> Path:
        """Return the folder of a worker that is there; raise NotFoundError otherwise."""
        try:
            split_worker_id(worker)
            folder = self.root / files.WORKERS / worker
        except UsageError:
            folder = None
        if folder is None or not folder.is_dir():
            raise NotFoundError(f"{self.name} has no worker {worker[:120]!a}")
        return folder


def reference_target(state: Path, **sizes: Any) -> Target:
    """Return a target for the reference outpost.

    Args:
        state: an empty folder.
        sizes: other fields of `Target`, such as `spawns`.
    """
    return target_of("reference", __name__, state, **sizes)


def target_of(type_: str, provider: str, state: Path, **sizes: Any) -> Target:
    """Return a target for an outpost that honours the file `cut`, as the reference does."""
    cut = state / "outposts" / "conformance" / CUT

    def cut_line() -> None:
        cut.parent.mkdir(parents=True, exist_ok=True)
        cut.touch()

    def restore_line() -> None:
        cut.unlink(missing_ok=True)

    return Target(
        type=type_,
        provider=provider,
        state=state,
        cut=cut_line,
        restore=restore_line,
        fault_points=faults.NEAR + faults.LOCAL + faults.FAR,
        **sizes,
    )


@hookimpl
def outpost_backends() -> Mapping[str, Backend]:
    """Offer the type `reference`."""
    return {
        "reference": Backend(
            type="reference",
            options=ReferenceOptions,
            build=ReferenceOutpost,
            summary="detached processes, for tests of the conformance kit",
            capabilities=ReferenceOutpost.capabilities,
        )
    }
