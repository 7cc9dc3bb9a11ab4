"""A worker in the container, which may as little as a container can."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boxkit
import pytest
from boxkit import Rig, log, order, outpost, result
from peers.containers import CONFINED, PATIENCE, Containers, Image

from outpost_core.types import State


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with boxkit.served_rig(tmp_path) as made:
        yield made


def test_an_issue_becomes_a_pushed_branch(
    containers: Containers, plain: Image, rig: Rig, tmp_path: Path
) -> None:
    script = "id -u; cat /proc/1/comm; echo 'second line' >>notes.txt; touch /usr/x"
    with boxkit.box(containers, plain) as inside:

        async def run() -> None:
            async with outpost(containers, inside, tmp_path) as place:
                assert (await place.outpost_ping()).ok
                await place.outpost_spawn(order=order(rig, "/bin/sh", "-c", f"{script} || true"))
                found = await result(place, "gt-1.1")
                assert found.state is State.DONE, (found, await log(place, "gt-1.1"))
                assert found.commit == rig.git("rev-parse", "polecat/gt-1")
                uid, *said = (await log(place, "gt-1.1")).splitlines()
                assert uid == "10001"
                assert "Read-only file system" in said[-1] or "ermission denied" in said[-1]
                assert (await place.outpost_clean(worker="gt-1.1", force=False)).removed

        asyncio.run(run())
    assert rig.git("show", "polecat/gt-1:notes.txt") == "first line\nsecond line"


#: What docker's default profile of system calls refuses and podman's does not.
NO_NAMESPACES = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {"names": ["unshare", "setns", "mount"], "action": "SCMP_ACT_ERRNO",
         "errnoRet": 1},
        {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
         "args": [{"index": 0, "value": 0x7E020000, "valueTwo": 0x10000000,
                   "op": "SCMP_CMP_MASKED_EQ"}]},
    ],
}  # fmt: skip


@pytest.mark.parametrize("namespaces", [True, False])
def test_the_fence_stands_there_also_where_namespaces_are_refused(
    containers: Containers, plain: Image, tmp_path: Path, namespaces: bool
) -> None:
    options = CONFINED
    if not namespaces:
        (tmp_path / "profile.json").write_text(json.dumps(NO_NAMESPACES))
        options = (*CONFINED, "--security-opt", f"seccomp={tmp_path / 'profile.json'}")
    with boxkit.box(containers, plain, options=options) as inside:
        told = json.loads(
            inside.exec("outpost-enter", "python", "-m", "outpost_worker", "fence").stdout
        )
        assert told["fence"].startswith("namespace" if namespaces else "landlock"), told

        async def run() -> None:
            async with outpost(containers, inside, tmp_path) as place:
                script = "touch ../outside /tmp/mine; echo $?; touch inside && echo yes; ls"
                await place.outpost_spawn(order=order(None, "/bin/sh", "-c", script))
                found = await result(place, "gt-1.1")
                assert found.fence.startswith("namespace" if namespaces else "landlock"), found
                text = await log(place, "gt-1.1")
                assert "cannot touch '../outside'" in text, text
                assert text.split()[-2:] == ["yes", "inside"], text

        asyncio.run(run())


def test_what_an_agent_leaves_behind_is_collected(
    containers: Containers, plain: Image, tmp_path: Path
) -> None:
    """By the supervisor what belongs to the agent, by the first process what is nobody's."""
    with boxkit.box(containers, plain) as inside:

        async def run() -> None:
            async with outpost(containers, inside, tmp_path) as place:
                script = "setsid sh -c 'sleep 1000 & sleep 1000' & sleep 0.1"
                await place.outpost_spawn(order=order(None, "/bin/sh", "-c", script))
                assert (await result(place, "gt-1.1")).state is State.DONE

        asyncio.run(run())
        inside.exec("sh", "-c", "for i in 1 2 3; do (sh -c 'sleep 0.1' &) ; done")
        deadline = time.monotonic() + PATIENCE
        while len(left := inside.exec("ps", "-eo", "stat=,args=").stdout.splitlines()) > 3:
            assert time.monotonic() < deadline, left
            time.sleep(0.05)
        assert not [line for line in left if line.startswith("Z")], left
        assert [line.split()[1] for line in left] == ["tini", "sleep", "ps"]


def test_an_agent_that_eats_the_memory_is_told_as_such(
    containers: Containers, plain: Image, tmp_path: Path
) -> None:
    eats = "kept = []\nwhile True:\n    kept.append(bytearray(16 << 20))"
    used_up = "the memory here (512 MiB) was used up"
    with boxkit.box(containers, plain) as inside:

        async def run() -> None:
            async with outpost(containers, inside, tmp_path) as place:
                await place.outpost_spawn(order=order(None, "python", "-c", eats))
                found = await result(place, "gt-1.1")
                assert (found.state, found.reason) == (State.FAILED, "agent_signal"), found
                assert found.message == f"signal 9 ended the agent: {used_up}"
                # and the container takes the next order
                again = order(None, "sh", "-c", f'python -c "{eats}"; exit 3')
                await place.outpost_spawn(order=replace(again, attempt=2))
                found = await result(place, "gt-1.2")
                assert found.exit_code == 3
                assert f"; meanwhile {used_up}, and the system" in found.message

        asyncio.run(run())


def test_a_container_without_cpu_for_a_while_goes_on_where_it_was(
    containers: Containers, plain: Image, rig: Rig, tmp_path: Path
) -> None:
    """As between two requests of Cloud Run; what is spoken to meanwhile just waits."""
    script = "for i in 1 2 3 4 5 6; do echo $i >>notes.txt; sleep 0.5; done; echo ready"
    with boxkit.box(containers, plain) as inside:

        async def run() -> None:
            async with outpost(containers, inside, tmp_path) as place:
                await place.outpost_spawn(order=order(rig, "/bin/sh", "-c", script))
                inside.freeze()
                asked = asyncio.ensure_future(place.outpost_list())
                done, _ = await asyncio.wait({asked}, timeout=4.0)
                assert not done
                inside.thaw()
                (status,) = await asked
                assert not status.state.terminal
                found = await result(place, "gt-1.1")
                assert found.state is State.DONE, found
                assert await log(place, "gt-1.1") == "ready\n"

        asyncio.run(run())
    lines = rig.git("show", "polecat/gt-1:notes.txt").splitlines()
    assert lines == ["first line", *"123456"]
