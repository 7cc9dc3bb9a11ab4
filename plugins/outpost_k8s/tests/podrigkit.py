"""Pods as processes, and the programs of this machine that exec into them for its repositories."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from podkit import Pod
from rigkit import Laptop, PipeOutpost

from outpost_core.types import Order, Result, WorkerStatus


class PodPipe(PipeOutpost):
    """The program in a pod, as one of this machine has it.

    Args:
        pod: the pod.
        near: the outpost's state folder here, the same for all of its pods.
    """

    def __init__(self, pod: Pod, near: Path, **more: Any) -> None:
        super().__init__(pod.root, near, **more)
        self.pod = pod
        self.only_worker = pod.worker

    def server(self) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, "-m", "outpost_k8s.far", "serve"], dict(self.pod.env)

    async def state(self) -> dict[str, Any]:
        """What the pod's program says that it is at."""
        told = await self.call("x-state", {})
        assert isinstance(told, dict)
        return told


class Cluster(Laptop):
    """This machine, its repository, and pods that its workers run in.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.pods: dict[str, Pod] = {}

    def pod(self, order: Order, *, begins: bool = True, **env: str) -> Pod:
        """Start a pod for an order whose rig travels; or have one whose program begins later."""
        made = Pod(self.folder / "pods" / order.worker, order, **{"OUTPOST_HOSTED": "1", **env})
        self.pods[order.worker] = made
        return made.start() if begins else made

    def into(self, pod: Pod, **options: Any) -> PodPipe:
        """Return a fresh object for a pod, as another program here would have."""
        made = PodPipe(pod, self.near, **options)
        self.opened.append(made)
        return made

    async def result(self, pipe: PodPipe) -> Result:
        """List until the worker has ended and its work is here."""
        ended: dict[str, WorkerStatus] = await self.end(pipe, pipe.pod.worker)
        result = ended[pipe.pod.worker].result
        assert result is not None
        return result

    async def leave(self, pipe: PodPipe) -> int:
        """Tell a pod that its work is here; returns the exit code of its program."""
        await pipe.call("x-collected", {"worker": pipe.pod.worker})
        return await asyncio.to_thread(pipe.pod.wait)

    def notes(self, place: str = "waiting") -> list[str]:
        """The notes of all workers in a place."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(path.name for path in (self.near / "hosted" / place).iterdir())
        return []


def at_cluster(folder: Path, test: Callable[[Cluster], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine with a cluster; at the end nothing of it runs."""

    async def whole() -> None:
        (folder / "here").mkdir()
        cluster = Cluster(folder)
        try:
            await test(cluster)
        finally:
            for outpost in cluster.opened:
                outpost.away = True
                await outpost.outpost_close()
            for pod in cluster.pods.values():
                await asyncio.to_thread(pod.kill)

    asyncio.run(whole())
