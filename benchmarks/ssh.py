"""An SSH outpost against a real sshd on this machine, beside what else one could do over SSH."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
from peers.relay import Relay, relay
from peers.sshd import Sshd, sshd

from benchmarks.harness import Row, ms
from outpost_core.backend import BuildContext
from outpost_core.types import Agent, Health, Issue, Limits, Order, State
from outpost_manager.manager import Manager
from outpost_ssh.options import SshOptions
from outpost_ssh.outpost import SshOutpost

LOCAL = "  - {name: local, type: local}\n"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder in memory where there is one: a virtual machine's disk varies tenfold."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def entry(server: Sshd, name: str = "vm") -> str:
    """Return the line of outposts.yaml for a server."""
    return (
        f"  - {{name: {name}, type: ssh, host: {server.host}, port: {server.port},"
        f" user: {server.user}, ssh_key: {server.key}, known_hosts: {server.known_hosts},"
        f" config: /dev/null, connect_timeout: 60s}}\n"
    )


def build(server: Sshd, folder: Path) -> SshOutpost:
    """Return an outpost without a manager."""
    options = SshOptions(
        host=server.host,
        port=server.port,
        user=server.user,
        ssh_key=server.key,
        known_hosts=server.known_hosts,
        config=Path("/dev/null"),
    )
    return SshOutpost("vm", options, BuildContext(state_dir=folder))


def openssh(server: Sshd, folder: Path) -> list[str]:
    """Return the OpenSSH client's command, with a connection that is kept open."""
    return [
        *("ssh", "-F", "none", "-i", str(server.key), "-p", str(server.port)),
        *("-o", f"UserKnownHostsFile={server.known_hosts}", "-o", "IdentitiesOnly=yes"),
        *("-o", f"ControlPath={folder / 'master'}", "-o", "ControlMaster=auto"),
        *("-o", "ControlPersist=60", f"{server.user}@{server.host}"),
    ]


@contextlib.contextmanager
def master(server: Sshd, folder: Path) -> Iterator[list[str]]:
    """Keep such a connection open."""
    command = openssh(server, folder)
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*command, "true"], check=True, **quiet)
    try:
        yield command
    finally:
        subprocess.run([*command, "-O", "exit"], check=False, **quiet)


def in_new_manager(
    folder: Path, outposts: str, work: Callable[[Manager], Awaitable[float]], state: str = "state"
) -> float:
    """Run something with a manager, as a program of its own would."""

    async def run() -> float:
        (folder / "outposts.yaml").write_text(f"outposts:\n{outposts}")
        manager = Manager.open(config=folder / "outposts.yaml", state=folder / state)
        async with manager:
            return await work(manager)

    return asyncio.run(run())


async def pinged(manager: Manager) -> float:
    """Return seconds until every outpost has answered."""
    begun = time.perf_counter()
    answers = await manager.ping()
    took = time.perf_counter() - begun
    if wrong := [a for a in answers.values() if not (isinstance(a, Health) and a.ok)]:
        raise RuntimeError(f"not every outpost is well: {wrong[0]}")
    return took


# --- workers ------------------------------------------------------------------------------------


def spawned(folder: Path, outposts: str, n: int) -> float:
    """Return seconds each from submit to outcome, of an outpost that has answered before."""

    async def work(manager: Manager) -> float:
        await pinged(manager)
        orders = [
            Order(issue=Issue(id=f"b-{i}"), agent=Agent(argv=("/bin/true",))) for i in range(n)
        ]
        begun = time.perf_counter()
        answers = await manager.spawn_many(orders)
        workers = await manager.wait([order.worker for order in orders])
        took = time.perf_counter() - begun
        wrong = [w for w in workers if w.state is not State.DONE]
        if wrong or any(isinstance(answer, Exception) for answer in answers):
            raise RuntimeError(f"not every worker was done: {[*wrong, *answers][0]}")
        return took / n

    return in_new_manager(folder, outposts, work)


def spawn_row(n: int, rounds: int) -> Row:
    """Measure both in turns, each time with a state of its own."""
    local, ours = [], []
    for _ in range(rounds):
        with scratch() as folder:
            local.append(spawned(folder, LOCAL, n))
        with scratch() as folder, sshd(folder / "sshd") as server:
            ours.append(spawned(folder, entry(server), n))
    ratio = min(ours) / min(local)
    return Row(
        what=f"SSH: bare command, submit → outcome each, N = {n}",
        ours=ms(min(ours)),
        against=f"local outpost {ms(min(local))}",
        ratio=ratio,
        goal="≤ 1.5 ×",
        met=ratio <= 1.5,
    )


# --- requests -----------------------------------------------------------------------------------


async def median(action: Callable[[], Awaitable[object]], runs: int) -> float:
    """Return the median time of something awaited."""
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        await action()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def round_trip_row(runs: int) -> Row:
    """Measure one request on the channel, and one command a call."""

    async def measure_all(server: Sshd, folder: Path, command: list[str]) -> tuple[float, ...]:
        outpost = build(server, folder / "near")
        try:
            await outpost.outpost_ping()
            ours = await median(outpost.outpost_ping, runs)
        finally:
            await outpost.outpost_close()
        async with asyncssh.connect(
            server.host, server.port, username=server.user, client_keys=[str(server.key)],
            known_hosts=str(server.known_hosts), config=None,
        ) as connection:  # fmt: skip
            each = await median(lambda: connection.run("true", check=True), max(runs // 5, 3))

        async def by_openssh() -> None:
            process = await asyncio.create_subprocess_exec(*command, "true")
            await process.wait()

        return ours, each, await median(by_openssh, max(runs // 5, 3))

    with scratch() as folder, sshd(folder / "sshd") as server, master(server, folder) as command:
        ours, each, openssh_each = asyncio.run(measure_all(server, folder, command))
    return Row(
        what="SSH: a round trip (ping)",
        ours=ms(ours),
        against=f"`conn.run` a call {ms(each)}; OpenSSH ControlMaster {ms(openssh_each)}",
        ratio=ours / each,
        goal="≤ 1 ×",
        met=ours <= each,
    )


def list_row(workers: int, runs: int) -> Row:
    """Measure a list of ended workers."""

    async def work(manager: Manager) -> float:
        orders = [
            Order(issue=Issue(id=f"b-{i}"), agent=Agent(argv=("/bin/true",)))
            for i in range(workers)
        ]
        await manager.spawn_many(orders)
        await manager.wait([order.worker for order in orders])
        outpost: Any = manager.fleet.outpost("vm")
        found = await outpost.outpost_list()
        if len(found) != workers:
            raise RuntimeError(f"{len(found)} of {workers} workers are listed")
        return await median(outpost.outpost_list, runs)

    with scratch() as folder, sshd(folder / "sshd") as server:
        took = in_new_manager(folder, entry(server), work)
    return Row(
        what=f"SSH: list of {workers:,} workers",
        ours=ms(took),
        goal="≤ 50 ms",
        met=took <= 0.05,
    )


# --- logs ---------------------------------------------------------------------------------------


def distant_log_row(size: int, latency: float) -> Row:
    """Measure a long log, and OpenSSH's `cat`, over a connection whose bytes are long under way."""

    async def read(server: Sshd, relay: Relay, folder: Path) -> float:
        options = dataclasses.replace(
            build(server, folder).options,
            host=relay.host, port=relay.port, host_key=server.host_key, keep=0.0,
        )  # fmt: skip
        outpost = SshOutpost("vm", options, BuildContext(state_dir=folder / "near"))
        script = f"head -c {size} /dev/urandom"
        order = Order(
            issue=Issue(id="big"),
            agent=Agent(argv=("/bin/sh", "-c", script)),
            limits=Limits(log_bytes=2 * size),
        )
        try:
            await outpost.outpost_spawn(order=order)
            while not (await outpost.outpost_list())[0].state.terminal:
                await asyncio.sleep(0.1)
            begun = time.perf_counter()
            total = 0
            async for chunk in outpost.outpost_logs(worker="big.1", offset=0, follow=False):
                total += len(chunk)
            if total != size:
                raise RuntimeError(f"{total} of {size} bytes arrived")
            return time.perf_counter() - begun
        finally:
            await outpost.outpost_close()

    with (
        scratch() as folder,
        sshd(folder / "sshd") as server,
        relay(server.host, server.port, latency=latency) as far,
    ):
        ours = asyncio.run(read(server, far, folder))
        log = next(path for path in folder.rglob("output.log") if path.stat().st_size == size)
        known = folder / "known_hosts"
        known.write_text(f"[{far.host}]:{far.port} {server.host_key}\n")
        command = [
            *("ssh", "-F", "none", "-i", str(server.key), "-p", str(far.port)),
            *("-o", f"UserKnownHostsFile={known}", "-o", "IdentitiesOnly=yes"),
            *("-o", f"ControlPath={folder / 'far'}", f"{server.user}@{far.host}"),
        ]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        keep = ("-o", "ControlMaster=yes", "-o", "ControlPersist=60")
        subprocess.run([*command, *keep, "true"], check=True, **quiet)
        begun = time.perf_counter()
        subprocess.run([*command, "cat", log], check=True, stdout=subprocess.DEVNULL)
        peer = time.perf_counter() - begun
        subprocess.run([*command, "-O", "exit"], check=False, **quiet)
    return Row(
        what=f"SSH: log throughput, {size // 2**20} MiB, {2000 * latency:.0f} ms away",
        ours=f"{size / ours / 1e6:.0f} MB/s",
        against=f"`ssh cat` {size / peer / 1e6:.0f} MB/s",
        ratio=ours / peer,
        goal="≤ 3 ×",
        met=ours <= 3 * peer,
    )


def log_rows(size: int, rounds: int) -> list[Row]:
    """Measure a long log over an own connection and over a kept one, and OpenSSH's `cat`."""

    async def make(manager: Manager) -> float:
        order = Order(
            issue=Issue(id="big"),
            agent=Agent(argv=("/bin/sh", "-c", f"head -c {size} /dev/urandom")),
            limits=Limits(log_bytes=2 * size),
        )
        await manager.spawn(order)
        await manager.wait(["big.1"])
        return await read(manager)

    async def read(manager: Manager) -> float:
        times = []
        for _ in range(rounds):
            begun = time.perf_counter()
            total = 0
            async for chunk in manager.logs("big.1"):
                total += len(chunk)
            times.append(time.perf_counter() - begun)
            if total != size:
                raise RuntimeError(f"{total} of {size} bytes arrived")
        return min(times)

    with scratch() as folder, sshd(folder / "sshd") as server:
        own = in_new_manager(folder, entry(server), make)
        kept = in_new_manager(folder, entry(server), read)
        log = next(path for path in folder.rglob("output.log") if path.stat().st_size == size)
        with master(server, folder) as command:
            peers = []
            for _ in range(rounds):
                begun = time.perf_counter()
                subprocess.run([*command, "cat", log], check=True, stdout=subprocess.DEVNULL)
                peers.append(time.perf_counter() - begun)
    return [
        Row(
            what=f"SSH: log throughput, {size // 2**20} MiB{which}",
            ours=f"{size / ours / 1e6:.0f} MB/s",
            against=f"`ssh cat` {size / min(peers) / 1e6:.0f} MB/s",
            ratio=ours / min(peers),
            goal="≤ 3 ×",
            met=ours <= 3 * min(peers),
        )
        for which, ours in (("", own), (", over a kept connection", kept))
    ]


# --- connections --------------------------------------------------------------------------------


def start_row(rounds: int) -> Row:
    """Measure the first answer of a host: that never saw us, and that has our package."""
    cold, warm = [], []
    for _ in range(rounds):
        with scratch() as folder, sshd(folder / "sshd") as server:
            cold.append(in_new_manager(folder, entry(server), pinged))
            warm.append(in_new_manager(folder, entry(server), pinged))
    return Row(
        what="SSH: connect and start the far server, installed there before",
        ours=ms(statistics.median(warm)),
        against=f"the very first time, with upload {ms(statistics.median(cold))}",
    )


def fleet_row(hosts: int) -> Row:
    """Measure one round of pings to many hosts: never seen, not connected, connected."""

    async def twice(manager: Manager) -> float:
        await pinged(manager)
        return await pinged(manager)

    with scratch() as folder, contextlib.ExitStack() as stack:
        names = [f"vm{i}" for i in range(1, hosts + 1)]
        servers = [
            stack.enter_context(sshd(folder / name, address=f"127.0.0.{i}"))
            for i, name in enumerate(names, 1)
        ]
        outposts = "".join(map(entry, servers, names))
        config = f"{outposts}defaults:\n  answer_timeout: 120s\n"
        first = in_new_manager(folder, config, pinged)
        cold = in_new_manager(folder, config, pinged)
        warm = in_new_manager(folder, config, twice)
    return Row(
        what=f"SSH: {hosts} hosts pinged in one round",
        ours=ms(warm),
        against=f"connect included {ms(cold)}; with upload {ms(first)}",
    )


def measure(
    *,
    spawns: int = 100,
    workers: int = 1000,
    log: int = 64 * 2**20,
    hosts: int = 20,
    rounds: int = 3,
    runs: int = 200,
) -> list[Row]:
    """Measure everything; smaller numbers show only that it works."""
    return [
        spawn_row(spawns, rounds),
        round_trip_row(runs),
        list_row(workers, max(runs // 10, 3)),
        *log_rows(log, rounds),
        distant_log_row(log, 0.04),
        start_row(rounds),
        fleet_row(hosts),
    ]
