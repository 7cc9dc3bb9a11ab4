"""Repositories of this machine that travel into pods, each of which has a copy of its own."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from podrigkit import Cluster, at_cluster

from outpost_core.errors import ConflictError, SpawnRefusedError, UnreachableError
from outpost_core.types import State
from outpost_exec import rescue, rigs
from outpost_exec.rigs import notes, sending
from outpost_exec.stdio.remote import StdioOutpost
from outpost_worker.work import lfs


def test_work_comes_out_of_the_pod_into_the_repository_of_this_machine(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        order = cluster.order("cat README; echo new >new.txt")
        pod = cluster.pod(order)
        pipe = cluster.into(pod)
        await pipe.outpost_spawn(order)
        result = await cluster.result(pipe)
        assert (result.state, result.branch) == (State.DONE, "polecat/gt-1"), result
        assert result.commit == cluster.rig.tip("polecat/gt-1")
        assert cluster.rig.show("polecat/gt-1", "new.txt") == "new"
        assert pod.process is not None
        assert pod.process.poll() is None, "it waits until it is told that its work is here"
        assert await cluster.leave(pipe) == 0
        assert pod.message()["result"]["commit"] == result.commit
        assert pod.message()["collected"] is True, "so that others who look know it, too"
        assert pod.log.read_text() == "hello\n"

    at_cluster(tmp_path, test)


def test_a_worker_begins_only_with_its_repository(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        order = cluster.order("echo new >new.txt")
        pod = cluster.pod(order)
        pipe = cluster.into(pod)
        await asyncio.to_thread(pod.until, "waiting")
        (status,) = await pipe.outpost_list()
        assert (status.state, status.detail) == (State.QUEUED, "waits for its repository")
        with pytest.raises(SpawnRefusedError, match="was not brought"):
            await StdioOutpost.outpost_spawn(pipe, order)
        with pytest.raises(ConflictError):
            await pipe.outpost_spawn(cluster.order("echo other >new.txt"))
        assert (await pipe.state())["phase"] == "waiting"
        await pipe.outpost_spawn(order)
        assert (await cluster.result(pipe)).state is State.DONE

    at_cluster(tmp_path, test)


def test_a_pod_whose_own_program_begins_late_is_waited_for(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        order = cluster.order("echo new >new.txt")
        pod = cluster.pod(order, begins=False)
        pipe = cluster.into(pod)
        spawning = asyncio.create_task(pipe.outpost_spawn(order))
        while "spawn" not in pipe.calls:
            assert not spawning.done()
            await asyncio.sleep(0.01)
        pod.start()
        await spawning
        assert (await cluster.result(pipe)).state is State.DONE

    at_cluster(tmp_path, test)


def test_pods_leave_each_others_notes_alone(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        orders = [cluster.order("echo new >new.txt", issue=issue) for issue in ("gt-1", "gt-2")]
        first, second = (cluster.into(cluster.pod(order)) for order in orders)
        await asyncio.gather(first.outpost_spawn(orders[0]), second.outpost_spawn(orders[1]))
        waiting = cluster.near / "hosted" / "waiting"
        old = time.time() - 2 * notes._STALE
        for path in waiting.iterdir():
            os.utime(path, (old, old))  # as of a worker that is nowhere
        assert (await cluster.result(first)).state is State.DONE
        (left,) = cluster.notes()
        assert left.startswith("gt-2.1."), "the other one's work is still to come"
        for place in ("cleaning", "home"):
            aside = waiting.parent / place / left
            aside.parent.mkdir(exist_ok=True)
            waiting.joinpath(left).rename(aside)
            await first.outpost_list()
            await first.outpost_clean(worker="gt-1.1", force=False)
            assert aside.exists(), place
            aside.rename(waiting / left)
        assert (await cluster.result(second)).state is State.DONE
        assert cluster.notes() == []

    at_cluster(tmp_path, test)


def test_pods_of_one_rig_get_the_same_pack(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        orders = [cluster.order("echo new >new.txt", issue=f"gt-{n}") for n in (1, 2, 3)]
        pipes = [cluster.into(cluster.pod(order)) for order in orders]
        outgoing = cluster.near / "hosted" / "outgoing"
        await asyncio.gather(
            *(pipe.outpost_spawn(order) for pipe, order in zip(pipes[:2], orders[:2], strict=True))
        )
        (pack,) = outgoing.glob("*.pack")
        made = pack.stat().st_ino
        await pipes[2].outpost_spawn(orders[2])
        assert [each.stat().st_ino for each in outgoing.glob("*.pack")] == [made]
        for pipe in pipes:
            assert (await cluster.result(pipe)).state is State.DONE
        rigs.sweep(cluster.near)
        assert pack.exists(), "the next pods need it too"
        old = time.time() - 2 * sending.SHARED
        for path in outgoing.iterdir():
            os.utime(path, (old, old))
        rigs.sweep(cluster.near)
        assert not [*outgoing.glob("*.pack"), *outgoing.glob("*.lock")]

    at_cluster(tmp_path, test)


def test_a_large_repository_travels_and_its_spawn_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(cluster: Cluster) -> None:
        (cluster.rig.seed / "large").write_bytes(os.urandom(64 << 20))
        cluster.rig.git("add", "-A")
        cluster.rig.commit({"x": "x\n"})
        order = cluster.order("wc -c <large; echo new >new.txt")
        pod = cluster.pod(order)
        pipe = cluster.into(pod)
        with monkeypatch.context() as patched:
            patched.setattr(sending, "PATIENCE", 0.3)
            with pytest.raises(UnreachableError, match="is still on its way"):
                await pipe.outpost_spawn(order)
        await pipe.outpost_spawn(order)
        assert pipe.calls.count("x-rig-put") <= 135, "nothing was sent twice"
        assert (await cluster.result(pipe)).state is State.DONE
        assert pod.log.read_text().strip() == str(64 << 20)

    at_cluster(tmp_path, test)


def test_large_files_of_git_lfs_travel_both_ways(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        rig = cluster.rig
        rig.git("lfs", "install", "--local")
        (rig.seed / "old.bin").write_bytes(b"large content\0" * 90000)
        rig.commit({".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n"})
        order = cluster.order("wc -c <old.bin; head -c 1500000 /dev/zero >new.bin")
        pod = cluster.pod(order)
        pipe = cluster.into(pod)
        await pipe.outpost_spawn(order)
        assert (await cluster.result(pipe)).state is State.DONE
        assert await cluster.leave(pipe) == 0
        await asyncio.to_thread(pod.kill)
        oid = hashlib.sha256(bytes(1500000)).hexdigest()
        assert lfs.is_whole(lfs.object_path(str(rig.path / "lfs"), oid), oid)
        assert "oid sha256:" in rig.show("polecat/gt-1", "new.bin")
        assert pod.log.read_text().strip() == "1260000"

    at_cluster(tmp_path, test)


def test_a_shallow_repository_travels(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        for number in range(3):
            cluster.rig.commit({"n": f"{number}\n"})
        shallow = tmp_path / "shallow"
        origin = f"file://{cluster.rig.path}"
        cluster.rig.git("clone", "-q", "--bare", "--depth=1", origin, str(shallow))
        order = cluster.order("cat n; echo new >new.txt", rig=shallow)
        pod = cluster.pod(order)
        pipe = cluster.into(pod)
        await pipe.outpost_spawn(order)
        result = await cluster.result(pipe)
        assert result.state is State.DONE, result
        assert cluster.rig.git("show", "polecat/gt-1:new.txt", cwd=shallow) == "new"
        assert pod.log.read_text() == "2\n"

    at_cluster(tmp_path, test)


def test_work_in_a_submodule_that_nobody_takes_comes_out_of_the_pod(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        rig, lib = cluster.rig, tmp_path / "lib.git"
        rig.git("init", "-q", "--bare", "-b", "main", str(lib))
        rig.git("push", "-q", str(lib), "main")
        rig.git("submodule", "--quiet", "add", str(lib), "lib")
        rig.commit({})
        order = cluster.order(
            "git -c protocol.file.allow=always submodule --quiet update --init"
            " && echo work >lib/f && echo own >own"
        )
        pipe = cluster.into(cluster.pod(order))
        await pipe.outpost_spawn(order)
        there = await cluster.result(pipe)
        assert (there.state, there.reason) == (State.FAILED, "submodule_unpushed")
        result = await rescue.fetch(pipe, order, there, cluster.near, source="x")
        assert result.checkpoint == there.checkpoint, "it is a ref in the rig"
        assert result.checkpoint is not None
        assert rig.show(result.checkpoint, "own") == "own"
        archive = cluster.near / "rescued" / "gt-1.1.tar"
        assert str(archive) in result.message
        assert str(pipe.pod.root) not in result.message
        assert await cluster.leave(pipe) == 1
        await asyncio.to_thread(pipe.pod.kill)
        with tarfile.open(archive) as tar:
            assert "repositories/lib.bundle" in tar.getnames()

    at_cluster(tmp_path, test)


def test_what_cannot_travel_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        assert rigs.travels(cluster.order("true"), "pods")
        assert not rigs.travels(cluster.order("true", rig="https://host/x.git"), "pods")
        order = cluster.order("true")
        assert order.delivery is not None
        away = replace(order.delivery, push_url="https://host/x.git")
        with pytest.raises(SpawnRefusedError, match="from one to the other"):
            rigs.travels(replace(order, delivery=away), "pods")

    at_cluster(tmp_path, test)
