"""A worker's life at a local outpost, in tmux and as a detached process."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from outpost_core.errors import (
    ConflictError,
    NotFoundError,
    SpawnRefusedError,
    UnsupportedError,
    UsageError,
)
from outpost_core.types import Limits, Secrets, State
from outpost_local.options import Mode

STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
print("ready", flush=True)
time.sleep(600)
"""


async def collect(outpost, worker: str, offset: int = 0, follow: bool = False) -> bytes:
    return b"".join([chunk async for chunk in outpost.outpost_logs(worker, offset, follow)])


def test_from_order_to_result(place):
    async def main():
        outpost = place.make()
        assert await outpost.outpost_list() == []
        order = place.order("/bin/sh", "-c", "echo hello; exit 3")
        started = await outpost.outpost_spawn(order)
        assert started.id == "gt-1.1"
        ended = (await place.end(outpost))["gt-1.1"]
        assert (ended.state, ended.result.reason) == (State.FAILED, "agent_failed")
        assert ended.result.exit_code == 3
        assert await collect(outpost, "gt-1.1") == b"hello\n"
        assert await collect(outpost, "gt-1.1", 3, follow=True) == b"lo\n"
        assert await collect(outpost, "gt-1.1", 99) == b""
        again = place.make()  # another program sees the same
        assert list(await again.outpost_list()) == [ended]
        await outpost.outpost_close()

    asyncio.run(main())


def test_a_quick_end_keeps_its_output_and_a_signal_is_told_as_one(place):
    async def main():
        outpost = place.make()
        quick = [place.order("/bin/echo", f"out {i}", issue=f"gt-{i}") for i in range(20)]
        killed = place.order("/bin/sh", "-c", "echo last; kill -SEGV $$", issue="killed")
        await asyncio.gather(*(outpost.outpost_spawn(order) for order in [*quick, killed]))
        found = await place.end(outpost)
        for i in range(20):
            assert found[f"gt-{i}.1"].state is State.DONE
            assert place.log(f"gt-{i}.1") == f"out {i}\n".encode()
        assert place.log("killed.1") == b"last\n"
        result = found["killed.1"].result
        assert (result.reason, result.signal, result.exit_code) == ("agent_signal", 11, None)

    asyncio.run(main())


def test_the_same_order_is_the_same_worker_and_another_is_a_conflict(place):
    async def main():
        count = place.root.parent / "count"
        order = place.order("/bin/sh", "-c", f"echo x >> {count}")
        one, two = place.make(), place.make()
        await asyncio.gather(*(outpost.outpost_spawn(order) for outpost in [one, two] * 10))
        await place.end(one)
        assert (await two.outpost_spawn(order)).state is State.DONE
        assert len(await one.outpost_list()) == 1
        assert count.read_text() == "x\n"
        with pytest.raises(ConflictError):
            await one.outpost_spawn(place.order("/bin/true"))

    asyncio.run(main())


@pytest.mark.parametrize("issue", ["a.b.c", "a_b", "A-1", "0", "x" * 96, "gt-1.2-rc.1"])
def test_every_kind_of_id(place, issue):
    async def main():
        outpost = place.make()
        ended = await place.run(outpost, place.order("/bin/echo", issue, issue=issue, attempt=12))
        assert ended.id == f"{issue}.12"
        assert ended.state is State.DONE
        assert await collect(outpost, ended.id) == issue.encode() + b"\n"

    asyncio.run(main())


@pytest.mark.parametrize("folder", ["ends;", "a b", "#{pid}#(id)", "100%", "'\"$HOME`", "-x", "é"])
def test_every_kind_of_state_path(places, folder):
    for mode in (Mode.TMUX, Mode.PROCESS):
        place = places(f"{folder}/{mode}/{folder}", mode)

        async def main(place=place):
            ended = await place.run(place.make(), place.order("/bin/echo", "here;", ";"))
            assert ended.state is State.DONE
            assert place.log("gt-1.1") == b"here; ;\n"

        asyncio.run(main())


def test_hostile_arguments_and_long_prompts_arrive(place):
    args = ("x;", ";", "$(id)", "`id`", "a b", "line\nbreak", "#{pid}", "'\"", "", "é", "{prompt}")
    prompt = "fix it;\n" * 3_000  # more than tmux takes in one command

    async def main():
        code = "import sys, os, json; print(ascii(sys.argv[1:]))"
        order = place.python(code, *args, prompt=prompt)
        ended = await place.run(place.make(), order)
        assert ended.state is State.DONE, ended
        expected = [prompt if arg == "{prompt}" else arg for arg in args]
        assert place.log("gt-1.1").decode() == ascii(expected) + "\n"

    asyncio.run(main())


def test_stop_takes_the_whole_tree_and_can_be_asked_again(place):
    async def main():
        outpost = place.make()
        await outpost.outpost_spawn(place.python(STUBBORN))
        await place.wait_for(lambda: _log(place).count(b"ready") == 2)
        assert len(place.processes()) >= 3
        await outpost.outpost_stop("gt-1.1", 0.2)
        await outpost.outpost_stop("gt-1.1", 0.2)
        ended = (await place.end(outpost))["gt-1.1"]
        assert (ended.state, ended.result.reason) == (State.STOPPED, "stopped")
        await place.wait_for(lambda: not place.processes())
        await outpost.outpost_stop("gt-1.1", 0.2)
        await outpost.outpost_stop("never-heard-of.1", 0.2)
        await outpost.outpost_stop("../../etc", 0.2)

    asyncio.run(main())


def _log(place, worker: str = "gt-1.1") -> bytes:
    path = place.folder(worker) / "output.log"
    return path.read_bytes() if path.exists() else b""


def test_a_hundred_at_once(place):
    async def main():
        outpost = place.make()
        orders = [place.order("/bin/echo", str(i), issue=f"gt-{i}") for i in range(100)]
        before = len(os.listdir("/proc/self/fd"))
        await asyncio.gather(*(outpost.outpost_spawn(order) for order in orders))
        assert len(os.listdir("/proc/self/fd")) <= before + 10
        found = await place.end(outpost)
        assert {status.state for status in found.values()} == {State.DONE}
        assert len(found) == 100
        for i in range(100):
            assert place.log(f"gt-{i}.1") == f"{i}\n".encode()

    asyncio.run(main())


def test_the_agent_gets_a_clean_environment_and_secrets_are_nowhere_else(place, monkeypatch):
    monkeypatch.setenv("CLAUDECODE", "1")
    monkeypatch.setenv("OUTPOST_STATE", "/somewhere")
    monkeypatch.setenv("CALLERS_OWN", "canary-of-the-caller")
    monkeypatch.setenv("WANTED", "yes")
    monkeypatch.setenv("TMUX", "/tmp/tmux-0/somebody,1,0")

    async def main():
        town = place.root.parent / "town"
        outpost = place.make(pass_env=("WANTED",), agent_path=("/opt/agents",), town_path=town)
        order = place.order(
            "/usr/bin/env", env={"MINE": "1"}, secrets=Secrets({"KEY": "canary-of-the-secret"})
        )
        await place.run(outpost, order)
        lines = place.log("gt-1.1").decode().splitlines()
        env = dict(line.split("=", 1) for line in lines)
        assert env["MINE"] == "1"
        assert env["WANTED"] == "yes"
        assert env["KEY"] == "***"
        own = os.path.expanduser("~/.local/bin")  # where bootstrap puts agents; the last to count
        callers = os.environ["PATH"].split(":")
        assert env["PATH"].split(":") == ["/opt/agents", *callers, *{own} - {*callers}]
        assert env["GT_ROOT"] == env["GT_TOWN_ROOT"] == str(town)
        assert env["OUTPOST_WORKER"] == "gt-1.1"
        assert not {"CLAUDECODE", "OUTPOST_STATE", "CALLERS_OWN", "TMUX"} & set(env)
        for path in place.root.rglob("*"):
            if path.is_file():
                assert b"canary" not in path.read_bytes(), path

    asyncio.run(main())


def test_what_lives_on_holds_nothing_of_the_callers_environment(place, monkeypatch):
    """A supervisor, a recovery and a tmux server live on, and other programs can look at them."""
    monkeypatch.setenv("A_TOKEN", "canary-71c2")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:canary-71c2@proxy.example")

    async def main():
        outpost = place.make(pass_env=("A_TOKEN",))  # the agent itself may have it
        await outpost.outpost_spawn(place.order("/bin/sleep", "600"))
        await place.until(outpost, lambda status: status.state is State.WORKING)
        ours = [place.supervisor("gt-1.1"), place.server()]
        for pid in filter(None, ours):
            said = Path(f"/proc/{pid}/environ").read_bytes()
            assert b"PATH=" in said
            assert b"canary-71c2" not in said, Path(f"/proc/{pid}/cmdline").read_bytes()
        await outpost.outpost_stop("gt-1.1", 1)
        await place.end(outpost)

    asyncio.run(main())


def test_below_the_memory_floor_nothing_starts_but_what_runs_is_found(place):
    async def main():
        order = place.order("/bin/true")
        poor = place.make(memory_floor=1024**5)
        with pytest.raises(SpawnRefusedError, match="below the floor"):
            await poor.outpost_spawn(order)
        assert not place.folder("gt-1.1").exists()
        health = await poor.outpost_ping()
        assert not health.ok
        assert "memory is available" in health.detail
        await place.run(place.make(memory_floor=1), order)
        assert (await poor.outpost_spawn(order)).state is State.DONE

    asyncio.run(main())


def test_a_full_disk_and_a_folder_that_cannot_be_made(place, tmp_path):
    async def main():
        with pytest.raises(SpawnRefusedError, match="of disk is free"):
            await place.make(disk_floor=1024**6).outpost_spawn(place.order("/bin/true"))
        (tmp_path / "file").write_text("")
        with pytest.raises(SpawnRefusedError, match="cannot be"):
            await place.make(state_path=tmp_path / "file" / "x").outpost_spawn(
                place.order("/bin/true")
            )

    asyncio.run(main())


def test_ping_says_how_workers_run(place):
    health = asyncio.run(place.make().outpost_ping())
    assert health.ok
    assert health.detail.startswith("tmux " if place.mode is Mode.TMUX else "detached")
    assert health.free_memory > 0


def test_who_is_not_there(place):
    async def main():
        outpost = place.make()
        for worker in ("never-heard-of.1", "../..", "", "x" * 500):
            with pytest.raises(NotFoundError):
                await collect(outpost, worker)
            with pytest.raises(NotFoundError):
                await outpost.outpost_peek(worker, 5)
            with pytest.raises(NotFoundError):
                await outpost.outpost_nudge(worker, "hello")
            with pytest.raises(NotFoundError):
                await outpost.outpost_attach(worker)
            assert (await outpost.outpost_clean(worker, False)).removed

    asyncio.run(main())


def test_nudge_and_peek_reach_an_interactive_agent(place):
    async def main():
        outpost = place.make()
        code = "print('name?', flush=True); print('hello', input(), flush=True); input()"
        await outpost.outpost_spawn(place.python(code, interactive=True))
        await place.wait_for(lambda: b"name?" in _log(place))
        await outpost.outpost_nudge("gt-1.1", "world")
        await place.wait_for(lambda: b"hello world" in _log(place))
        shown = ""
        while "hello world" not in shown:
            shown = await outpost.outpost_peek("gt-1.1", 10)
            await asyncio.sleep(0.02)
        assert "name?" in shown
        assert "\x1b" not in shown
        await outpost.outpost_nudge("gt-1.1", "")
        assert (await place.end(outpost))["gt-1.1"].state is State.DONE
        assert "hello world" in await outpost.outpost_peek("gt-1.1", 10)
        with pytest.raises(UsageError, match="has ended"):
            await outpost.outpost_nudge("gt-1.1", "more")

    asyncio.run(main())


def test_peek_at_a_headless_worker_shows_its_log_and_it_cannot_be_nudged(place):
    async def main():
        outpost = place.make()
        order = place.order("/bin/sh", "-c", "for i in 1 2 3; do printf '\\033[1m%s\\n' $i; done")
        await place.run(outpost, order)
        assert await outpost.outpost_peek("gt-1.1", 2) == "2\n3\n"
        with pytest.raises(UnsupportedError, match="headless"):
            await outpost.outpost_nudge("gt-1.1", "hello")

    asyncio.run(main())


def test_a_vanished_supervisor_is_lost_and_its_tree_ends(place):
    async def main():
        outpost = place.make()
        await outpost.outpost_spawn(place.python(STUBBORN, limits=Limits(grace=0.1)))
        await place.wait_for(lambda: _log(place).count(b"ready") == 2)
        os.kill(place.supervisor("gt-1.1"), signal.SIGKILL)
        lost = (await place.end(outpost))["gt-1.1"]
        assert (lost.state, lost.result.reason) == (State.LOST, "lost_process")
        await place.wait_for(lambda: (place.folder("gt-1.1") / "result.json").exists())
        await place.wait_for(lambda: not place.processes())
        after = (await outpost.outpost_list())[0]
        assert (after.state, after.result.reason) == (State.LOST, "lost_process")

    asyncio.run(main())


def test_published_but_never_launched_is_queued_until_somebody_asks_again(place):
    async def main():
        from outpost_worker.folder import publish

        outpost = place.make()
        order = place.order("/bin/echo", "late")
        publish.publish(place.root, order, {"PATH": os.environ["PATH"]})
        assert [status.state for status in await outpost.outpost_list()] == [State.QUEUED]
        await outpost.outpost_spawn(order)
        assert (await place.end(outpost))["gt-1.1"].state is State.DONE
        assert place.log("gt-1.1") == b"late\n"

    asyncio.run(main())


def test_what_was_forgotten_before_its_launch_is_launched_in_time(place):
    async def main():
        from outpost_worker.folder import publish

        outpost = place.make()
        publish.publish(place.root, place.order("/bin/echo", "late"), {"PATH": os.environ["PATH"]})
        long_ago = time.time() - 60
        os.utime(place.folder("gt-1.1") / "order.json", (long_ago, long_ago))
        assert (await place.end(outpost))["gt-1.1"].state is State.DONE
        assert place.log("gt-1.1") == b"late\n"

    asyncio.run(main())


def test_a_worker_stopped_before_it_was_launched_never_runs(place):
    async def main():
        from outpost_worker.folder import publish

        outpost = place.make()
        order = place.order("/bin/echo", "never")
        publish.publish(place.root, order, {"PATH": os.environ["PATH"]})
        await outpost.outpost_stop("gt-1.1", 1)
        assert (await outpost.outpost_list())[0].state is State.STOPPED
        assert (await outpost.outpost_spawn(order)).state is State.STOPPED
        assert not (place.folder("gt-1.1") / "output.log").exists()

    asyncio.run(main())


def test_all_is_private(place):
    async def main():
        await place.run(place.make(), place.order("/bin/true"))
        for path in [place.root, *place.root.rglob("*")]:
            assert path.lstat().st_mode & 0o077 == 0, path

    asyncio.run(main())


def test_without_tmux_auto_runs_detached_processes(places, monkeypatch, tmp_path):
    place = places(mode=Mode.AUTO)
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "true").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tools))

    async def main():
        outpost = place.make()
        assert "attach" not in outpost.capabilities
        await outpost.outpost_spawn(place.order("/bin/sleep", "60"))
        with pytest.raises(UnsupportedError, match="without tmux"):
            await outpost.outpost_attach("gt-1.1")
        await outpost.outpost_stop("gt-1.1", 1)
        await place.end(outpost)

    asyncio.run(main())
    assert Path(tools).exists()


def test_mode_tmux_without_tmux_refuses_and_leaves_nothing(places, monkeypatch):
    place = places()

    async def main():
        outpost = place.make()
        monkeypatch.setenv("PATH", "/nowhere")
        assert not (await outpost.outpost_ping()).ok
        with pytest.raises(SpawnRefusedError, match="tmux is not installed"):
            await outpost.outpost_spawn(place.order("/bin/true"))
        assert await outpost.outpost_list() == []

    try:
        asyncio.run(main())
    finally:
        monkeypatch.undo()
