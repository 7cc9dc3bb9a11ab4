"""The smallest complete outpost: what the conformance kit itself is tested with.

Workers are detached processes of this machine, each in its folder; the far side does the work.
Backend authors can read it as the shortest answer to every check, and `mutants` break it in
many ways. The module is a backend package: it offers the type `reference`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from outpost_core import wire
from outpost_core.backend import Backend, OutpostOptions
from outpost_core.errors import UnreachableError
from outpost_core.hookspecs import API_VERSION, hookimpl
from outpost_core.types import Cleaned, Facts, Health, Message, Order, WorkerStatus
from outpost_shared import faults
from outpost_shared.message import check, is_for
from outpost_testing.target import Target
from outpost_worker.folder import files
from outpost_worker.serving.folderoutpost import FolderOutpost

OUTPOST_API: Final = API_VERSION
#: A file of that name in the state folder makes the outpost unreachable.
CUT: Final = "cut"


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions(OutpostOptions):
    """Nothing beyond what every outpost has."""


class ReferenceOutpost(FolderOutpost):
    """Workers on this machine, as detached processes."""

    type = "reference"
    capabilities = (FolderOutpost.capabilities - {"interactive"}) | {"price", "mail", "inbox"}

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Publish the order, and start its supervisor unless that has begun."""
        self.check_line()
        return await self.looked_at(await super().outpost_spawn(order))

    @hookimpl
    async def outpost_list(self) -> Sequence[WorkerStatus]:
        """Read every worker's folder; what a dead supervisor left is recovered."""
        self.check_line()
        return [await self.looked_at(one) for one in await super().outpost_list()]

    @hookimpl
    async def outpost_ping(self) -> Health:
        """Say that all is well."""
        self.check_line()
        return await super().outpost_ping()

    @hookimpl
    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """Yield from the worker's log."""
        self.check_line()
        async with aclosing(super().outpost_logs(worker, offset, follow)) as stream:  # type: ignore[type-var]
            async for chunk in stream:
                yield chunk

    @hookimpl
    async def outpost_stop(self, worker: str, grace: float) -> None:
        """Write the request down and wake the supervisor."""
        self.check_line()
        await super().outpost_stop(worker, grace)

    @hookimpl
    async def outpost_clean(self, worker: str, force: bool) -> Cleaned:
        """Remove an ended worker's folder, after its unpushed work was rescued."""
        self.check_line()
        return await super().outpost_clean(worker, force)

    @hookimpl
    async def outpost_facts(self, programs: Sequence[str]) -> Facts:
        """Look for programs as a worker does."""
        self.check_line()
        return await super().outpost_facts(programs)

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

    # --- the steps that a mutant breaks, besides those of the base ----------------------------

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

    async def looked_at(self, found: WorkerStatus) -> WorkerStatus:
        """Return a status as it is reported."""
        return found

    def work_of(self, found: WorkerStatus) -> Path:
        """Return where a worker's agent works."""
        return self.root / files.WORKERS / found.id / files.WORK


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
