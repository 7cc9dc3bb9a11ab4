"""Work that no remote took, brought here from a pod before it goes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from podkit import OWNER, commit, rescued_ref, work
from podrigkit import Cluster, PodPipe, at_cluster

from outpost_core import wire
from outpost_core.errors import SpawnRefusedError, UnreachableError
from outpost_core.types import Json, Order, Result, State
from outpost_exec import rescue
from outpost_k8s.near import resuming
from outpost_k8s.objects import job as jobs
from outpost_k8s.options import K8sOptions
from outpost_shared import faults
from outpost_worker.work import lfs

HOOK = '#!/bin/sh\ncase "$1" in */records/*|*/stops/*) exit 0;; esac\nexit 1\n'

#: A program of this machine that fetches the work of one pod.
_PROGRAM = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
import json
from outpost_core import wire
from outpost_core.types import Order, Result
from outpost_exec import rescue
from podkit import Pod
from podrigkit import PodPipe

async def main():
    folder, order, result, near = Path(sys.argv[3]), *sys.argv[4:]
    order = wire.from_json(Order, json.loads(order))
    pipe = PodPipe(Pod(folder, order), Path(near))
    try:
        result = wire.from_json(Result, json.loads(result))
        await rescue.fetch(pipe, order, result, Path(near), source="x")
    finally:
        await pipe.outpost_close()

asyncio.run(main())
"""


async def lingering(
    cluster: Cluster, script: str, *, setting: Callable[[Order], Order] = lambda order: order
) -> tuple[PodPipe, Order, Result]:
    """Return a pod that waits for its work to be fetched, which the rig did not take."""
    rig = cluster.rig
    hook = rig.path / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(HOOK)
    hook.chmod(0o755)
    order = setting(work(rig, script, "gt-1"))
    pod = cluster.pod(order, OUTPOST_HOSTED="")
    await asyncio.to_thread(pod.until, "lingering")
    pipe = cluster.into(pod)
    (status,) = await pipe.outpost_list()
    assert status.result is not None
    return pipe, order, status.result


def is_commit(cluster: Cluster, path: str, name: str, content: str) -> None:
    """See that a bundle has the work."""
    cluster.rig.git("fetch", "-q", path, f"+{rescued_ref('gt-1.1')}:refs/heads/got")
    assert cluster.rig.git("show", f"got:{name}") == content
    cluster.rig.git("update-ref", "-d", "refs/heads/got")


def rescued(cluster: Cluster) -> list[str]:
    folder = cluster.near / "rescued"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_bundle_comes_home_and_the_pod_may_go(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        pipe, order, there = await lingering(cluster, commit("made"))
        assert (there.checkpoint or "").startswith(str(pipe.pod.root))
        result = await rescue.fetch(pipe, order, there, cluster.near, source="x")
        kept = cluster.near / "rescued" / f"gt-1.1.{OWNER}.bundle"
        assert result.checkpoint == str(kept)
        assert (result.state, result.reason) == (State.FAILED, "push_failed")
        assert str(pipe.pod.root) not in result.message
        is_commit(cluster, str(kept), "made.txt", "made")
        assert kept.stat().st_mode & 0o777 == 0o600
        assert [*(cluster.near / "incoming").iterdir()] == []
        assert await cluster.leave(pipe) == 1
        await asyncio.to_thread(pipe.pod.kill)
        is_commit(cluster, str(kept), "made.txt", "made")

    at_cluster(tmp_path, test)


def test_the_next_pod_goes_on_from_a_bundle_that_came_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(cluster: Cluster) -> None:
        script = f"{commit('made')}; echo more >more.txt"
        pipe, order, there = await lingering(cluster, script)
        await rescue.fetch(pipe, order, there, cluster.near, source="x")
        assert await cluster.leave(pipe) == 1
        cluster.rig.path.joinpath("hooks", "update").unlink()
        again = work(cluster.rig, "cat made.txt more.txt; echo new >new", "gt-1")
        again = replace(again, attempt=2, resume=rescued_ref("gt-1.1"))
        bundle = resuming.bundle_for(again, cluster.near, volume=False)
        secret = jobs.secret(K8sOptions(image="worker"), again, "", bundle)
        pod = cluster.pod(again, begins=False, OUTPOST_HOSTED="")
        (pod.folder / "order" / jobs.BUNDLE).write_bytes(
            base64.b64decode(secret["data"][jobs.BUNDLE])
        )
        result = await asyncio.to_thread(pod.run)
        assert result["result"]["state"] == "done", result
        assert pod.log.read_bytes() == b"made\nmore\n"
        assert cluster.rig.show(result["result"]["branch"], "new") == "new"
        assert cluster.rig.show(result["result"]["branch"], "made.txt") == "made"

        assert resuming.bundle_for(order, cluster.near, volume=False) == b"", "it is the first"
        other = replace(again, resume=rescued_ref("gt-9.1"))
        assert resuming.bundle_for(other, cluster.near, volume=False) == b"", "it is not here"
        monkeypatch.setattr(resuming, "MOST", 10)
        assert resuming.bundle_for(again, cluster.near, volume=True) == b"", "the volume has it"
        with pytest.raises(SpawnRefusedError, match="10 can travel"):
            resuming.bundle_for(again, cluster.near, volume=False)

    at_cluster(tmp_path, test)


def test_large_files_and_archives_come_along(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        rig, lib = cluster.rig, tmp_path / "lib.git"
        rig.git("init", "-q", "--bare", "-b", "main", str(lib))
        rig.git("push", "-q", str(lib), "main")
        rig.git("submodule", "--quiet", "add", str(lib), "lib")
        rig.commit({".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n"})
        lib.joinpath("hooks/update").write_text("#!/bin/sh\nexit 1\n")
        lib.joinpath("hooks/update").chmod(0o755)
        script = (
            "git -c protocol.file.allow=always submodule --quiet update --init &&"
            " echo work >lib/f && head -c 1500000 /dev/zero >new.bin && echo own >own"
        )
        pipe, order, there = await lingering(cluster, script)
        result = await rescue.fetch(pipe, order, there, cluster.near, source="x")
        kept = cluster.near / "rescued"
        name = f"gt-1.1.{OWNER}"
        assert {*rescued(cluster)} == {f"{name}.bundle", f"{name}.lfs", f"{name}.tar"}, there
        oid = hashlib.sha256(bytes(1500000)).hexdigest()
        assert lfs.is_whole(lfs.object_path(str(kept / f"{name}.lfs"), oid), oid)
        with tarfile.open(kept / f"{name}.tar") as tar:
            assert "repositories/lib.bundle" in tar.getnames()
        assert result.checkpoint == str(kept / f"{name}.bundle")
        assert str(kept / f"{name}.tar") in result.message
        assert str(pipe.pod.root) not in result.message

    at_cluster(tmp_path, test)


@pytest.mark.parametrize("point", faults.RESCUE)
def test_killed_here_and_repeated(tmp_path: Path, point: str) -> None:
    async def test(cluster: Cluster) -> None:
        pipe, order, there = await lingering(cluster, commit("made"))
        near = Path(__file__).parent
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _PROGRAM, str(near)),
            *(str(near.parents[1] / "outpost_exec/tests"), str(pipe.pod.folder)),
            *(wire.dumps(order), wire.dumps(there), str(cluster.near)),
            env={**os.environ, "OUTPOST_FAULT": point},
        )
        assert await child.wait() == -9
        result = await rescue.fetch(pipe, order, there, cluster.near, source="x")
        assert rescued(cluster) == [f"gt-1.1.{OWNER}.bundle"]
        assert result.checkpoint is not None
        is_commit(cluster, result.checkpoint, "made.txt", "made")
        assert [*(cluster.near / "incoming").iterdir()] == []

    at_cluster(tmp_path, test)


def test_a_fetch_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        script = f"head -c {8 << 20} /dev/urandom >large; {commit('made')}"
        pipe, order, there = await lingering(cluster, script)
        first = asyncio.create_task(rescue.fetch(pipe, order, there, cluster.near, source="x"))
        while pipe.calls.count("x-bundle") < 9:
            await asyncio.sleep(0.001)
        await pipe.cut()
        with pytest.raises(UnreachableError):
            await first
        (part,) = (cluster.near / "incoming").glob("*/checkpoint.bundle")
        come = part.stat().st_size
        assert come > 0
        assert rescued(cluster) == []
        second = cluster.into(pipe.pod)
        result = await rescue.fetch(second, order, there, cluster.near, source="x")
        assert second.calls.count("x-bundle") <= 1 + 18 - come // (512 * 1024)
        assert result.checkpoint is not None
        is_commit(cluster, result.checkpoint, "made.txt", "made")

    at_cluster(tmp_path, test)


def test_two_programs_do_not_fetch_at_once(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        pipe, order, there = await lingering(cluster, commit("made"))
        other = cluster.into(pipe.pod)
        tries = [
            rescue.fetch(each, order, there, cluster.near, source="x") for each in (pipe, other)
        ]
        ended = await asyncio.gather(*tries, return_exceptions=True)
        good = [each for each in ended if isinstance(each, Result)]
        assert good, ended
        for each in ended:
            if not isinstance(each, Result):
                assert "another program" in str(each)
        assert rescued(cluster) == [f"gt-1.1.{OWNER}.bundle"]

    at_cluster(tmp_path, test)


def test_work_of_somebody_else_stays(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        pipe, order, there = await lingering(cluster, commit("made"))
        stranger = cluster.near / "rescued" / f"gt-1.1.{OWNER}.bundle"
        stranger.parent.mkdir(parents=True, mode=0o700)
        cluster.rig.git("bundle", "create", "-q", str(stranger), "main")
        before = stranger.read_bytes()
        result = await rescue.fetch(pipe, order, there, cluster.near, source="x")
        assert result.checkpoint == str(stranger.with_name(f"gt-1.1.{OWNER}.2.bundle"))
        assert stranger.read_bytes() == before
        is_commit(cluster, result.checkpoint, "made.txt", "made")

    at_cluster(tmp_path, test)


def _files(**more: Any) -> dict[str, Any]:
    return {"files": [{"name": "checkpoint.bundle", "size": 5, "path": "/x", **more}]}


@pytest.mark.parametrize(
    "lie",
    [
        7,
        {"files": {}},
        {"files": [7]},
        _files(name="../../authorized_keys"),
        _files(name="/etc/passwd"),
        _files(name="a/./b"),
        _files(name=".git/config"),
        _files(name="a\x1b[2J"),
        _files(name="a" * 500),
        _files(size=-1),
        _files(size=1.5),
        _files(size=1 << 60),
        {"files": _files()["files"] * 2},
        {"files": _files()["files"] * 20_000},
    ],
)
def test_a_list_that_cannot_be_is_refused(tmp_path: Path, lie: Any) -> None:
    async def test(cluster: Cluster) -> None:
        order = work(cluster.rig, "true", "gt-1")
        pipe = _Liar({"list": lie})
        result = Result(state=State.FAILED, checkpoint="/x")
        with pytest.raises(UnreachableError):
            await rescue.fetch(pipe, order, result, cluster.near, source="x")  # type: ignore[arg-type]
        assert not cluster.near.exists() or not rescued(cluster)

    at_cluster(tmp_path, test)


class _Liar:
    """A pod that says what it likes."""

    name = "liar"

    def __init__(self, says: dict[str, Any]) -> None:
        self.says = says

    async def call(self, method: str, params: dict[str, Json]) -> Any:
        return self.says[str(params.get("name", "list"))]


def test_what_is_no_bundle_of_the_worker_is_not_taken_for_its_work(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        rig = cluster.rig
        order = work(rig, "true", "gt-1")
        other = tmp_path / "other.bundle"
        rig.git("bundle", "create", "-q", str(other), "main")
        for data in (b"nonsense\n", other.read_bytes()):
            liar = _Liar({
                "list": _files(size=len(data)), "checkpoint.bundle": {"data": data}
            })  # fmt: skip
            there = Result(state=State.FAILED, reason="push_failed", checkpoint="/x", message="m")
            result = await rescue.fetch(liar, order, there, cluster.near, source="x")  # type: ignore[arg-type]
            assert result == replace(there, checkpoint=None, message=result.message)
            assert result.message.startswith("m; what it sent as its unpushed work cannot be used:")
            assert rescued(cluster) == []

    at_cluster(tmp_path, test)


def test_pieces_of_another_size_are_refused(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        order = work(cluster.rig, "true", "gt-1")
        for data in (b"", b"x" * 6):
            liar = _Liar({"list": _files(), "checkpoint.bundle": {"data": data}})
            with pytest.raises(UnreachableError, match="not as it was told"):
                await rescue.fetch(
                    liar,  # type: ignore[arg-type]
                    order,
                    Result(state=State.FAILED),
                    cluster.near,
                    source="x",
                )

    at_cluster(tmp_path, test)


def test_broken_objects_and_archives_are_said_and_left_out(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        order = work(cluster.rig, "true", "gt-1")
        oid = "ab" * 32
        name = f"checkpoint.lfs/objects/ab/ab/{oid}"
        told = {"files": [{"name": n, "size": 3, "path": f"/{n}"} for n in (name, "gt-1.1.tar")]}
        liar = _Liar({"list": told, name: {"data": b"xyz"}, "gt-1.1.tar": {"data": b"xyz"}})
        there = Result(state=State.DONE, message="kept in /gt-1.1.tar")
        result = await rescue.fetch(liar, order, there, cluster.near, source="x")  # type: ignore[arg-type]
        assert f"the object {oid} of git-lfs is broken there" in result.message
        assert "the archive gt-1.1.tar cannot be read" in result.message
        assert rescued(cluster) == []

    at_cluster(tmp_path, test)


def test_a_full_disk_is_said_before_anything_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(cluster: Cluster) -> None:
        order = work(cluster.rig, "true", "gt-1")
        monkeypatch.setattr(rescue, "_SPARE", 1 << 60)
        liar = _Liar({"list": _files(size=1 << 30)})
        with pytest.raises(UnreachableError, match="there is room for 0 MiB"):
            await rescue.fetch(
                liar, order, Result(state=State.FAILED), cluster.near, source="x"  # type: ignore[arg-type]
            )  # fmt: skip

    at_cluster(tmp_path, test)
