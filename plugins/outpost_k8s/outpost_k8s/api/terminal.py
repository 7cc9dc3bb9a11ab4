"""`outpost attach` at a cluster: a program on a terminal of a pod, on this program's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from outpost_core.errors import UnreachableError
from outpost_exec import attach as far_terminal
from outpost_exec.attach.terminal import Size, Terminal
from outpost_k8s.api.errors import UnavailableError
from outpost_shared.viewer import check_terminal

if TYPE_CHECKING:
    from outpost_k8s.api.client import Cluster
    from outpost_k8s.api.process import Process

#: Seconds that a viewer may take to start in a pod that runs.
PATIENCE: Final = 30.0
#: What runs `-c SOURCE` in the image of workers.
_PYTHON: Final = ("python",)


class _InPod:
    """A program of a pod as a far terminal."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.stdin = process.stdin
        self.stdout = process.stdout

    def resized(self, size: Size) -> None:
        """Tell the node; it tells the program."""
        self._process.resize(size[0], size[1])

    async def ended(self) -> int | None:
        """Return the exit code."""
        try:
            return await self._process.ended()
        except UnavailableError:
            return None


async def attach(
    cluster: Cluster,
    pod: str,
    argv: Sequence[str],
    *,
    worker: str,
    name: str,
    container: str = "worker",
    python: Sequence[str] = _PYTHON,
    timeout: float = PATIENCE,
) -> int:
    """Give this program's terminal to a worker in a pod until the user detaches, or it ends.

    Args:
        cluster: the cluster.
        pod: name of the pod, in our namespace.
        argv: the program that shows the worker, as the stdio protocol names it.
        worker: its id, for messages.
        name: the outpost's.
        container: in which container.
        python: what starts a Python there.
        timeout: seconds that the program may take to start.

    Returns:
        the exit code of the program.

    Raises:
        UsageError: there is no terminal here.
        UnreachableError: the connection broke; the terminal is as it was; the worker keeps running.
        OutpostError: the program did not start.
    """
    check_terminal(worker)
    near = Terminal()
    far = [*python, "-c", far_terminal.source()]
    process = await cluster.exec(pod, far, tty=True, container=container)
    try:
        columns, rows, *_ = near.size()
        process.resize(columns, rows)
        return await far_terminal.show(
            worker, name, _InPod(process), near, argv, timeout=timeout,
            broken=(UnreachableError,),
        )  # fmt: skip
    finally:
        await process.close()
