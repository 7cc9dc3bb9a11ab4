"""Faults of the far machine: a reboot, a full disk, a wrong clock, a shell that talks."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest
from faultkit import World, ended, read, until, working

from outpost_core.errors import OutpostError, PlacementError, UnreachableError
from outpost_core.types import Delivery, Health, Limits, State
from outpost_testing.gitrig import GitRig


@pytest.mark.parametrize("where", ["served", "here"])
def test_a_worker_of_a_host_that_rebooted_is_lost_and_its_pushed_checkpoint_is_named(
    w: World, where: str
) -> None:
    host = w.net.host("vm1")
    (w.folder / "git").mkdir()
    rig = GitRig(w.folder / "git")
    order = w.order(
        "gt-1",
        "echo half > half.txt\n" + w.waiting(),
        rig=w.serve(rig.path) if where == "served" else str(rig.path),
        delivery=Delivery(branch="polecat/gt-1", message="m"),
        limits=Limits(checkpoint_every=0.2),
    )

    def is_pushed() -> bool:
        hosted = host.home.glob(".local/state/outpost/far/hosted/*.git")
        places = [rig.path] if where == "served" else [*hosted]
        return any(rig.git("for-each-ref", "refs/outpost", cwd=place) for place in places)

    async def main() -> None:
        async with w.manager(w.entry(host)) as manager:
            await manager.spawn(order)
            await until(is_pushed, "no checkpoint was pushed")
            await asyncio.to_thread(host.reboot)
            (worker,) = await ended(manager, "gt-1")
            assert worker.state is State.LOST
            assert worker.result is not None
            assert worker.result.checkpoint == "refs/outpost/gt-1.1"
            assert rig.show("refs/outpost/gt-1.1", "half.txt") == "half"
            shown = await asyncio.to_thread(w.cli, "show", "gt-1")
            assert "refs/outpost/gt-1.1" in shown.stdout
            assert (await manager.outposts())[0].active == 0
            # the next attempt continues from there, on the host that is back
            again = replace(order, attempt=2, resume="refs/outpost/gt-1.1")
            w.go.touch()
            await manager.spawn(again)
            (worker,) = await ended(manager, again.worker)
            assert worker.state is State.DONE, worker
            assert rig.show("polecat/gt-1", "half.txt") == "half"

    asyncio.run(main())
    assert w.ran("gt-1") == 2


@pytest.mark.parametrize("mode", ["tmux", "process"])
def test_a_reboot_that_nobody_saw_is_seen_by_the_next_program(w: World, mode: str) -> None:
    host = w.net.host("vm1")

    async def main() -> None:
        async with w.manager(w.entry(host, mode=mode)) as manager:
            await manager.spawn(w.order("gt-1", w.waiting()))
            await working(manager, "gt-1")
        host.reboot()
        async with w.manager(w.entry(host, mode=mode)) as manager:
            (worker,) = await ended(manager, "gt-1")
            assert worker.state is State.LOST
            assert (await manager.outposts())[0].active == 0

    asyncio.run(main())
    assert w.ran("gt-1") == 1


@pytest.mark.parametrize("file", [".bashrc", ".bash_profile", ".profile"])
def test_a_login_shell_that_prints_noise_is_heard_out(w: World, file: str) -> None:
    host = w.net.host("vm1")
    noise = 'echo "Welcome to vm1!"; echo "{\\"outpost\\": 1}"; printf "\\033[1mno newline"\n'
    host.write(file, noise + "echo also here >&2\nhead -c 5000 /dev/zero | tr '\\0' x\n")

    async def main() -> None:
        async with w.manager(w.entry(host)) as manager:
            assert isinstance((await manager.ping())["vm1"], Health)
            await manager.spawn(w.order("gt-1", "echo work"))
            assert (await ended(manager, "gt-1"))[0].state is State.DONE
            assert await read(manager, "gt-1") == b"work\n"

    asyncio.run(main())


def test_a_login_shell_that_never_gets_to_us_is_quoted(w: World) -> None:
    host = w.net.host("vm1")
    host.write(".bashrc", "echo This account is closed; exit 1\n")

    async def main() -> None:
        async with w.manager(w.entry(host)) as manager:
            answer = (await manager.ping())["vm1"]
            assert isinstance(answer, UnreachableError)
            assert "This account is closed" in answer.message

    asyncio.run(main())


def test_a_login_that_may_run_nothing_is_quoted(w: World) -> None:
    host = w.net.host("vm1", extra=["ForceCommand echo This account is for files only."])

    async def main() -> None:
        async with w.manager(w.entry(host)) as manager:
            answer = (await manager.ping())["vm1"]
            assert isinstance(answer, UnreachableError)
            assert "This account is for files only." in answer.message

    asyncio.run(main())


def test_a_home_that_cannot_be_written_to_is_named(w: World) -> None:
    host = w.net.host("vm1", home_size="8m")
    host.run("mount", "-o", "remount,ro", str(host.home))

    async def main() -> None:
        async with w.manager(w.entry(host)) as manager:
            answer = (await manager.ping())["vm1"]
            assert isinstance(answer, OutpostError)
            assert "Read-only file system" in answer.message
            assert str(host.home) in answer.message

    asyncio.run(main())


def _fill(host) -> None:  # type: ignore[no-untyped-def]
    host.run("sh", "-c", 'cat /dev/zero > "$1"/filler', "sh", str(host.home), check=False)


def test_a_disk_that_is_full_from_the_first_is_told_and_the_next_host_takes_it(
    w: World,
) -> None:
    one, two = w.net.host("vm1", home_size="8m"), w.net.host("vm2")
    _fill(one)

    async def main() -> None:
        async with w.manager(w.entry(one), w.entry(two)) as manager:
            answer = (await manager.ping())["vm1"]
            assert isinstance(answer, OutpostError)
            assert "No space left" in answer.message or "full" in answer.message
            spawned = await manager.spawn(w.order("gt-1", "true"))
            assert spawned.worker.outpost == "vm2"
            await ended(manager, "gt-1")
            one.run("rm", str(one.home / "filler"))
            await until(lambda: _healthy(manager))
            await manager.spawn(w.order("gt-2", "true"), on="vm1")
            await ended(manager, "gt-2")

    asyncio.run(main())


async def _healthy(manager):  # type: ignore[no-untyped-def]
    answer = (await manager.ping())["vm1"]
    return isinstance(answer, Health) and answer.ok


def test_a_disk_that_fills_up_refuses_new_workers_and_leads_the_running_one_to_its_end(
    w: World,
) -> None:
    one, two = w.net.host("vm1", home_size="8m"), w.net.host("vm2")

    async def main() -> None:
        async with w.manager(w.entry(one), w.entry(two)) as manager:
            await manager.spawn(w.order("gt-1", w.waiting("echo after")))
            await working(manager, "gt-1")
            _fill(one)
            spawned = await manager.spawn(w.order("gt-2", "true"))
            assert spawned.worker.outpost == "vm2"
            (first,) = [a for a in spawned.explanation.attempts if a[0] == "vm1"] or [None]
            assert first is not None
            assert w.ran("gt-2") <= 1
            w.go.touch()  # nothing of its output or result fits
            await asyncio.sleep(1)
            one.run("rm", str(one.home / "filler"))
            workers = await ended(manager, "gt-1", "gt-2")
            assert workers[0].state in (State.DONE, State.FAILED, State.LOST)
            assert workers[1].state is State.DONE
            assert (await manager.outposts())[0].active == 0
            await manager.spawn(w.order("gt-3", "echo again"), on="vm1")
            await ended(manager, "gt-3")
            assert await read(manager, "gt-3") == b"again\n"

    asyncio.run(main())
    assert w.ran("gt-1") == 1
    assert w.ran("gt-2") == 1


def test_a_small_disk_floor_is_kept_free(w: World) -> None:
    host = w.net.host("vm1", home_size="8m")

    async def main() -> None:
        async with w.manager(w.entry(host, disk_floor="16MiB")) as manager:
            with pytest.raises(PlacementError, match="disk"):
                await manager.spawn(w.order("gt-1", "true"))

    asyncio.run(main())
    assert w.ran("gt-1") == 0


@pytest.mark.parametrize("offset", ["+1d", "-1d"])
def test_a_clock_that_is_a_day_off_changes_no_age_and_no_limit(w: World, offset: str) -> None:
    host = w.net.host("vm1")
    host.set_clock(offset)

    async def main() -> None:
        async with w.manager(w.entry(host)) as manager:
            begun = time.time()
            patient = Limits(timeout=3600, idle_timeout=3600)
            await manager.spawn(w.order("gt-1", w.waiting("echo after"), limits=patient))
            await manager.spawn(w.order("gt-2", "sleep 60", limits=Limits(timeout=1)))
            await manager.spawn(w.order("gt-3", "sleep 60", limits=Limits(idle_timeout=1)))
            two, three = await ended(manager, "gt-2", "gt-3")
            assert two.result is not None
            assert two.result.reason == "timeout"
            assert three.result is not None
            assert three.result.reason == "idle_timeout"
            (one,) = await working(manager, "gt-1")
            for moment in (one.created_at, one.started_at, one.updated_at, two.started_at,
                           two.finished_at, two.result.finished_at, three.finished_at):  # fmt: skip
                assert moment is not None
                assert begun - 5 <= moment <= time.time() + 5
            w.go.touch()
            (one,) = await ended(manager, "gt-1")
            assert one.state is State.DONE
            assert await read(manager, "gt-1") == b"after\n"

    asyncio.run(main())


def _only(host, *more: str) -> dict[str, str]:  # type: ignore[no-untyped-def]
    """Return the PATH of a host that has what a worker needs, but no Python."""
    folder = host.folder / "few"
    folder.mkdir()
    for name in ("sh", "git", "tmux", "cat", "env", "sleep", *more):
        (folder / name).symlink_to(f"/usr/bin/{name}")
    return {"PATH": str(folder)}


def test_a_host_without_python_says_so_and_how_to_mend_it(w: World) -> None:
    host = w.net.host("vm1")
    host.sshd.env.update(_only(host))
    host.sshd.restart()

    async def main() -> None:
        async with w.manager(w.entry(host)) as manager:
            answer = (await manager.ping())["vm1"]
            assert isinstance(answer, OutpostError)
            assert "python3: not found" in answer.message
            assert answer.hint == "outpost bootstrap vm1"

    asyncio.run(main())


_OLD = """#!{python} -I
import sys
sys.version_info = (3, 8, 10, "final", 0)
code = sys.argv[sys.argv.index("-c") + 1]
sys.argv = ["-c"]
exec(compile(code, "<string>", "exec"), {{"__name__": "__main__"}})
"""


def _hide_pythons(host) -> Path:  # type: ignore[no-untyped-def]
    """Hide what the loader looks for in the usual folders; return a Python with another name."""
    real = host.folder / "few/real"
    real.touch()
    hide = """mount --bind "$1" "$2"
    for path in /usr/bin/python3.* /usr/local/bin/python3.* ~/.local/bin/python3.*; do
        [ ! -f "$path" ] || mount --bind /dev/null "$path"
    done"""
    host.run("sh", "-c", hide, "sh", str((host.bin / "python3").resolve()), str(real))
    return real


def test_a_python_that_is_too_old_says_so(w: World) -> None:
    host = w.net.host("vm1")
    path = _only(host)
    real = _hide_pythons(host)
    old = host.folder / "few/python3"
    old.write_text(_OLD.format(python=real))
    old.chmod(0o755)
    host.sshd.env.update(path)
    host.sshd.restart()

    async def main() -> None:
        async with w.manager(w.entry(host)) as manager:
            answer = (await manager.ping())["vm1"]
            assert isinstance(answer, OutpostError)
            assert "3.8" in answer.message
            assert "3.11" in answer.message + answer.hint
            # a newer one beside it is found
            (host.folder / "few/python3.12").symlink_to(real)
            assert isinstance((await manager.ping())["vm1"], Health)
            await manager.spawn(w.order("gt-1", "echo work"))
            assert await read(manager, "gt-1", follow=True) == b"work\n"
            await ended(manager, "gt-1")

    asyncio.run(main())
