"""A real API server asked by the Kubernetes backend, beside raw clients and kr8s."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from peers.kubelab import Cluster as Lab
from peers.kubelab import Options, own_lab

from benchmarks import kubefleet, kubestart
from benchmarks.harness import Row, ms
from outpost_k8s.api import config
from outpost_k8s.api.client import Cluster
from outpost_k8s.api.paths import path

#: Jobs of one round of creating, how many at once, and rounds; Jobs of the list, and its rounds.
JOBS, AT_ONCE, ROUNDS, LISTED, LISTS = 100, 32, 9, 1000, 3

Create = Callable[[str, dict[str, Any]], Awaitable[Any]]


def job(name: str) -> dict[str, Any]:
    """A suspended Job about as long as a worker's: the controllers have nothing to do with it."""
    env = [{"name": f"VARIABLE_{n}", "value": "value" * 4} for n in range(20)]
    container = {"name": "worker", "image": "localhost/none", "command": ["true"], "env": env}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "annotations": {"outpost/order": "x" * 2000}},
        "spec": {
            "suspend": True,
            "backoffLimit": 0,
            "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
        },
    }


async def creating(create: Create, namespace: str, prefix: str) -> float:
    """Return the seconds that Jobs take to be created."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with slots:
            await create(path("jobs", namespace), job(f"{prefix}-{number}"))

    begun = time.perf_counter()
    await asyncio.gather(*map(one, range(JOBS)))
    return time.perf_counter() - begun


def login(kubeconfig: Path) -> tuple[str, ssl.SSLContext]:
    """Return server and certificates for a raw client."""
    said = yaml.safe_load(kubeconfig.read_text())
    cluster, user = said["clusters"][0]["cluster"], said["users"][0]["user"]
    context = ssl.create_default_context(cafile=cluster["certificate-authority"])
    context.load_cert_chain(user["client-certificate"], user["client-key"])
    return cluster["server"], context


async def created(lab: Lab) -> tuple[float, float, float]:
    """Return Jobs a second: ours, aiohttp with dicts, and the official client's REST layer."""
    from kubernetes.aio.client.configuration import Configuration
    from kubernetes.aio.client.rest import RESTClientObject

    server, context = login(lab.kubeconfig)
    ours = Cluster(config.find(kubeconfig=lab.kubeconfig))
    official: Any = Configuration(host=server)
    found = ours.place
    official.ssl_ca_cert = found.cluster["certificate-authority"]
    official.cert_file = found.login["client-certificate"]
    official.key_file = found.login["client-key"]
    rest = RESTClientObject(official)
    raw = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=0))

    async def by_aiohttp(where: str, body: dict[str, Any]) -> None:
        async with raw.post(server + where, json=body) as answer:
            assert answer.status == 201, await answer.text()
            await answer.json()

    async def by_rest(where: str, body: dict[str, Any]) -> None:
        answer = await rest.request("POST", server + where, body=body)
        assert answer.status == 201
        json.loads(await answer.read())

    clients: dict[str, Create] = {"ours": ours.create, "aiohttp": by_aiohttp, "rest": by_rest}
    spent = dict.fromkeys(clients, 0.0)  # by turns, so that load hits all of them
    try:
        # what is removed would cost the next client: all stays until the end
        with lab.namespace() as namespace:
            for number in range(ROUNDS + 1):
                names = [*clients][number % len(clients) :] + [*clients][: number % len(clients)]
                for name in names:
                    took = await creating(clients[name], namespace, f"{name}{number}")
                    spent[name] += took if number else 0.0  # the first round opens connections
    finally:
        await ours.aclose()
        await raw.close()
        await rest.close()
    ours_rate, raw_rate, rest_rate = (ROUNDS * JOBS / spent[name] for name in clients)
    return ours_rate, raw_rate, rest_rate


#: Lists all Jobs of a namespace; prints the fastest of five times and how much memory it took.
LIST = """
import asyncio, json, sys, time
kubeconfig, namespace = sys.argv[1:]
def peak():
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("VmHWM")).split()[1]) / 1024
%s
async def main():
    async with client() as ask:
        before, times = peak(), []
        for _ in range(5):
            begun = time.perf_counter()
            found = await ask()
            times.append(time.perf_counter() - begun)
            assert len(found) == %d, len(found)
            del found
        print(json.dumps([min(times), peak() - before, peak()]))
asyncio.run(main())
"""
CLIENTS = {
    "ours": """
from contextlib import asynccontextmanager
from pathlib import Path
from outpost_k8s.api import config
from outpost_k8s.api.client import Cluster
from outpost_k8s.api.paths import path
@asynccontextmanager
async def client():
    cluster = Cluster(config.find(kubeconfig=Path(kubeconfig)))
    await cluster.version()
    async def ask():
        return [one async for one in cluster.items(path("jobs", namespace), METADATA)]
    yield ask
    await cluster.aclose()
""",
    "raw": """
from contextlib import asynccontextmanager
from pathlib import Path
from benchmarks.kubernetes import login
import aiohttp
@asynccontextmanager
async def client():
    server, context = login(Path(kubeconfig))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        async def ask():
            url, found, proceed = f"{server}/apis/batch/v1/namespaces/{namespace}/jobs", [], ""
            while True:
                asked = {"limit": "500"} | ({"continue": proceed} if proceed else {})
                async with session.get(url, params=asked) as answer:
                    said = await answer.json()
                found += said["items"]
                if not (proceed := said["metadata"].get("continue")):
                    return found
        async with session.get(server + "/version") as answer:
            await answer.read()
        yield ask
""",
    "kr8s": """
from contextlib import asynccontextmanager
import kr8s.asyncio
@asynccontextmanager
async def client():
    api = await kr8s.asyncio.api(kubeconfig=kubeconfig)
    await api.version()
    async def ask():
        return [one async for one in api.get("jobs", namespace=namespace)]
    yield ask
""",
}


def listing(lab: Lab, namespace: str, name: str, metadata: str = "") -> tuple[float, float, float]:
    """Return seconds, MiB that the list took, and MiB in all."""
    client = CLIENTS[name].replace(", METADATA", metadata)
    argv = [sys.executable, "-c", LIST % (client, LISTED), str(lab.kubeconfig), namespace]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seconds, taken, whole = json.loads(done.stdout)
    return seconds, taken, whole


IMPORTS = {
    "ours": "from outpost_k8s.api.client import Cluster;"
    " from outpost_k8s.api.official import official; official()",
    "typed": "from kubernetes.aio import client; client.BatchV1Api; client.V1Job",
    "aiohttp": "import aiohttp",
    "kr8s": "import kr8s.asyncio",
}


def imported(name: str) -> tuple[float, float]:
    """Return seconds and MiB of a program that imports a client."""
    code = (
        "import time; begun = time.perf_counter();"
        f"{IMPORTS[name]};"
        "took = time.perf_counter() - begun; lines = open('/proc/self/status').read().splitlines();"
        "print(took, int([one for one in lines if 'VmHWM' in one][0].split()[1]) / 1024)"
    )
    runs = [
        [*map(float, subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                                    check=True).stdout.split())]
        for _ in range(5)
    ]  # fmt: skip
    return min(run[0] for run in runs), min(run[1] for run in runs)


def fill(lab: Lab, namespace: str) -> None:
    async def work() -> None:
        cluster = Cluster(config.find(kubeconfig=lab.kubeconfig))
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with slots:
                await cluster.create(path("jobs", namespace), job(f"j-{number}"))

        await asyncio.gather(*map(one, range(LISTED)))
        await cluster.aclose()

    asyncio.run(work())


def measure() -> list[Row]:
    """Measure (m)."""
    with own_lab(Options(real_node=False, fake_nodes=4)) as lab:
        ours, raw, rest = asyncio.run(created(lab))
        with lab.namespace() as namespace:
            fill(lab, namespace)
            rounds = [
                {name: listing(lab, namespace, name) for name in CLIENTS} for _ in range(LISTS)
            ]
            lists = {name: min(each[name] for each in rounds) for name in CLIENTS}
            lean = listing(lab, namespace, "ours", ", metadata_only=True")
        fleet = kubefleet.measure(lab, login)
    imports = {name: imported(name) for name in IMPORTS}

    def told(name: str) -> str:
        seconds, taken, _ = lists[name]
        return f"{ms(seconds)}, {taken:.0f} MiB more"

    def loaded(name: str) -> str:
        return f"{ms(imports[name][0])}, {imports[name][1]:.0f} MiB"

    return [
        Row(
            what=f"Kubernetes: Jobs created, {AT_ONCE} at once",
            ours=f"{ours:,.0f} a second",
            against=f"aiohttp with dicts {raw:,.0f} a second; the official client's REST layer"
            f" {rest:,.0f}",
            ratio=ours / max(raw, rest),
            goal="≥ 0.9 ×",
            met=ours >= 0.9 * max(raw, rest),
        ),
        Row(
            what=f"Kubernetes: list of {LISTED:,} Jobs in pages of 500",
            ours=told("ours"),
            against=f"aiohttp with dicts {told('raw')}; kr8s {told('kr8s')}",
            ratio=lists["ours"][0] / lists["raw"][0],
            goal="≤ 1.2 ×, and quicker than kr8s",
            met=lists["ours"][0] <= min(1.2 * lists["raw"][0], lists["kr8s"][0]),
        ),
        Row(
            what=f"Kubernetes: list of {LISTED:,} Jobs, metadata only",
            ours=f"{ms(lean[0])}, {lean[1]:.0f} MiB more",
        ),
        Row(
            what="Kubernetes: import of the client, when an outpost is first asked",
            ours=loaded("ours"),
            against=f"aiohttp alone {loaded('aiohttp')}; the official client with Jobs as models"
            f" {loaded('typed')}; kr8s {loaded('kr8s')}",
            ratio=imports["ours"][1] / imports["typed"][1],
            goal="less memory than with models",
            met=imports["ours"][1] < imports["typed"][1],
        ),
        *fleet,
        *kubestart.measure(login),
    ]
