"""From a spawn to a pod that runs at a real kubelet, beside the bare requests for the same pod."""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from peers import containers
from peers.kubelab import Cluster as Lab
from peers.kubelab import Options, own_lab

from benchmarks.harness import Row, ms
from benchmarks.kubefleet import Bare, options, order, outpost
from outpost_k8s.objects import names
from outpost_k8s.options import K8sOptions

#: Pods of each kind, and seconds between two looks at one.
PODS, LOOK = 7, 0.02
PATIENCE = 120.0


async def running(bare: Bare, worker: str, spawn: Callable[[], Awaitable[object]]) -> float:
    """Spawn a worker; return the seconds until its pod runs."""
    begun = time.perf_counter()
    await spawn()
    selector = {"labelSelector": names.worker_selector(f"{worker}.1")}
    async with asyncio.timeout(PATIENCE):
        while True:
            said = await bare.ask("GET", "pods", params=selector)
            if any(pod["status"]["phase"] in ("Running", "Succeeded") for pod in said["items"]):
                return time.perf_counter() - begun
            await asyncio.sleep(LOOK)


async def measured(
    lab: Lab, login: Callable[[Path], tuple[str, Any]], said: K8sOptions
) -> tuple[float, float]:
    """Return the median seconds, ours and with the bare client, by turns."""
    server, context = login(lab.kubeconfig)
    ours_took, bare_took = [], []
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))
    async with session, outpost(said) as ours:
        bare = Bare(session, server, said)
        for number in range(PODS + 1):
            mine, theirs = f"ours-{number}", f"bare-{number}"
            took = [
                await running(bare, mine, lambda: ours.outpost_spawn(order=order(mine))),  # noqa: B023 - awaited here
                await running(bare, theirs, lambda: bare.place(theirs)),  # noqa: B023
            ]
            if number:  # the first one opens connections
                ours_took.append(took[0])
                bare_took.append(took[1])
    return statistics.median(ours_took), statistics.median(bare_took)


def measure(login: Callable[[Path], tuple[str, Any]]) -> list[Row]:
    """Measure, in a cluster of its own with one real node."""
    with own_lab(Options(fake_nodes=0)) as lab, lab.namespace() as namespace:
        image = lab.load_image(containers.image().tag, containers.base())
        said = dataclasses.replace(
            options(lab, namespace), image=image, cpu=0.05, node_selector={}, tolerations=()
        )
        ours, bare = asyncio.run(measured(lab, login, said))
    return [
        Row(
            what="Kubernetes: from spawn to a pod that runs, at a real kubelet",
            ours=ms(ours),
            against=f"aiohttp, the same three writes for the same pod: {ms(bare)}",
            ratio=ours / bare,
            goal="≤ 1.2 ×",
            met=ours <= 1.2 * bare,
        )
    ]
