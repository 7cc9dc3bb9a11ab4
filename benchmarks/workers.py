"""(b) and (c): submit → outcome, without and with a repository."""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import Row, ms
from outpost_core.types import Agent, Delivery, Issue, Limits, Order, State
from outpost_manager.manager import Manager

GIT_ENV = {
    "GIT_AUTHOR_NAME": "bench", "GIT_AUTHOR_EMAIL": "bench@example.com",
    "GIT_COMMITTER_NAME": "bench", "GIT_COMMITTER_EMAIL": "bench@example.com",
}  # fmt: skip


def raw_tmux(n: int) -> float:
    """Return seconds each for a loop of `tmux new-session` with a log and an exit file."""
    folder = Path(tempfile.mkdtemp())
    socket = f"bench-{uuid.uuid4().hex[:8]}"
    tmux = ["tmux", "-L", socket, "-f", "/dev/null"]
    subprocess.run([*tmux, "new-session", "-d", "-s", "anchor", "sleep 600"], check=True)
    try:
        begun = time.perf_counter()
        for i in range(n):
            line = f"/bin/true > {folder}/{i}.log 2>&1; echo $? > {folder}/{i}.exit"
            subprocess.run([*tmux, "new-session", "-d", "-s", f"w{i}", line], check=True)
        while sum(name.endswith(".exit") for name in os.listdir(folder)) < n:
            time.sleep(0.005)
        return (time.perf_counter() - begun) / n
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)
        remove_later(folder)


def psij(n: int) -> float:
    """Return seconds each for PSI/J's local executor, or raise ImportError."""
    from psij import Job, JobExecutor, JobSpec

    executor = JobExecutor.get_instance("local")
    begun = time.perf_counter()
    jobs = [Job(JobSpec(executable="/bin/true")) for _ in range(n)]
    for job in jobs:
        executor.submit(job)
    for job in jobs:
        job.wait()
    return (time.perf_counter() - begun) / n


def outposts(n: int, rig: Path | None = None, fence: str = "auto") -> float:
    """Return seconds each for the whole way: policy, ledger, supervisor, agent, result."""
    folder = Path(tempfile.mkdtemp())
    orders = [order(f"b-{i}", rig) for i in range(n)]

    async def run() -> float:
        (folder / "outposts.yaml").write_text(
            f"outposts:\n  - {{name: local, type: local, fence: '{fence}'}}\n"
        )
        manager = Manager.open(config=folder / "outposts.yaml", state=folder / "state")
        async with manager:
            begun = time.perf_counter()
            answers = await manager.spawn_many(orders)
            workers = await manager.wait([o.worker for o in orders])
            took = time.perf_counter() - begun
        wrong = [w for w in workers if w.state is not State.DONE] + [
            a for a in answers if isinstance(a, Exception)
        ]
        if wrong:
            raise RuntimeError(f"not every worker was done: {wrong[0]}")
        return took

    try:
        return asyncio.run(run()) / n
    finally:
        if rig is None:
            remove_later(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def remove_later(folder: Path) -> None:
    """Remove a folder when all is measured: for seconds after thousands of files went away, ext4
    takes several times as long to make a new one, whoever is measured then.
    """
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def order(issue: str, rig: Path | None) -> Order:
    """Return the order of one benchmark worker."""
    if rig is None:
        return Order(issue=Issue(id=issue), agent=Agent(argv=("/bin/true",)))
    return Order(
        issue=Issue(id=issue),
        agent=Agent(argv=("/bin/sh", "-c", f"echo {issue} > new-{issue}")),
        rig=str(rig),
        delivery=Delivery(
            branch=f"polecat/{issue}", message=issue, author_name="b", author_email="b@example.com"
        ),
        limits=Limits(checkpoint_every=0),
    )


def make_rig(files: int) -> Path:
    """Return a bare repository with so many files."""
    folder = Path(tempfile.mkdtemp())
    seed = folder / "seed"
    seed.mkdir()
    for i in range(files):
        (seed / f"d{i % 20}").mkdir(exist_ok=True)
        (seed / f"d{i % 20}" / f"f{i}").write_text(f"{i}\n" * 20)
    environ = {**os.environ, **GIT_ENV}
    for words in (
        ["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "seed"],
    ):  # fmt: skip
        subprocess.run(["git", "-C", str(seed), *words], check=True, env=environ)
    rig = folder / "rig.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(seed), str(rig)], check=True)
    return rig


def raw_git(n: int, rig: Path) -> float:
    """Return seconds each for `git worktree add`, commit and push, one after the other."""
    folder = Path(tempfile.mkdtemp())
    environ = {**os.environ, **GIT_ENV}
    clone = folder / "clone.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(rig), str(clone)], check=True)
    try:
        begun = time.perf_counter()
        for i in range(n):
            tree = folder / f"w{i}"
            subprocess.run(
                ["git", "-C", str(clone), "worktree", "add", "-q", "-b", f"raw/{i}", tree, "main"],
                check=True, env=environ,
            )  # fmt: skip
            subprocess.run(["/bin/sh", "-c", f"echo {i} > new-{i}"], check=True, cwd=tree)
            for words in (
                ["add", "-A"],
                ["commit", "-qm", "x"],
                ["push", "-q", "origin", f"raw/{i}"],
            ):
                subprocess.run(["git", "-C", str(tree), *words], check=True, env=environ)
        return (time.perf_counter() - begun) / n
    finally:
        shutil.rmtree(folder)


def measure(sizes: tuple[int, ...] = (1, 10, 100, 300), repository_workers: int = 30) -> list[Row]:
    """Measure both, with the raw loop and PSI/J in the same run."""
    rows = []
    outposts(3)  # warm: byte code, page cache
    for n in sizes:
        # one after the other, so that a busy moment meets all three
        rounds = [(raw_tmux(n), outposts(n), psij(n)) for _ in range(5 if n < 100 else 3)]
        raw, ours, peer = (min(times) for times in zip(*rounds, strict=True))
        rows.append(
            Row(
                what=f"bare command, submit → outcome each, N = {n}",
                ours=ms(ours),
                against=f"raw tmux loop {ms(raw)}; PSI/J 0.9.11 {ms(peer)} ({ours / peer:.2f} ×)",
                ratio=ours / raw,
                goal="≤ 1.5 ×, and quicker than PSI/J" if n == max(sizes) else "",
                met=ours / raw <= 1.5 and ours < peer if n == max(sizes) else None,
            )
        )
    rows.append(in_memory(lambda: repository(repository_workers)))
    return rows


def in_memory(measurement: Callable[[], Row]) -> Row:
    """Measure on tmpfs where there is one: a disk of a virtual machine varies tenfold, and most of
    this work is writing files.
    """
    memory = Path("/dev/shm")
    before = tempfile.tempdir
    tempfile.tempdir = str(memory) if os.access(memory, os.W_OK) else before
    try:
        return measurement()
    finally:
        tempfile.tempdir = before


def repository(n: int) -> Row:
    """Measure (c), the better of three rounds for both, each with a rig of its own."""

    def once(measurement: Callable[[int, Path], float]) -> float:
        rig = make_rig(1000)
        try:
            return measurement(n, rig)
        finally:
            shutil.rmtree(rig.parent)

    rounds = [(once(raw_git), once(outposts)) for _ in range(3)]
    raw, ours = (min(times) for times in zip(*rounds, strict=True))
    return Row(
        what=f"repository of 1,000 files on tmpfs, pushed and seen, each, N = {n}",
        ours=ms(ours),
        against=f"git worktree add + commit + push {ms(raw)}",
        ratio=ours / raw,
        goal="≤ 1.2 ×",
        met=ours / raw <= 1.2,
    )
