"""A desk whose commands have keepers: a runtime folder of its own, and none of them stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from farkit import Far, order

from outpost_cloudrun.options import Auth, CloudRunOptions
from outpost_cloudrun.outpost import CloudRunOutpost
from outpost_core.backend import BuildContext
from outpost_core.types import Order, Result, WorkerStatus

__all__ = ["Desk", "desk_at", "keepers", "options", "order", "until"]

PATIENCE = 60.0


def options(url: str, **more: Any) -> CloudRunOptions:
    return CloudRunOptions(**{"url": url, "auth": Auth.NONE, "warm_for": 0.0, **more})


def keepers(run: str) -> list[int]:
    """The keepers of commands that had this runtime folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            argv = (entry / "cmdline").read_bytes().split(b"\0")
            env = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"outpost_cloudrun.keeper.hold" in argv and b"XDG_RUNTIME_DIR=" + run.encode() in env:
            found.append(int(entry.name))
    return found


def until(what: Callable[[], object], why: str) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, why
        time.sleep(0.02)


@contextlib.contextmanager
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A runtime folder; the keepers in it are gone afterwards."""
    # a socket's path is short (unix(7)), pytest's folders are not
    with TemporaryDirectory(prefix="outpost-") as run:
        monkeypatch.setenv("XDG_RUNTIME_DIR", run)
        try:
            yield run
        finally:
            for pid in keepers(run):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            end = time.monotonic() + 10
            while (left := keepers(run)) and time.monotonic() < end:
                time.sleep(0.05)
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


class Desk:
    """This side of one outpost: each `asked` is a command of its own."""

    def __init__(self, url: str, folder: Path, run: str, **more: Any) -> None:
        self.url = url
        self.context = BuildContext(state_dir=folder / "state" / "outposts" / "burst")
        self.run = run
        self.more = more

    def outpost(self, **more: Any) -> CloudRunOutpost:
        return CloudRunOutpost("burst", options(self.url, **{**self.more, **more}), self.context)

    def asked(self, ask: Callable[[CloudRunOutpost], Awaitable[Any]], **more: Any) -> Any:
        async def work() -> Any:
            outpost = self.outpost(**more)
            try:
                return await ask(outpost)
            finally:
                await outpost.outpost_close()

        return asyncio.run(asyncio.wait_for(work(), PATIENCE * 2))

    def spawn(self, one: Order, **more: Any) -> WorkerStatus:
        status: WorkerStatus = self.asked(lambda o: o.outpost_spawn(order=one), **more)
        return status

    def status(self, worker: str) -> WorkerStatus | None:
        found = self.asked(lambda o: o.outpost_list())
        return next((one for one in found if one.id == worker), None)

    def result(self, worker: str) -> Result:
        """Wait for a worker's end, asking as `outpost wait` does."""
        end = time.monotonic() + PATIENCE
        while True:
            status = self.status(worker)
            if status is not None and status.result is not None:
                return status.result
            assert time.monotonic() < end, f"it is {status}"
            time.sleep(0.1)

    def log(self, worker: str, *, follow: bool = False) -> bytes:
        async def read(outpost: CloudRunOutpost) -> bytes:
            got = b""
            async for piece in outpost.outpost_logs(worker=worker, offset=0, follow=follow):
                got += piece
            return got

        got: bytes = self.asked(read)
        return got

    def keepers(self) -> list[int]:
        return keepers(self.run)

    def kill(self) -> None:
        """Kill the keeper as a power cut does."""
        for pid in self.keepers():
            with contextlib.suppress(ProcessLookupError):  # a second one ends by itself
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self.keepers(), "it was killed")


@contextlib.contextmanager
def desk_at(far: Far, folder: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Iterator[Desk]:
    with runtime(monkeypatch) as run:
        yield Desk(far.url, folder, run, **more)
