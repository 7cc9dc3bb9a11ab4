"""For the tests of rigs that are paths: a far machine without SSH, and a repository here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from outpost_core.backend import BuildContext, OutpostOptions
from outpost_core.errors import UnreachableError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import (
    Agent,
    Cleaned,
    Delivery,
    Issue,
    Json,
    Limits,
    Order,
    WorkerStatus,
)
from outpost_exec import rigs
from outpost_exec.stdio.client import Client
from outpost_exec.stdio.remote import StdioOutpost
from outpost_testing import waiting
from outpost_testing.gitrig import GitRig

#: Seconds after which something that should happen has not.
DEADLINE = 60.0

_SERVER = """
import sys
from pathlib import Path
from outpost_core.backend import BuildContext, OutpostOptions
from outpost_worker.serving import server
from outpost_worker.hosting.outpost import Hosting
from outpost_worker.hosting.methods import METHODS

def build(name, options):
    made = Hosting(name, OutpostOptions(), BuildContext(state_dir=Path(options["root"])))
    made.controller, made.disk_floor = options["controller"], int(options["disk_floor"])
    return made

sys.exit(server.main(build, server="rigs", extra=METHODS))
"""


class PipeOutpost(StdioOutpost):
    """Another machine at the end of a pipe.

    Args:
        far: its state root.
        near: the state folder here.
        fault: where its server dies.
        disk_floor: bytes that it leaves free.
        lines: how often it can be connected to.
    """

    capabilities = frozenset({"rig", "clean"})

    def __init__(
        self, far: Path, near: Path, *, fault: str = "", disk_floor: int = 0, lines: int = 1000
    ) -> None:
        super().__init__("far", OutpostOptions(), BuildContext(state_dir=near))
        self.far = far
        self.fault = fault
        self.disk_floor = disk_floor
        self.lines = lines
        self.away = False
        self.calls: list[str] = []
        self.lies: dict[str, Callable[[Json], Json]] = {}
        self._children: list[asyncio.subprocess.Process] = []

    async def connect(self) -> Client:
        self.lines -= 1
        if self.away or self.lines < 0:
            raise UnreachableError("far is away", sent=False)
        argv, env = self.server()
        if self.fault:
            env["OUTPOST_FAULT"] = self.fault
            self.fault = ""
        child = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=env,
        )
        self._children.append(child)
        assert child.stdout is not None
        assert child.stdin is not None
        options: dict[str, Json] = {
            "root": str(self.far),
            "controller": rigs.controller_id(self.context.state_dir),
            "disk_floor": self.disk_floor,
        }
        return await Client.start(
            "far", child.stdout, child.stdin, name="far", options=options, timeout=20
        )

    def server(self) -> tuple[list[str], dict[str, str]]:
        """Return the command of the far machine's program, and its environment."""
        env = {k: v for k, v in os.environ.items() if k != "OUTPOST_FAULT"}
        return [sys.executable, "-c", _SERVER], env

    async def call(
        self, method: str, params: Mapping[str, Json] | None = None, *, repeat: bool = True
    ) -> Json:
        self.calls.append(method)
        answer = await super().call(method, params, repeat=repeat)
        return self.lies[method](answer) if method in self.lies else answer

    async def cut(self) -> None:
        """Break the line, and let nobody connect."""
        self.away = True
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
        await asyncio.sleep(0)

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        await rigs.prepare(self, order)
        return await rigs.spawned(self, await super().outpost_spawn(order))

    @hookimpl
    async def outpost_list(self) -> Sequence[WorkerStatus]:
        return await rigs.bring_home(self, await super().outpost_list())

    @hookimpl
    async def outpost_clean(self, worker: str, force: bool) -> Cleaned:
        await rigs.before_clean(self, worker)
        cleaned = await super().outpost_clean(worker, force)
        return await rigs.after_clean(self, worker, cleaned)

    @hookimpl
    async def outpost_close(self) -> None:
        await rigs.close(self)
        await super().outpost_close()
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
            await child.wait()


class Laptop:
    """This machine: its repository, its state folder, and programs that use an outpost.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.far = folder / "far"
        self.near = folder / "near"
        self.rig = GitRig(folder / "here")
        self.opened: list[PipeOutpost] = []

    def open(self, **options: Any) -> PipeOutpost:
        """Return a fresh outpost object, as another program here would have."""
        self.opened.append(PipeOutpost(options.pop("far", self.far), self.near, **options))
        return self.opened[-1]

    def order(
        self,
        script: str,
        *,
        issue: str = "gt-1",
        attempt: int = 1,
        rig: Path | str | None = None,
        branch: str = "",
        **more: Any,
    ) -> Order:
        """Return an order to run a shell script in a working tree of the repository."""
        delivery = Delivery(branch=branch or f"polecat/{issue}", message=f"{issue}: work")
        return Order(
            issue=Issue(id=issue),
            agent=Agent(argv=("sh", "-c", script)),
            attempt=attempt,
            rig=str(rig or self.rig.path),
            delivery=delivery,
            limits=Limits(grace=1.0, checkpoint_every=more.pop("checkpoint_every", 0.0)),
            **more,
        )

    async def until(
        self, outpost: PipeOutpost, good: Callable[[WorkerStatus], bool], *workers: str
    ) -> dict[str, WorkerStatus]:
        """List until all the workers (default: all there are) are good; fail at a deadline."""
        return await waiting.listed(outpost, good, *workers, seconds=DEADLINE)

    async def end(self, outpost: PipeOutpost, *workers: str) -> dict[str, WorkerStatus]:
        """List until the workers have ended."""
        return await waiting.ended(outpost, *workers, seconds=DEADLINE)

    async def run(self, outpost: PipeOutpost, order: Order) -> WorkerStatus:
        """Spawn and list until it has ended."""
        await outpost.outpost_spawn(order)
        return (await self.end(outpost, order.worker))[order.worker]

    async def ended_there(self, worker: str) -> None:
        """Wait until a worker has its result, without asking the outpost."""
        deadline = time.monotonic() + DEADLINE
        while not (self.far / "workers" / worker / "result.json").exists():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    async def unfetched(
        self, script: str = "echo new >new.txt", **more: Any
    ) -> tuple[PipeOutpost, Order]:
        """Return an outpost, and an order whose worker has ended there with work not yet here."""
        outpost, order = self.open(), self.order(script, **more)
        await outpost.outpost_spawn(order)
        await self.ended_there(order.worker)
        return outpost, order

    def copies(self) -> list[Path]:
        """Return the hosted repositories."""
        return sorted((self.far / "hosted").glob("*.git"))


def at_laptop(folder: Path, test: Callable[[Laptop], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine with a laptop; at the end nothing of it is open."""

    async def whole() -> None:
        (folder / "here").mkdir()
        laptop = Laptop(folder)
        try:
            await test(laptop)
        finally:
            for outpost in laptop.opened:
                outpost.away = True
                await outpost.outpost_close()

    asyncio.run(whole())
