"""A Cloud Run outpost on loopback: its keeper, its HTTP/2, and its prices.

The container's program is the real one, as a process of this machine; where 500 streams are wanted
it is granian with workers that only talk.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
from peers.relay import Relay, relay

from benchmarks.harness import Row, ms
from benchmarks.ssh import scratch
from outpost_cloudrun import price
from outpost_cloudrun.connection.transport import H2Transport
from outpost_cloudrun.options import Auth, CloudRunOptions
from outpost_cloudrun.outpost import CloudRunOutpost
from outpost_core import wire
from outpost_core.backend import BuildContext
from outpost_core.types import Agent, Issue, Limits, Order

QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextlib.contextmanager
def process(port: int, *argv: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server within the block; it and what it started are gone afterwards."""
    started = subprocess.Popen(argv, env={**os.environ, **env}, start_new_session=True, **QUIET)
    try:
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            if started.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{argv[0]} does not listen")
            time.sleep(0.02)
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGTERM)
        try:
            started.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


@contextlib.contextmanager
def container(folder: Path) -> Iterator[tuple[str, int]]:
    """Run the container's program; yields its address and its process."""
    port = free_port()
    (folder / "home").mkdir()
    env = {
        "PORT": str(port), "HOME": str(folder / "home"), "OUTPOST_ROOT": str(folder / "root"),
        "OUTPOST_SINGLE_INSTANCE": "1",
    }  # fmt: skip
    with process(port, sys.executable, "-m", "outpost_cloudrun.server", **env) as one:
        yield f"http://127.0.0.1:{port}", one.pid


@contextlib.contextmanager
def talkers(gap: float = 2.0) -> Iterator[int]:
    """Run the server of many streams; yields its port."""
    port = free_port()
    command = [
        sys.executable, "-m", "granian", "--interface", "asginl", "--http", "2", "--no-ws",
        "--host", "127.0.0.1", "--port", str(port), "--http2-max-concurrent-streams", "1000",
        "--no-log", "benchmarks.streams:app",
    ]  # fmt: skip
    with process(port, *command, STREAM_GAP=str(gap)):
        yield port


@contextlib.asynccontextmanager
async def outpost_at(url: str, folder: Path) -> AsyncIterator[CloudRunOutpost]:
    """Return an outpost whose keeper lives as long as the block."""
    run = folder / "run"
    run.mkdir(mode=0o700)
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(run)
    options = CloudRunOptions(url=url, auth=Auth.NONE, warm_for=0.0)
    outpost = CloudRunOutpost("burst", options, BuildContext(state_dir=folder / "state"))
    try:
        yield outpost
    finally:
        await outpost.outpost_close()
        for pid in keepers(run):
            os.kill(pid, signal.SIGKILL)
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before


def keepers(run: Path) -> list[int]:
    """Return the keepers that were started with a runtime folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            argv = (entry / "cmdline").read_bytes().split(b"\0")
            env = (entry / "environ").read_bytes().split(b"\0")
            if b"outpost_cloudrun.keeper.hold" in argv and (
                b"XDG_RUNTIME_DIR=" + str(run).encode() in env
            ):
                found.append(int(entry.name))
    return found


def order(issue: str) -> Order:
    """Return an order of a bare command."""
    return Order(
        issue=Issue(id=issue), agent=Agent(argv=("/bin/true",)), limits=Limits(timeout=600.0)
    )


# --- dispatch -----------------------------------------------------------------------------------


def dispatch_row(runs: int) -> Row:
    """Measure submit → accepted through a warm keeper, and the bare POST of the same orders."""

    async def measure_both(folder: Path, url: str) -> tuple[float, float]:
        ours, raw = [], []
        async with (
            outpost_at(url, folder) as outpost,
            httpx.AsyncClient(http1=False, http2=True, timeout=60) as client,
        ):
            await outpost.outpost_spawn(order=order("first"))
            for number in range(runs):
                one = order(f"ours-{number}")
                begun = time.perf_counter()
                await outpost.outpost_spawn(order=one)
                ours.append(time.perf_counter() - begun)
                raw.append(await bare_post(client, url, order(f"raw-{number}")))
                await asyncio.sleep(0.05)  # the worker before is done with the processor
        return statistics.median(ours), statistics.median(raw)

    with scratch() as folder, container(folder) as (url, _):
        ours, raw = asyncio.run(measure_both(folder, url))
    return Row(
        what="Cloud Run: warm dispatch, submit → accepted through the keeper",
        ours=ms(ours),
        against=f"a bare httpx POST → first line {ms(raw)}",
        ratio=ours / raw,
        goal="≤ 2 ×",
        met=ours <= 2 * raw,
    )


async def bare_post(client: httpx.AsyncClient, url: str, one: Order) -> float:
    """Return seconds until the first line of a worker that was posted with nothing around it."""
    body = {
        "issue_id": one.issue.id, "rig_url": None, "beads_url": None, "context": {},
        "order": wire.to_json(one), "secrets": {}, "digest": wire.digest(one),
    }  # fmt: skip
    begun = time.perf_counter()
    async with client.stream("POST", f"{url}/work", json=body) as answer:
        await anext(answer.aiter_lines())
        return time.perf_counter() - begun


# --- streams ------------------------------------------------------------------------------------


def keeper_row(streams: int, seconds: float) -> Row:
    """Measure a keeper that holds many streams, each with a line every two seconds."""

    async def hold(folder: Path, port: int) -> tuple[float, float, float]:
        async with outpost_at(f"http://127.0.0.1:{port}", folder) as outpost:
            begun = time.perf_counter()
            orders = [order(f"b-{number}") for number in range(streams)]
            for at in range(0, streams, 50):
                await asyncio.gather(
                    *(outpost.outpost_spawn(order=one) for one in orders[at : at + 50])
                )
            took = time.perf_counter() - begun
            (pid,) = keepers(folder / "run")
            before = processor(pid)
            await asyncio.sleep(seconds)
            used = (processor(pid) - before) / seconds
            told = [status.detail for status in await outpost.outpost_list()]
            if len(told) != streams:
                raise RuntimeError(f"{len(told)} of {streams} workers are held")
            return took, used, memory(pid)

    with scratch() as folder, talkers() as port:
        took, used, held = asyncio.run(hold(folder, port))
    return Row(
        what=f"Cloud Run: {streams} live streams on one keeper, a line each 2 s",
        ours=f"{held:.0f} MB, {100 * used:.0f} % of a core; begun in {took:.1f} s",
        goal="≤ 150 MB, ≤ 50 %",
        met=held <= 150 and used <= 0.5,
    )


def container_row(streams: int, lines: int) -> Row:
    """Measure the container's program with many streams on one connection, a line each 2 s."""
    told = f"i=0; while test $i -lt {lines}; do sleep 2; i=$((i+1)); date +%s.%N; done"
    late: list[float] = []

    async def follow(client: httpx.AsyncClient, path: str) -> None:
        async with client.stream("GET", path) as answer:
            async for line in answer.aiter_lines():
                said = json.loads(line)["logs"].split()
                late.extend(time.time() - float(moment) for moment in said)

    async def run(url: str) -> None:
        one = Order(issue=Issue(id="talks"), agent=Agent(argv=("/bin/sh", "-c", told)))
        patience = httpx.Timeout(60)
        async with httpx.AsyncClient(
            transport=H2Transport(), base_url=url, timeout=patience
        ) as client:
            await bare_post(client, url, one)
            await asyncio.gather(*(follow(client, "/work/talks.1") for _ in range(streams)))

    with scratch() as folder, container(folder) as (url, pid):
        begun, before = time.perf_counter(), processor(pid)
        asyncio.run(run(url))
        used = (processor(pid) - before) / (time.perf_counter() - begun)
        held = memory(pid)
    if len(late) != streams * lines:
        raise RuntimeError(f"{len(late)} lines came")
    median = statistics.median(late)
    return Row(
        what=f"Cloud Run: {streams} streams of the container's program, until a line is read",
        ours=f"{ms(median)}; {held:.0f} MB, {100 * used:.0f} % of a core",
        goal="≤ 500 ms, ≤ 100 MB",
        met=median <= 0.5 and held <= 100,
    )


def cut_row(streams: int, rounds: int) -> Row:
    """Measure until all streams are heard again after their connection was cut."""

    async def heard(outpost: CloudRunOutpost, wanted: str) -> None:
        while not (await outpost.outpost_ping()).detail.startswith(wanted):
            await asyncio.sleep(0.005)

    async def cut(folder: Path, line: Relay) -> float:
        times = []
        async with outpost_at(f"http://127.0.0.1:{line.port}", folder) as outpost:
            orders = [order(f"b-{number}") for number in range(streams)]
            await asyncio.gather(*(outpost.outpost_spawn(order=one) for one in orders))
            for _ in range(rounds):
                await heard(outpost, f"{streams} workers")
                passed = line.lines
                begun = time.perf_counter()
                await asyncio.to_thread(line.cut)
                while line.lines == passed:
                    await asyncio.sleep(0.001)
                await heard(outpost, f"{streams} workers")
                times.append(time.perf_counter() - begun)
        await asyncio.sleep(0.3)  # the relay sees that the keeper is gone
        return statistics.median(times)

    with scratch() as folder, talkers() as port, relay("127.0.0.1", port) as line:
        took = asyncio.run(cut(folder, line))
    return Row(
        what=f"Cloud Run: {streams} streams whose connection is cut, until all are heard again",
        ours=ms(took),
        goal="≤ 2 s",
        met=took <= 2,
    )


def processor(pid: int) -> float:
    """Return the seconds of processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """Return the memory of a process in MB."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1000


def transport_rows(streams: int, rounds: int) -> list[Row]:
    """Measure our HTTP/2 and httpx's own on the same server: many streams, and one large answer."""

    async def lines(client: httpx.AsyncClient, url: str) -> None:
        async with client.stream("GET", f"{url}/lines", timeout=None) as answer:
            count = 0
            async for _ in answer.aiter_lines():
                count += 1
            if count != 20:
                raise RuntimeError(f"{count} lines came")

    async def data(client: httpx.AsyncClient, url: str) -> None:
        async with client.stream("GET", f"{url}/data", timeout=None) as answer:
            async for _ in answer.aiter_raw():
                pass

    async def run(kind: str, port: int) -> tuple[float, float, float]:
        transport: dict[str, Any] = (
            {"transport": H2Transport()} if kind == "ours" else {"http1": False, "http2": True}
        )
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(**transport) as client:
            await lines(client, url)
            before = resource.getrusage(resource.RUSAGE_SELF)
            begun = time.perf_counter()
            await asyncio.gather(*(lines(client, url) for _ in range(streams)))
            took = time.perf_counter() - begun
            after = resource.getrusage(resource.RUSAGE_SELF)
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            begun = time.perf_counter()
            await data(client, url)
            return took, used, time.perf_counter() - begun

    best: dict[str, list[tuple[float, float, float]]] = {"ours": [], "httpx": []}
    with talkers() as port:
        for _ in range(rounds):
            for kind, figures in best.items():
                figures.append(asyncio.run(run(kind, port)))
    took, used, large = (
        {kind: min(one[at] for one in figures) for kind, figures in best.items()} for at in range(3)
    )
    size = 64 * 2**20 / 1e6
    return [
        Row(
            what=f"HTTP/2: {streams} streams of 20 lines at once, in 1 s at best",
            ours=f"{took['ours']:.2f} s",
            against=f"httpx's own {took['httpx']:.2f} s",
            ratio=took["ours"] / took["httpx"],
            goal="≤ 1 ×",
            met=took["ours"] <= took["httpx"],
        ),
        Row(
            what=f"HTTP/2: processor for those {streams} streams",
            ours=f"{used['ours']:.2f} s",
            against=f"httpx's own {used['httpx']:.2f} s",
            ratio=used["ours"] / used["httpx"],
            goal="≤ 1 ×",
            met=used["ours"] <= used["httpx"],
        ),
        Row(
            what="HTTP/2: an answer of 64 MiB",
            ours=f"{size / large['ours']:.0f} MB/s",
            against=f"httpx's own {size / large['httpx']:.0f} MB/s",
            ratio=large["ours"] / large["httpx"],
            goal="≤ 1 ×",
            met=large["ours"] <= large["httpx"],
        ),
    ]


def goaway_row(streams: int) -> Row:
    """Measure what a graceful restart of the front costs: streams lost, and the next request."""

    async def run(transport: httpx.AsyncBaseTransport, url: str, front: int) -> tuple[int, float]:
        async def hold() -> bool:
            try:
                async with client.stream("GET", f"{url}/lines", timeout=None) as answer:
                    begun.append(True)
                    return len([line async for line in answer.aiter_lines()]) == 20
            except httpx.TransportError:
                return False

        begun: list[bool] = []
        async with httpx.AsyncClient(transport=transport, timeout=30) as client:
            tasks = [asyncio.create_task(hold()) for _ in range(streams)]
            while len(begun) < streams:
                await asyncio.sleep(0.01)
            os.kill(front, signal.SIGHUP)
            await asyncio.sleep(0.3)  # the new process is there, and GOAWAY has come
            start = time.perf_counter()
            with contextlib.suppress(httpx.TransportError):
                async with client.stream("GET", f"{url}/lines") as answer:
                    await anext(answer.aiter_lines())
            took = time.perf_counter() - start
            return (await asyncio.gather(*tasks)).count(False), took

    with scratch() as folder, talkers() as port:
        make_certificate(folder)
        listen = free_port()
        command = [
            "nghttpx", "--conf=/dev/null", f"--frontend=127.0.0.1,{listen}",
            f"--backend=127.0.0.1,{port};;proto=h2", "--no-ocsp", "--log-level=FATAL",
            str(folder / "key"), str(folder / "crt"),
        ]  # fmt: skip
        url = f"https://127.0.0.1:{listen}"

        def trusting() -> ssl.SSLContext:
            return ssl.create_default_context(cafile=str(folder / "crt"))

        with process(listen, *command) as front:
            theirs, _ = asyncio.run(
                run(httpx.AsyncHTTPTransport(http2=True, verify=trusting()), url, front.pid)
            )
        with process(listen, *command) as front:
            ours, took = asyncio.run(run(H2Transport(tls=trusting), url, front.pid))
    return Row(
        what=f"HTTP/2: {streams} streams through a front that restarts gracefully",
        ours=f"{ours} lost; next request begins in {ms(took)}",
        against=f"httpx's own: {theirs} lost",
        goal="0 lost",
        met=ours == 0,
    )


def make_certificate(folder: Path) -> None:
    """Make a certificate for 127.0.0.1 in a folder."""
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-days", "2", "-subj", "/CN=front", "-addext", "subjectAltName=IP:127.0.0.1",
        "-keyout", str(folder / "key"), "-out", str(folder / "crt"),
    ]  # fmt: skip
    subprocess.run(command, check=True, **QUIET)


# --- money --------------------------------------------------------------------------------------


def price_row(runs: int) -> Row:
    """Measure how many orders can be priced in a second."""
    options = CloudRunOptions(
        project="my-project-1", region="us-central1", service="worker", auth=Auth.NONE
    )
    one = order("gt-1")
    price.worst_case(options, one)
    begun = time.perf_counter()
    for _ in range(runs):
        price.worst_case(options, one)
    rate = runs / (time.perf_counter() - begun)
    return Row(
        what="Cloud Run: orders priced",
        ours=f"{rate:,.0f} a second",
        goal="≥ 20,000",
        met=rate >= 20_000,
    )


def measure(
    *,
    runs: int = 30,
    streams: int = 500,
    seconds: float = 10.0,
    rounds: int = 2,
    prices: int = 20_000,
) -> list[Row]:
    """Measure everything; smaller numbers show only that it works."""
    return [
        dispatch_row(runs),
        keeper_row(streams, seconds),
        container_row(streams, 3),
        cut_row(streams // 5, rounds),
        *transport_rows(streams, rounds),
        goaway_row(20),
        price_row(prices),
    ]
