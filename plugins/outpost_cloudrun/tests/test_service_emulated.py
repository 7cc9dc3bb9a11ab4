"""Mode service through the emulator: several containers, a front that picks one, and faults."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from emulkit import IMAGE, deploy, service
from farkit import order
from peers.githttp import GitHttp, serving
from rigs import commits, make_rig

from outpost_cloudrun.keeper.held import Held
from outpost_cloudrun.keeper.service import ServiceCourse
from outpost_cloudrun.keeper.site import Site
from outpost_cloudrun.keeper.terms import Patience
from outpost_cloudrun.options import Auth, CloudRunOptions
from outpost_cloudrun.testing.emulator import Emulator, emulating
from outpost_core.backend import BuildContext
from outpost_core.errors import SpawnRefusedError, UnreachableError
from outpost_core.names import checkpoint_ref
from outpost_core.types import Order, Result, Secrets, State

PATIENCE = Patience(silent=45, busy=3, doubt=30, lease=4, gone=3, rescue=10, short=0)
#: Works in two halves, and continues with the second where the first is there.
_TWO = (
    'echo run >>"$RUNS"; if [ -e one ]; then echo second; echo 2 >two; exit; fi;'
    " echo 1 >one; echo first; sleep 300"
)


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with emulating(tmp_path / "google", tokens=False, queue=1.0) as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def git(tmp_path: Path) -> Iterator[GitHttp]:
    with serving(tmp_path / "rigs") as made:
        make_rig(made, tmp_path)
        yield made


class Held1:
    """A keeper inside of the test, which is less patient than that of commands."""

    def __init__(self, google: Emulator, folder: Path, **more: Any) -> None:
        self.options = CloudRunOptions(
            project="proj-1", region="us-central1", service="w", endpoint=google.admin,
            auth=Auth.NONE, **{"concurrency": 1, "warm_for": 0.0, **more},
        )  # type: ignore[arg-type]  # fmt: skip
        self.context = BuildContext(state_dir=folder / "state" / "burst")

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Held]:
        held = Held("burst", self.options, self.context)
        held._courses[Site.of(self.options)] = ServiceCourse(
            "burst", self.options, self.context, PATIENCE
        )
        await held.adopt()
        try:
            yield held
        finally:
            await held.aclose()

    def run(self, work: Callable[[Held], Awaitable[Any]]) -> Any:
        async def all_of_it() -> Any:
            async with self.open() as held:
                return await asyncio.wait_for(work(held), 240)

        return asyncio.run(all_of_it())


async def ended(held: Held, worker: str) -> Result:
    while True:
        with contextlib.suppress(UnreachableError):  # its container is gone, and that was just seen
            found = {one.id: one for one in await held.outpost_list()}
            result = found[worker].result
            if result is not None:
                return result
        await asyncio.sleep(0.1)


async def printed(held: Held, worker: str, words: bytes) -> None:
    async with contextlib.aclosing(held.outpost_logs(worker, 0, True)) as pieces:  # type: ignore[type-var]
        got = b""
        async for piece in pieces:
            got += piece
            if words in got:
                return
    raise AssertionError(f"it printed {got!r}")


def work_on(git: GitHttp, folder: Path, script: str, issue: str = "gt-1", **more: Any) -> Order:
    more.setdefault("checkpoint_every", 0.5)
    return order(issue, script, f"{git.url}/app", env={"RUNS": str(folder / "runs")}, **more)


def runs(folder: Path) -> int:
    path = folder / "runs"
    return path.read_text().count("run") if path.exists() else 0


def test_a_cold_service_wakes_and_delivers(google: Emulator, git: GitHttp, tmp_path: Path) -> None:
    deploy(google, service("w", image=IMAGE, most=3, concurrency=1))
    one = work_on(git, tmp_path, 'echo run >>"$RUNS"; echo hello; echo text >new.txt')

    async def work(held: Held) -> Result:
        await held.outpost_spawn(one)
        return await ended(held, one.worker)

    result = Held1(google, tmp_path).run(work)
    assert (result.state, result.branch) == (State.DONE, "outpost/gt-1"), result
    assert commits(git)["refs/heads/outpost/gt-1"] == result.commit
    assert runs(tmp_path) == 1
    assert result.cost_usd is not None
    assert 0 < result.cost_usd < 0.01


def test_a_post_that_reaches_two_containers_runs_once(
    google: Emulator, git: GitHttp, tmp_path: Path
) -> None:
    deploy(google, service("w", image=IMAGE, most=3, concurrency=1))
    google.knobs.duplicates = 1
    google.knobs.affinity = 0.5
    one = work_on(git, tmp_path, 'echo run >>"$RUNS"; sleep 3; echo text >new.txt')

    async def work(held: Held) -> Result:
        await held.outpost_spawn(one)
        return await ended(held, one.worker)

    result = Held1(google, tmp_path).run(work)
    assert result.state is State.DONE, result
    assert runs(tmp_path) == 1


def test_a_request_that_times_out_is_renewed_at_the_same_container(
    google: Emulator, git: GitHttp, tmp_path: Path
) -> None:
    deploy(google, service("w", image=IMAGE, most=2, concurrency=10, seconds=10))
    script = 'echo run >>"$RUNS"; for i in $(seq 1 24); do echo n $i; sleep 1; done'
    one = work_on(git, tmp_path, script)

    async def work(held: Held) -> tuple[Result, bytes]:
        await held.outpost_spawn(one)
        result = await ended(held, one.worker)
        pieces = [piece async for piece in held.outpost_logs(one.worker, 0, False)]
        return result, b"".join(pieces)

    more = {"request_timeout": 10.0, "billing": "instance", "concurrency": 10}
    result, log = Held1(google, tmp_path, **more).run(work)
    assert result.state is State.DONE, result
    assert log == "".join(f"n {i}\n" for i in range(1, 25)).encode()
    assert runs(tmp_path) == 1


def test_nothing_free_is_a_refusal_at_last(google: Emulator, git: GitHttp, tmp_path: Path) -> None:
    deploy(google, service("w", image=IMAGE))
    google.knobs.no_capacity = True
    one = work_on(git, tmp_path, "true")
    with pytest.raises(SpawnRefusedError, match="no container is free"):
        Held1(google, tmp_path).run(lambda held: held.outpost_spawn(one))


def test_a_killed_container_is_continued_from_its_checkpoint(
    google: Emulator, git: GitHttp, tmp_path: Path
) -> None:
    deploy(google, service("w", image=IMAGE, most=3, concurrency=1))
    one = work_on(git, tmp_path, _TWO, timeout=600.0, secrets=Secrets({"KEY": "canary"}))

    async def work(held: Held) -> tuple[Result, bytes]:
        await held.outpost_spawn(one)
        await printed(held, one.worker, b"first")
        end = time.monotonic() + 60
        while checkpoint_ref(one.worker, one.owner) not in commits(git):
            assert time.monotonic() < end
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        await asyncio.to_thread(google.kill_instance, "w")
        result = await ended(held, one.worker)
        pieces = [piece async for piece in held.outpost_logs(one.worker, 0, False)]
        return result, b"".join(pieces)

    result, log = Held1(google, tmp_path, resume=True).run(work)
    assert result.state is State.DONE, result
    assert "continued once from its checkpoint" in result.message
    assert b"first" in log
    assert log.endswith(b"second\n")
    assert runs(tmp_path) == 2
    kept = b"".join(p.read_bytes() for p in (tmp_path / "state").rglob("*") if p.is_file())
    assert b"canary" not in kept, "the values of secrets are gone with the end"


def test_a_killed_container_without_resume_is_a_lost_worker_with_its_checkpoint(
    google: Emulator, git: GitHttp, tmp_path: Path
) -> None:
    deploy(google, service("w", image=IMAGE, most=3, concurrency=1))
    one = work_on(git, tmp_path, _TWO)

    async def work(held: Held) -> Result:
        await held.outpost_spawn(one)
        await printed(held, one.worker, b"first")
        await asyncio.sleep(2)
        await asyncio.to_thread(google.kill_instance, "w")
        return await ended(held, one.worker)

    result = Held1(google, tmp_path).run(work)
    assert (result.state, result.reason) == (State.LOST, "lost_process"), result
    assert result.checkpoint == "refs/outpost/gt-1.1"
    assert runs(tmp_path) == 1


def test_a_container_that_is_taken_away_moves_its_work(
    google: Emulator, git: GitHttp, tmp_path: Path
) -> None:
    """SIGTERM: what was done is pushed, and another container continues at once."""
    deploy(google, service("w", image=IMAGE, most=3, concurrency=1))
    one = work_on(git, tmp_path, _TWO, timeout=600.0, checkpoint_every=0.0)

    async def work(held: Held) -> Result:
        await held.outpost_spawn(one)
        await printed(held, one.worker, b"first")
        await asyncio.to_thread(google.end_instance, "w")
        return await ended(held, one.worker)

    result = Held1(google, tmp_path, resume=True).run(work)
    assert result.state is State.DONE, result
    assert "continued once" in result.message
    assert runs(tmp_path) == 2


def test_without_resume_a_container_that_is_taken_away_ends_its_worker(
    google: Emulator, git: GitHttp, tmp_path: Path
) -> None:
    deploy(google, service("w", image=IMAGE, most=3, concurrency=1))
    one = work_on(git, tmp_path, _TWO, checkpoint_every=0.0)

    async def work(held: Held) -> Result:
        await held.outpost_spawn(one)
        await printed(held, one.worker, b"first")
        await asyncio.to_thread(google.end_instance, "w")
        return await ended(held, one.worker)

    result = Held1(google, tmp_path).run(work)
    assert (result.state, result.reason) == (State.STOPPED, "terminated"), result
    assert result.checkpoint == "refs/outpost/gt-1.1"
    assert result.checkpoint in commits(git)
    assert runs(tmp_path) == 1


@pytest.mark.parametrize("hard", [False, True])
def test_a_front_that_is_restarted_loses_nothing(
    google: Emulator, git: GitHttp, tmp_path: Path, hard: bool
) -> None:
    deploy(google, service("w", image=IMAGE, most=2, concurrency=10))
    script = 'echo run >>"$RUNS"; for i in $(seq 1 40); do echo n $i; sleep 0.1; done'
    one = work_on(git, tmp_path, script)

    async def work(held: Held) -> tuple[Result, bytes]:
        await held.outpost_spawn(one)
        await printed(held, one.worker, b"n 5")
        await asyncio.to_thread(google.restart_front, "w", hard=hard, away=0.5)
        result = await ended(held, one.worker)
        return result, b"".join([piece async for piece in held.outpost_logs(one.worker, 0, False)])

    result, log = Held1(google, tmp_path, concurrency=10, billing="instance").run(work)
    assert result.state is State.DONE, result
    assert log == "".join(f"n {i}\n" for i in range(1, 41)).encode()
    assert runs(tmp_path) == 1


def test_a_container_is_kept_warm_for_a_while(
    google: Emulator, git: GitHttp, tmp_path: Path
) -> None:
    deploy(google, service("w", image=IMAGE, most=2, concurrency=1))
    one = work_on(git, tmp_path, "true")

    async def work(held: Held) -> list[int]:
        await held.outpost_spawn(one)
        await ended(held, one.worker)
        under_way = []
        for _ in range(60):
            under_way.append(sum(google.instances("w").values()))
            await asyncio.sleep(0.1)
        return under_way

    under_way = Held1(google, tmp_path, keep_warm="stream", warm_for=3.0).run(work)
    assert under_way.count(1) >= 15, "a request is held"
    assert under_way[-1] == 0, "and not for ever"


def test_git_logs_in_with_what_the_users_command_prints(google: Emulator, tmp_path: Path) -> None:
    deploy(google, service("w", image=IMAGE, most=2, concurrency=1))
    with serving(tmp_path / "locked", "x-access-token", "canary-9f2c") as locked:
        make_rig(locked, tmp_path)
        one = work_on(locked, tmp_path, "env; echo text >new.txt")
        command = ("sh", "-c", "echo $OUTPOST_RIG >asked; echo canary-9f2c")

        async def work(held: Held) -> tuple[Result, bytes]:
            await held.outpost_spawn(one)
            result = await ended(held, one.worker)
            pieces = [piece async for piece in held.outpost_logs(one.worker, 0, False)]
            return result, b"".join(pieces)

        held = Held1(google, tmp_path, git_credentials=command)
        held.context = BuildContext(state_dir=held.context.state_dir, config_dir=tmp_path)
        result, log = held.run(work)
        assert (result.state, result.branch) == (State.DONE, "outpost/gt-1"), result
        assert (tmp_path / "asked").read_text() == f"{locked.url}/app\n"
    assert b"canary" not in log
    for path in (tmp_path / "state").rglob("*"):
        assert not path.is_file() or b"canary" not in path.read_bytes()


def test_credentials_that_cannot_be_had_are_a_refusal(
    google: Emulator, git: GitHttp, tmp_path: Path
) -> None:
    deploy(google, service("w", image=IMAGE))
    one = work_on(git, tmp_path, "true")
    for command in (("sh", "-c", "echo no key >&2; exit 3"), ("/nonexistent/command",), ("true",)):
        held = Held1(google, tmp_path, git_credentials=command)
        with pytest.raises(SpawnRefusedError, match="git_credentials"):
            held.run(lambda held: held.outpost_spawn(one))


def test_a_worker_over_its_time_is_let_go(
    google: Emulator, git: GitHttp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reserved money for more of it, whatever its container says."""
    deploy(google, service("w", image=IMAGE, most=2, concurrency=10))
    one = work_on(git, tmp_path, "trap '' TERM; sleep 300")
    monkeypatch.setattr("outpost_cloudrun.price.longest", lambda *_: 3.0)

    async def work(held: Held) -> Result:
        await held.outpost_spawn(one)
        return await ended(held, one.worker)

    result = Held1(google, tmp_path, concurrency=10).run(work)
    assert result.state is State.STOPPED, result


def test_a_stop_that_reaches_another_container_ends_it_all_the_same(
    google: Emulator, git: GitHttp, tmp_path: Path
) -> None:
    deploy(google, service("w", image=IMAGE, most=3, least=2, concurrency=10))
    google.knobs.affinity = 0.0
    one = work_on(git, tmp_path, 'echo run >>"$RUNS"; echo up; sleep 300')

    async def work(held: Held) -> Result:
        await held.outpost_spawn(one)
        await printed(held, one.worker, b"up")
        await held.outpost_stop(one.worker, 1.0)
        return await ended(held, one.worker)

    result = Held1(google, tmp_path, concurrency=10).run(work)
    assert result.state is State.STOPPED, result


def test_a_cleaned_worker_leaves_nothing_on_the_rig(
    google: Emulator, git: GitHttp, tmp_path: Path
) -> None:
    deploy(google, service("w", image=IMAGE, most=2, concurrency=1))
    one = work_on(git, tmp_path, "echo text >new.txt")

    async def work(held: Held) -> Any:
        await held.outpost_spawn(one)
        await ended(held, one.worker)
        cleaned = await held.outpost_clean(one.worker, False)
        return cleaned, await held.outpost_list()

    cleaned, left = Held1(google, tmp_path).run(work)
    assert cleaned.removed, cleaned
    assert left == []
    assert {ref for ref in commits(git) if not ref.startswith("refs/heads/")} <= {"HEAD"}
