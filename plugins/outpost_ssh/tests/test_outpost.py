"""The SSH outpost against a real sshd: each verb, and what goes wrong between two machines."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from peers.sshd import Sshd, sshd

from outpost_core.backend import BuildContext
from outpost_core.errors import (
    ConflictError,
    NotFoundError,
    SpawnRefusedError,
    UnreachableError,
    UsageError,
)
from outpost_core.types import Agent, Delivery, Issue, Limits, Order, Secrets, State, WorkerStatus
from outpost_ssh import outpost as module
from outpost_ssh.options import SshOptions
from outpost_ssh.outpost import SshOutpost
from outpost_testing import waiting
from outpost_testing.processes import ArgumentsWatch, mentioning, outliving
from outpost_worker.system import sockets

DEADLINE = 30.0


class Host:
    """A far machine of its own, as far as Outpost can see: an sshd and a home."""

    def __init__(self, server: Sshd, near: Path) -> None:
        self.server = server
        self.near = near
        self.made: list[SshOutpost] = []

    @property
    def home(self) -> Path:
        return self.server.home

    @property
    def root(self) -> Path:
        return self.home / ".local/state/outpost/far"

    def options(self, **more: Any) -> SshOptions:
        values = {
            "host": self.server.host, "port": self.server.port, "user": self.server.user,
            "ssh_key": self.server.key, "known_hosts": self.server.known_hosts,
            "python": sys.executable, "config": Path(os.devnull), **more,
        }  # fmt: skip
        return SshOptions(**values)

    def make(self, name: str = "vm1", state: str = "state", **more: Any) -> SshOutpost:
        context = BuildContext(state_dir=self.near / state / "outposts" / name)
        self.made.append(SshOutpost(name, self.options(**more), context))
        return self.made[-1]

    def run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Run a test's coroutine, and end every worker and outpost that it made."""

        async def all_of_it() -> Any:
            try:
                async with asyncio.timeout(DEADLINE * 2):
                    return await work()
            finally:
                if self.server.pid is None:
                    self.server.start()
                last = self.make()
                for status in await last.outpost_list():
                    if not status.state.terminal:
                        await last.outpost_stop(status.id, 0.0)
                await waiting.ended(last, seconds=DEADLINE)
                for made in self.made:
                    await made.outpost_close()

        return asyncio.run(all_of_it())

    async def end(self, outpost: SshOutpost, worker: str) -> WorkerStatus:
        return (await waiting.ended(outpost, worker, seconds=DEADLINE))[worker]


def order(script: str = "exit 0", issue: str = "gt-1", **more: Any) -> Order:
    more.setdefault("limits", Limits(grace=0.5))
    interactive = more.pop("interactive", False)
    agent = Agent(argv=("/bin/sh", "-c", script), interactive=interactive)
    return Order(issue=Issue(id=issue), agent=agent, **more)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the far package is installed, once for all these tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def host(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(module, "_fault_told", False)
    with sshd(tmp_path / "sshd", env={"XDG_CACHE_HOME": str(cache)}) as server:
        made = Host(server, tmp_path / "near")
        yield made
    Path(sockets.path(str(made.root))).unlink(missing_ok=True)  # tmux leaves it
    assert not outliving(tmp_path)


# --- the verbs ------------------------------------------------------------------------------------


def test_a_worker_runs_there_and_its_end_is_told(host: Host) -> None:
    async def work() -> None:
        outpost = host.make()
        status = await outpost.outpost_spawn(order("echo $HOME; exit 7"))
        assert status.id == "gt-1.1"
        ended = await host.end(outpost, "gt-1.1")
        assert ended.result is not None
        assert (ended.state, ended.result.exit_code) == (State.FAILED, 7)
        log = b"".join([chunk async for chunk in outpost.outpost_logs("gt-1.1", 0, follow=False)])
        assert log.decode() == f"{host.home}\n"

    host.run(work)


def test_ping_says_what_is_there(host: Host) -> None:
    async def work() -> None:
        health = await host.make().outpost_ping()
        assert health.ok
        assert health.detail.startswith("tmux ")
        assert "Python 3." in health.detail
        assert health.free_memory

    host.run(work)


def test_ping_of_a_host_that_is_down_is_unreachable_and_recovers(host: Host) -> None:
    async def work() -> None:
        outpost = host.make()
        await outpost.outpost_ping()
        host.server.kill()
        for _ in range(2):
            with pytest.raises(UnreachableError) as caught:
                await outpost.outpost_ping()
            assert str(host.server.port) in caught.value.message
        host.server.start()
        assert (await outpost.outpost_ping()).ok

    host.run(work)


def test_stop_ends_and_clean_removes(host: Host) -> None:
    async def work() -> None:
        outpost = host.make()
        await outpost.outpost_spawn(order("sleep 60"))
        assert not (await outpost.outpost_clean("gt-1.1", force=False)).removed
        await outpost.outpost_stop("gt-1.1", 0.5)
        assert (await host.end(outpost, "gt-1.1")).state is State.STOPPED
        assert (await outpost.outpost_clean("gt-1.1", force=False)).removed
        assert not await outpost.outpost_list()
        assert not (host.root / "workers/gt-1.1").exists()

    host.run(work)


def test_an_interactive_worker_is_nudged_and_peeked_at(host: Host) -> None:
    async def work() -> None:
        outpost = host.make()
        script = "echo ready; read line; echo got $line; read line"
        await outpost.outpost_spawn(order(script, interactive=True))

        async def screen(text: str) -> None:
            deadline = time.monotonic() + DEADLINE
            while text not in (said := await outpost.outpost_peek("gt-1.1", 20)):
                assert time.monotonic() < deadline, said
                await asyncio.sleep(0.02)

        await screen("ready")
        await outpost.outpost_nudge("gt-1.1", "hello")
        await screen("got hello")
        argv = await outpost.viewer("gt-1.1")
        assert "attach-session" in argv
        await outpost.outpost_nudge("gt-1.1", "bye")
        assert (await host.end(outpost, "gt-1.1")).state is State.DONE

    host.run(work)


def test_an_unknown_worker_is_told_as_such(host: Host) -> None:
    async def work() -> None:
        outpost = host.make()
        with pytest.raises(NotFoundError, match=r"gt-9\.1 is not a worker of vm1"):
            await outpost.outpost_peek("gt-9.1", 5)
        await outpost.outpost_stop("gt-9.1", 0.0)

    host.run(work)


def test_doctor_looks_at_the_far_machine(host: Host) -> None:
    async def work() -> None:
        findings = await host.make().outpost_doctor(rig=None)
        assert {"tmux", "git"} <= {finding.check for finding in findings}

    host.run(work)


def test_floors_are_those_of_the_far_machine(host: Host) -> None:
    async def work() -> None:
        outpost = host.make(memory_floor=1 << 60)
        with pytest.raises(SpawnRefusedError, match="memory is available"):
            await outpost.outpost_spawn(order())
        assert not (await outpost.outpost_ping()).ok

    host.run(work)


# --- one worker, whatever happens -----------------------------------------------------------------


def test_spawned_twice_it_is_one_worker(host: Host) -> None:
    async def work() -> None:
        outpost, mine = host.make(), order("echo run")
        first, second = await asyncio.gather(*(outpost.outpost_spawn(mine) for _ in range(2)))
        assert first.digest == second.digest
        await host.end(outpost, "gt-1.1")
        again = await outpost.outpost_spawn(mine)
        assert again.result is not None
        assert (host.root / "workers/gt-1.1/output.log").read_text() == "run\n"
        with pytest.raises(ConflictError):
            await outpost.outpost_spawn(order("echo another"))

    host.run(work)


@pytest.mark.parametrize("point", ["local.staged", "local.published", "local.launched"])
def test_a_spawn_whose_answer_is_lost_is_adopted(
    host: Host, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTPOST_FAULT", point)

    async def work() -> None:
        outpost = host.make()
        status = await outpost.outpost_spawn(order("echo run"))
        assert status.id == "gt-1.1"
        assert (await host.end(outpost, "gt-1.1")).state is State.DONE
        assert (host.root / "workers/gt-1.1/output.log").read_text() == "run\n"

    host.run(work)
    assert module._fault_told


def test_a_far_server_that_is_killed_is_started_again(host: Host) -> None:
    async def work() -> None:
        outpost = host.make()
        await outpost.outpost_spawn(order("sleep 60"))
        (server,) = far_servers(host)
        os.kill(server, signal.SIGKILL)
        (status,) = await outpost.outpost_list()
        assert not status.state.terminal
        assert far_servers(host) != [server]

    host.run(work)


def far_servers(host: Host) -> list[int]:
    here = mentioning(f"HOME={host.home}")
    return [pid for pid, line in here.items() if "outpost_ssh/far/boot.py" in line]


def test_two_controllers_that_spawn_the_same_order_run_it_once(host: Host) -> None:
    async def work() -> None:
        one, two = host.make("vm1", "one"), host.make("big-box", "two")
        mine = order("echo run; sleep 0.2")
        await asyncio.gather(one.outpost_spawn(mine), two.outpost_spawn(mine))
        assert (await host.end(two, "gt-1.1")).state is State.DONE
        assert (host.root / "workers/gt-1.1/output.log").read_text() == "run\n"
        assert [status.id for status in await one.outpost_list()] == ["gt-1.1"]

    host.run(work)


@pytest.mark.parametrize("mode", ["tmux", "process"])
def test_workers_outlive_the_end_of_every_session(host: Host, mode: str) -> None:
    from outpost_local.options import Mode

    async def work() -> None:
        outpost = host.make(mode=Mode(mode))
        await outpost.outpost_spawn(
            order(f"echo one; while [ ! -e {host.home}/go ]; do sleep 0.05; done")
        )
        host.server.restart()
        (status,) = await outpost.outpost_list()
        assert not status.state.terminal
        (host.home / "go").touch()
        assert (await host.end(outpost, "gt-1.1")).state is State.DONE

    host.run(work)


def test_a_log_goes_on_across_a_broken_line(host: Host) -> None:
    async def work() -> None:
        outpost = host.make()
        script = "n=0; while [ $n -lt 300 ]; do echo line $n; n=$((n+1)); sleep 0.005; done"
        await outpost.outpost_spawn(order(script))
        got = b""
        dropped = 0
        async for chunk in outpost.outpost_logs("gt-1.1", 0, follow=True):
            got += chunk
            if len(got) > 500 * (dropped + 1) and dropped < 3:
                dropped += 1
                host.server.drop_sessions()
        assert dropped == 3
        assert got == b"".join(b"line %d\n" % n for n in range(300))

    host.run(work)


# --- what a login does ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "noise",
    [
        "echo Welcome; echo trouble >&2",
        "printf 'no newline'",
        "stty -a; tty; mesg n",
        'echo \'{"outpost": 1}\'; echo \'{"outpost": 1, "hello": {}}\'',
        "head -c 20000 /dev/zero | tr '\\0' x",
        "trap 'echo leaving' EXIT",
    ],
)
def test_a_login_shell_may_print_what_it_likes(host: Host, noise: str) -> None:
    (host.home / ".bashrc").write_text(f"{noise}\n")
    (host.home / ".profile").write_text(f"{noise}\n")

    async def work() -> None:
        outpost = host.make()
        await outpost.outpost_spawn(order("exit 7"))
        ended = await host.end(outpost, "gt-1.1")
        assert ended.result is not None
        assert ended.result.exit_code == 7

    host.run(work)


def test_agents_have_the_environment_of_a_login(host: Host) -> None:
    tool = host.home / "tools" / "special-agent"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho $KEY $GT_ROOT\nenv | grep ^SSH_ | cut -d= -f1\n")
    tool.chmod(0o755)
    (host.home / ".profile").write_text(
        'echo noise; export PATH="$HOME/tools:$PATH" KEY=from-profile; sleep 100 & echo more\n'
    )

    async def work() -> None:
        outpost = host.make(pass_env=("KEY",), town_path="~/ai")
        await outpost.outpost_spawn(
            Order(issue=Issue(id="gt-1"), agent=Agent(argv=("special-agent",)))
        )
        await host.end(outpost, "gt-1.1")
        log = (host.root / "workers/gt-1.1/output.log").read_text()
        assert log == f"from-profile {host.home}/ai\n"

    host.run(work)


def test_a_login_shell_that_hangs_is_done_without(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    (host.home / ".profile").write_text("sleep 100\n")

    async def work() -> None:
        outpost = host.make()
        await outpost.outpost_spawn(order("exit 7"))
        ended = await host.end(outpost, "gt-1.1")
        assert ended.result is not None
        assert ended.result.exit_code == 7

    host.run(work)


# --- safety ---------------------------------------------------------------------------------------


def test_secrets_are_in_no_argv_and_in_no_file_that_stays(host: Host) -> None:
    secret = "s3cr3t-" + os.urandom(8).hex()

    async def work() -> None:
        outpost = host.make()
        with ArgumentsWatch(secret) as watch:
            mine = order("echo $TOKEN | wc -c; sleep 0.2", secrets=Secrets({"TOKEN": secret}))
            await outpost.outpost_spawn(mine)
            assert secret not in repr(vars(outpost))
            await host.end(outpost, "gt-1.1")
        assert (host.root / "workers/gt-1.1/output.log").read_text() == f"{len(secret) + 1}\n"
        for folder in (host.server.folder, host.near):
            for path in folder.rglob("*"):
                if path.is_file():
                    assert secret.encode() not in path.read_bytes(), path
        assert not watch.seen

    host.run(work)


def test_everything_there_is_private(host: Host, cache: Path) -> None:
    async def work() -> None:
        outpost = host.make()
        await outpost.outpost_spawn(order(prompt="private"))
        await host.end(outpost, "gt-1.1")
        for top in (host.root, cache / "outpost/far"):
            for path in (top, *top.rglob("*")):
                mode = path.lstat().st_mode & 0o777
                shown = mode if path.is_dir() or path.name == "lock" else mode & ~0o100
                assert not mode & 0o077, (path, oct(shown))

    host.run(work)


@pytest.mark.parametrize(
    "worker", ["../gt-1.1", "gt-1.1;id", "$(id).1", "-rf", "gt-1.1\n", "a" * 999]
)
def test_hostile_worker_ids_reach_nothing(host: Host, worker: str) -> None:
    async def work() -> None:
        outpost = host.make()
        with pytest.raises((NotFoundError, UsageError)):
            await outpost.outpost_peek(worker, 1)
        with contextlib.suppress(NotFoundError, UsageError):
            await outpost.outpost_clean(worker, force=True)

    host.run(work)


@pytest.mark.parametrize("branch", ["--upload-pack=touch /tmp/x", "a..b", "-x", "a b", "x\ny"])
def test_hostile_branches_are_refused_by_the_worker(host: Host, branch: str) -> None:
    async def work() -> None:
        outpost = host.make()
        mine = order("exit 0", rig="https://127.0.0.1:1/nowhere.git")
        mine = replace(mine, delivery=Delivery(branch=branch, message="work"))
        try:
            await outpost.outpost_spawn(mine)
        except (UsageError, SpawnRefusedError):
            return
        ended = await host.end(outpost, "gt-1.1")
        assert ended.state is State.FAILED

    host.run(work)


# --- clocks ---------------------------------------------------------------------------------------


def test_moments_of_a_far_clock_are_told_by_ours(host: Host) -> None:
    async def work() -> None:
        outpost = host.make()
        await outpost.outpost_spawn(order())
        ended = await host.end(outpost, "gt-1.1")
        outpost._set_clock(86400.0)
        (shifted,) = await outpost.outpost_list()
        assert ended.result is not None
        assert shifted.result is not None
        for name in ("started_at", "finished_at"):
            moved = getattr(ended.result, name) - getattr(shifted.result, name)
            assert moved == pytest.approx(86400.0)
        assert shifted.digest == ended.digest
        assert shifted.result.exit_code == 0

    host.run(work)


def test_small_differences_of_clocks_change_nothing(host: Host) -> None:
    outpost = host.make()
    outpost._set_clock(1.5)
    assert outpost._skew == 0.0
    outpost._set_clock(3600.0)
    outpost._set_clock(3601.0)
    assert outpost._skew == 3600.0
    outpost._set_clock(0.1)
    assert outpost._skew == 0.0


# --- start ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["list"], ["--help"], ["backends"]])
def test_nothing_heavy_is_imported_before_a_host_is_asked(tmp_path: Path, argv: list[str]) -> None:
    config = tmp_path / "outposts.yaml"
    config.write_text("outposts: [{name: vm1, type: ssh, host: 127.0.0.1}]\n")
    code = (
        "import sys\n"
        "from outpost_manager.cli import main\n"
        f"sys.argv = ['outpost', '--config', {str(config)!r}, *{argv!r}]\n"
        "try: main()\n"
        "except SystemExit as end: print('exit', end.code)\n"
        "print('heavy', [name for name in sys.modules if name in ('asyncssh', 'cryptography')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "OUTPOST_STATE": str(tmp_path / "state")},
    )  # fmt: skip
    assert done.stdout.endswith("heavy []\n"), done.stdout + done.stderr
    assert "exit 0" in done.stdout or "exit None" in done.stdout


def test_a_far_folder_is_meant_as_the_far_login_means_it(host: Host) -> None:
    async def work() -> None:
        outpost = host.make(state_path="workers", town_path="~/ai")
        await outpost.outpost_spawn(order("echo $GT_ROOT"))
        await host.end(outpost, "gt-1.1")
        log = (host.home / "workers/workers/gt-1.1/output.log").read_text()
        assert log == f"{host.home}/ai\n"

    host.run(work)
