"""Rigs of this machine: killed anywhere, lied to, and out of space."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rigkit import DEADLINE, Laptop, PipeOutpost, at_laptop

from outpost_core.errors import OutpostError, SpawnRefusedError, UnreachableError
from outpost_core.types import Json, State, WorkerStatus
from outpost_shared import faults

#: A program of this machine that spawns one order and follows it to its end.
_PROGRAM = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from rigkit import Laptop, PipeOutpost
import rigkit

class There(Laptop):
    def __init__(self, folder):
        self.folder, self.far, self.near = folder, folder / "far", folder / "near"
        self.opened = []

async def main():
    laptop = There(Path(sys.argv[2]))
    outpost = laptop.open()
    order = laptop.order(sys.argv[3], rig=sys.argv[4])
    try:
        await laptop.run(outpost, order)
    finally:
        await outpost.outpost_close()

asyncio.run(main())
"""

COUNT = 'echo run >>"$OUTPOST_WORKER_DIR/runs"; echo new >new.txt'


async def _program(laptop: Laptop, fault: str) -> int:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PROGRAM, str(Path(__file__).parent), str(laptop.folder)),
        *(COUNT, str(laptop.rig.path)),
        env={**os.environ, "OUTPOST_FAULT": fault},
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await asyncio.wait_for(child.wait(), DEADLINE)


async def _is_whole(laptop: Laptop, outpost: PipeOutpost) -> None:
    """See that one worker ran, once, and that its work is here."""
    order = laptop.order(COUNT)
    await outpost.outpost_spawn(order)
    status = (await laptop.end(outpost, order.worker))[order.worker]
    assert status.state is State.DONE, status
    assert status.result is not None
    assert status.result.branch == "polecat/gt-1"
    assert laptop.rig.tip("polecat/gt-1") == status.result.commit
    assert laptop.rig.show("polecat/gt-1", "new.txt") == "new"
    assert (laptop.far / "workers" / order.worker / "exchange/runs").read_text() == "run\n"
    await outpost.outpost_list()
    assert list((laptop.near / "hosted" / "waiting").iterdir()) == []


@pytest.mark.parametrize("point", faults.RIG)
def test_killed_here_and_repeated(tmp_path: Path, point: str) -> None:
    async def test(laptop: Laptop) -> None:
        assert await _program(laptop, point) == -9
        await _is_whole(laptop, laptop.open())

    at_laptop(tmp_path, test)


@pytest.mark.parametrize("point", faults.HOSTED)
def test_killed_there_and_repeated(tmp_path: Path, point: str) -> None:
    async def test(laptop: Laptop) -> None:
        await _is_whole(laptop, laptop.open(fault=point))

    at_laptop(tmp_path, test)


def test_killed_there_while_the_refs_move_and_other_refs_come_next(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        await laptop.run(laptop.open(), laptop.order("true"))
        second = laptop.rig.commit({"README": "second\n"})
        dies = laptop.open(fault="hosted.applied", lines=1)
        with pytest.raises(UnreachableError) as error:
            await dies.outpost_spawn(laptop.order("true", issue="gt-2"))
        assert not error.value.sent  # no spawn was asked for, so another outpost may have it
        (copy,) = laptop.copies()
        assert laptop.rig.git("rev-parse", "main", cwd=copy) == second
        laptop.rig.git("reset", "-q", "--hard", f"{second}^")
        third = laptop.rig.git("commit-tree", "-p", f"{second}^", "-m", "x", f"{second}^^{{tree}}")
        laptop.rig.git("push", "-q", "--force", "origin", f"{third}:main")
        await laptop.run(laptop.open(), laptop.order("true", issue="gt-3"))
        assert laptop.rig.git("rev-parse", "main", cwd=copy) == third

    at_laptop(tmp_path, test)


def test_an_upload_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        (laptop.rig.seed / "large").write_bytes(os.urandom(8 << 20))
        laptop.rig.git("add", "-A")
        laptop.rig.commit({"x": "x\n"})
        first = laptop.open()
        task = asyncio.create_task(first.outpost_spawn(laptop.order("true")))
        deadline = time.monotonic() + DEADLINE
        while first.calls.count("x-rig-put") < 8:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)
        await first.cut()
        with pytest.raises(OutpostError):
            await task
        (part,) = (laptop.far / "hosted" / "incoming").iterdir()
        there = part.stat().st_size
        assert there > 0
        second = laptop.open()
        await laptop.run(second, laptop.order("true"))
        whole = first.calls.count("x-rig-put") + second.calls.count("x-rig-put")
        assert second.calls.count("x-rig-put") <= 18 - there // (512 * 1024), whole

    at_laptop(tmp_path, test)


def test_a_history_that_was_removed_here_meanwhile_comes_back_with_the_work(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        rig = laptop.rig
        side = rig.commit({"side": "x\n"}, "side")
        outpost, _ = await laptop.unfetched(base="side")
        rig.git("push", "-q", "origin", ":side")
        rig.git("reflog", "expire", "--expire=now", "--all", cwd=rig.path)
        rig.git("gc", "-q", "--prune=now", cwd=rig.path)
        assert rig.git("cat-file", "-t", side, cwd=rig.path, ok=False) == ""
        await laptop.end(outpost)
        assert rig.show("polecat/gt-1", "new.txt") == "new"
        assert rig.git("rev-parse", "polecat/gt-1^", cwd=rig.path) == side

    at_laptop(tmp_path, test)


def test_a_copy_that_was_removed_there_is_made_anew(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        import shutil

        await laptop.run(laptop.open(), laptop.order("true"))
        laptop.rig.commit({"README": "changed\n"})
        shutil.rmtree(laptop.copies()[0])
        order = laptop.order("cat README", issue="gt-2")
        await laptop.run(laptop.open(), order)
        assert (laptop.far / "workers" / order.worker / "output.log").read_text() == "changed\n"

    at_laptop(tmp_path, test)


def test_a_full_far_disk_refuses_the_order_and_leaves_nothing(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        laptop.far.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "outpost-test", str(laptop.far)]
        subprocess.run(mount, check=True)
        try:
            (laptop.rig.seed / "large").write_bytes(os.urandom(8 << 20))
            laptop.rig.git("add", "-A")
            laptop.rig.commit({"x": "x\n"})
            outpost = laptop.open()
            with pytest.raises(SpawnRefusedError, match="cannot be kept there") as refused:
                await outpost.outpost_spawn(laptop.order("true"))
            assert "bytes are needed" in refused.value.message
            assert await outpost.outpost_list() == []
            assert list((laptop.far / "hosted" / "incoming").iterdir()) == []
            other = laptop.open(far=laptop.folder / "roomy")
            other.context = type(other.context)(state_dir=laptop.folder / "near2")
            await laptop.run(other, laptop.order("echo new >new.txt"))
            assert laptop.rig.show("polecat/gt-1", "new.txt") == "new"
        finally:
            for outpost in laptop.opened:
                outpost.away = True
                await outpost.outpost_close()
            laptop.opened.clear()
            subprocess.run(["umount", str(laptop.far)], check=True)

    at_laptop(tmp_path, test)


def test_a_far_disk_that_fills_up_on_the_way_refuses_the_order(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        laptop.far.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=40m,mode=700", "outpost-test", str(laptop.far)]
        subprocess.run(mount, check=True)
        try:
            (laptop.rig.seed / "large").write_bytes(os.urandom(8 << 20))
            laptop.rig.git("add", "-A")
            laptop.rig.commit({"x": "x\n"})
            outpost = laptop.open()

            def fill(answer: Json) -> Json:
                other = laptop.far / "other"
                if _dict(answer)["offset"] and not other.exists():
                    with contextlib.suppress(OSError), other.open("wb", buffering=0) as file:
                        while file.write(bytes(1 << 16)):
                            pass
                return answer

            outpost.lies["x-rig-put"] = fill
            # several chunks are on their way: the first complaint is of the one or the other kind
            with pytest.raises(SpawnRefusedError, match=r"No space left|are free"):
                await outpost.outpost_spawn(laptop.order("true"))
            outpost.lies.clear()
            (laptop.far / "other").unlink()
            await laptop.run(outpost, laptop.order("true"))
        finally:
            for each in laptop.opened:
                each.away = True
                await each.outpost_close()
            laptop.opened.clear()
            subprocess.run(["umount", str(laptop.far)], check=True)

    at_laptop(tmp_path, test)


# --- a far side that lies -------------------------------------------------------------------------


def _refs(laptop: Laptop) -> str:
    return laptop.rig.git("for-each-ref", cwd=laptop.rig.path)


@pytest.mark.parametrize(
    "branch", ["main", "../../x", "refs/heads/main", "-f", "polecat/gt-1:main", "HEAD", "a\nb"]
)
def test_the_branch_is_ours_to_choose(tmp_path: Path, branch: str) -> None:
    async def test(laptop: Laptop) -> None:
        main = laptop.rig.tip("main")
        outpost, _ = await laptop.unfetched()
        outpost.lies["x-rig-want"] = lambda answer: {**_dict(answer), "branch": branch}
        await laptop.end(outpost)
        assert laptop.rig.show("polecat/gt-1", "new.txt") == "new"
        assert laptop.rig.tip("main") == main
        assert len(_refs(laptop).splitlines()) == 2

    at_laptop(tmp_path, test)


def _dict(value: Json) -> dict[str, Json]:
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize(
    "lie",
    [
        {"commit": "HEAD"},
        {"commit": "--upload-pack=x"},
        {"commit": "0" * 40},
        {"commit": 7},
        {"sha256": "../../../etc/passwd"},
        {"sha256": "0" * 64},
        {"size": -1},
        {"size": 1 << 60},
        {"size": 5},
        {"data": "not base64!"},
        {"data": base64.b64encode(b"PACKnonsense").decode()},
    ],
    ids=str,
)
def test_nonsense_moves_nothing_here_and_is_told(tmp_path: Path, lie: dict[str, Json]) -> None:
    async def test(laptop: Laptop) -> None:
        before = _refs(laptop)
        outpost, _ = await laptop.unfetched()
        outpost.lies["x-rig-want"] = lambda answer: {**_dict(answer), **lie}
        (seen,) = await outpost.outpost_list()
        assert seen.state is State.WORKING
        assert seen.detail.startswith("waits to be fetched: ")
        assert _refs(laptop) == before
        assert not list(laptop.folder.glob("etc*"))
        outpost.lies.clear()
        await laptop.end(outpost)
        assert laptop.rig.show("polecat/gt-1", "new.txt") == "new"

    at_laptop(tmp_path, test)


def test_a_commit_that_is_a_blob_is_no_commit(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        blob = laptop.rig.git("rev-parse", "main:README")
        outpost, _ = await laptop.unfetched()
        outpost.lies["x-rig-want"] = lambda answer: {**_dict(answer), "commit": blob}
        (seen,) = await outpost.outpost_list()
        assert seen.state is State.WORKING
        assert laptop.rig.tip("polecat/gt-1") is None

    at_laptop(tmp_path, test)


def test_more_than_was_asked_for_does_not_get_in(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost, _ = await laptop.unfetched()
        (copy,) = laptop.copies()
        tree = laptop.rig.git("rev-parse", "main^{tree}", cwd=copy)
        more = laptop.rig.git("commit-tree", "-m", "more", tree, cwd=copy)
        commit = laptop.rig.git("rev-parse", "polecat/gt-1", cwd=copy)
        pack = subprocess.run(
            ["git", "pack-objects", "--revs", "--stdout", "-q"],
            cwd=copy, input=f"{commit}\n{more}\n".encode(), capture_output=True, check=True,
        ).stdout  # fmt: skip
        lie = {
            "sha256": hashlib.sha256(pack).hexdigest(),
            "size": len(pack),
            "data": base64.b64encode(pack).decode(),
        }
        outpost.lies["x-rig-want"] = lambda answer: {**_dict(answer), **lie}
        await laptop.end(outpost)
        assert laptop.rig.tip("polecat/gt-1") == commit
        assert laptop.rig.git("cat-file", "-t", more, cwd=laptop.rig.path, ok=False) == ""

    at_laptop(tmp_path, test)


def test_objects_that_do_harm_are_not_taken(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost, _ = await laptop.unfetched()
        (copy,) = laptop.copies()
        git = laptop.rig.git
        blob = git("rev-parse", "main:README", cwd=copy)
        made = subprocess.run(
            ["git", "hash-object", "-t", "tree", "-w", "--stdin", "--literally"],
            cwd=copy, input=b"100644 .git\0" + bytes.fromhex(blob), capture_output=True, check=True,
        )  # fmt: skip
        commit = git("commit-tree", "-m", "x", "-p", "main", made.stdout.decode().strip(), cwd=copy)
        pack = subprocess.run(
            ["git", "pack-objects", "--revs", "--stdout", "-q"],
            cwd=copy, input=f"{commit}\n".encode(), capture_output=True, check=True,
        ).stdout  # fmt: skip
        lie = {
            "commit": commit,
            "sha256": hashlib.sha256(pack).hexdigest(),
            "size": len(pack),
            "data": base64.b64encode(pack).decode(),
        }
        outpost.lies["x-rig-want"] = lambda answer: {**_dict(answer), **lie}
        (seen,) = await outpost.outpost_list()
        assert seen.state is State.WORKING
        assert "fsck" in seen.detail or ".git" in seen.detail, seen.detail
        assert laptop.rig.tip("polecat/gt-1") is None

    at_laptop(tmp_path, test)


def test_an_end_that_is_only_said_is_not_believed(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost, _ = await laptop.unfetched()
        (laptop.far / "workers" / "gt-1.1" / "home.json").write_text(
            json.dumps({"branch": "polecat/gt-1", "commit": "0" * 40, "checkpoint": None})
        )
        status = (await laptop.end(outpost))["gt-1.1"]
        assert status.result is not None
        assert laptop.rig.tip("polecat/gt-1") == status.result.commit

    at_laptop(tmp_path, test)


@pytest.mark.parametrize("worker", ["../x.1", "x/../../y.1", "", "gt-1", "a\0b.1", "gt-9.1"])
@pytest.mark.parametrize("method", ["x-rig-want", "x-rig-get", "x-rig-home"])
def test_tricks_with_a_worker_s_id_are_refused_there(
    tmp_path: Path, method: str, worker: str
) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        with pytest.raises(OutpostError):
            await outpost.call(
                method, {"worker": worker, "sha256": "0" * 64, "offset": 0, "commit": None}
            )

    at_laptop(tmp_path, test)


@pytest.mark.parametrize("key", ["../x", "", "x", "a/b-" + "0" * 32, "..-" + "0" * 32, 7, None])
@pytest.mark.parametrize("method", ["x-rig-refs", "x-rig-put", "x-rig-take"])
def test_tricks_with_a_copy_s_name_are_refused_there(
    tmp_path: Path, method: str, key: Json
) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        asked = {"key": key, "digest": "", "sha256": "0" * 64, "size": 1, "offset": 0, "data": ""}
        with pytest.raises(OutpostError):
            await outpost.call(method, asked)
        assert not (laptop.far / "hosted").exists()

    at_laptop(tmp_path, test)


def test_what_runs_is_not_home_whatever_is_said(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        order = laptop.order("sleep 2; echo new >new.txt")
        await outpost.outpost_spawn(order)
        for method in ("x-rig-want", "x-rig-home"):
            with pytest.raises(OutpostError, match="has not ended yet"):
                await outpost.call(method, {"worker": order.worker, "branch": None, "commit": None})
        ended: dict[str, WorkerStatus] = await laptop.end(outpost)
        assert ended[order.worker].state is State.DONE

    at_laptop(tmp_path, test)


def test_nothing_of_it_can_be_read_by_others(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        await laptop.run(laptop.open(), laptop.order("echo new >new.txt"))
        for top in (laptop.far / "hosted", laptop.near / "hosted"):
            assert top.stat().st_mode & 0o077 == 0, top
        assert (laptop.near / "controller").stat().st_mode & 0o077 == 0

    at_laptop(tmp_path, test)
