"""A Kubernetes outpost for tests of its near side, and the programs that are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from outpost_core import wire
from outpost_core.backend import BuildContext
from outpost_core.types import Agent, Issue, Limits, Order, WorkerStatus
from outpost_k8s.objects import names
from outpost_k8s.options import K8sOptions
from outpost_k8s.outpost import K8sOutpost

if TYPE_CHECKING:
    from peers.kubelab import Cluster

T = TypeVar("T")

#: Seconds until what has to come is taken for missing.
PATIENCE: Final = 90.0
#: Nodes that kwok plays: a pod ends there at once, with no word of ours.
KWOK: Final[dict[str, Any]] = {
    "node_selector": {"kubelab/node": "kwok"},
    "tolerations": ("kwok.x-k8s.io/node",),
}
#: No node at all.
NOWHERE: Final[dict[str, Any]] = {"node_selector": {"no-such": "node"}}
JOBS: Final = "/apis/batch/v1/namespaces/{}/jobs"
PODS: Final = "/api/v1/namespaces/{}/pods"
SECRETS: Final = "/api/v1/namespaces/{}/secrets"


def options(cluster: Cluster, namespace: str, **more: Any) -> K8sOptions:
    values: dict[str, Any] = {
        "kubeconfig": cluster.kubeconfig,
        "namespace": namespace,
        "image": "localhost/none:1",
        "image_pull_policy": "Never",
        "cpu": 0.01,
        "memory": 64 << 20,
        "ephemeral_storage": 64 << 20,
        **more,
    }
    return K8sOptions(**values)


def objects(cluster: Cluster, path: str, namespace: str) -> list[dict[str, Any]]:
    """What the cluster has of workers, of one kind."""
    found = cluster.admin.get(path.format(namespace), labelSelector=names.SELECTOR)
    items: list[dict[str, Any]] = found["items"]
    return items


def order(name: str, script: str = "true", **more: Any) -> Order:
    values: dict[str, Any] = {"limits": Limits(timeout=300.0, grace=2.0), "owner": "ab" * 8, **more}
    return Order(issue=Issue(id=name), agent=Agent(argv=("sh", "-c", script)), **values)


def outpost(options: K8sOptions, state: Path) -> K8sOutpost:
    return K8sOutpost("kube", options, BuildContext(state_dir=state))


def with_outpost(options: K8sOptions, state: Path, work: Callable[[K8sOutpost], Awaitable[T]]) -> T:
    """Do something with an outpost object of its own, as one command does."""

    async def whole() -> T:
        mine = outpost(options, state)
        try:
            return await work(mine)
        finally:
            await mine.outpost_close()

    return asyncio.run(whole())


async def listed(
    mine: K8sOutpost, worker: str, wanted: Callable[[WorkerStatus], bool]
) -> WorkerStatus:
    """List until a worker is as wanted."""
    end = time.monotonic() + PATIENCE
    while True:
        statuses: Sequence[WorkerStatus] = await mine.outpost_list()
        found = [status for status in statuses if status.id == worker]
        if found and wanted(found[0]):
            return found[0]
        assert time.monotonic() < end, f"{worker} is {found}"
        await asyncio.sleep(0.2)


async def ended(mine: K8sOutpost, worker: str) -> WorkerStatus:
    return await listed(mine, worker, lambda status: status.state.terminal)


def child(verb: str, options: K8sOptions, state: Path, order: Order, fault: str = "") -> int:
    """Do one thing in a program of its own that dies at a fault; returns its exit code."""
    env = {**os.environ, "OUTPOST_FAULT": fault}
    told = [verb, str(options.kubeconfig), options.namespace, str(state), wire.dumps(order)]
    selector = ",".join(f"{key}={value}" for key, value in options.node_selector.items())
    argv = [sys.executable, str(Path(__file__)), *told, selector, *options.tolerations]
    return subprocess.run(argv, env=env, check=False, timeout=2 * PATIENCE).returncode


def killed(code: int) -> bool:
    return code == -signal.SIGKILL


def _main(argv: list[str]) -> None:
    import json

    verb, kubeconfig, namespace, state, told, selector, *tolerations = argv
    order = wire.from_json(Order, json.loads(told))
    nodes = dict(pair.split("=", 1) for pair in selector.split(",") if pair)
    chosen = K8sOptions(
        kubeconfig=Path(kubeconfig), namespace=namespace, image="localhost/none:1",
        image_pull_policy="Never", cpu=0.01, memory=64 << 20, ephemeral_storage=64 << 20,
        node_selector=nodes, tolerations=tuple(tolerations),
    )  # fmt: skip

    async def work(mine: K8sOutpost) -> None:
        if verb == "spawn":
            await mine.outpost_spawn(order=order)
        elif verb == "stop":
            await mine.outpost_stop(worker=order.worker, grace=1.0)
        elif verb == "end":
            await ended(mine, order.worker)
            await asyncio.sleep(0.5)
        elif verb == "clean":
            await mine.outpost_clean(worker=order.worker, force=False)

    with_outpost(chosen, Path(state), work)


if __name__ == "__main__":
    _main(sys.argv[1:])
