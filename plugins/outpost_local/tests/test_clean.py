"""Ended workers are removed, after what they did not push is safe."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from outpost_core.types import Delivery, State
from outpost_local.options import Fence
from outpost_worker.recovery import cleaning
from outpost_worker.system import removal


def git(folder: Path, *argv: str) -> str:
    words = ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL")
    who = {f"GIT_{word}": "t@t" for word in words}
    return subprocess.run(
        ["git", *argv], cwd=folder, check=True, capture_output=True, text=True, timeout=60,
        env=os.environ | who,
    ).stdout.strip()  # fmt: skip


@pytest.fixture
def rig(tmp_path) -> Path:
    seed = tmp_path / "seed"
    seed.mkdir()
    git(seed, "init", "-q", "-b", "main")
    (seed / "file").write_text("1\n")
    git(seed, "add", ".")
    git(seed, "commit", "-q", "-m", "first")
    git(tmp_path, "clone", "-q", "--bare", "seed", "rig.git")
    return tmp_path / "rig.git"


def rig_order(place, rig: Path, script: str):
    delivery = Delivery(branch="polecat/gt-1", message="gt-1: work")
    return place.order("/bin/sh", "-c", script, rig=str(rig), delivery=delivery)


def test_delivered_work_is_removed_and_nothing_needs_rescue(tmux_place, rig):
    async def main():
        outpost = tmux_place.make()
        ended = await tmux_place.run(outpost, rig_order(tmux_place, rig, "echo 2 > file"))
        assert ended.state is State.DONE, ended
        assert git(rig, "rev-parse", "polecat/gt-1") == ended.result.commit
        cleaned = await outpost.outpost_clean("gt-1.1", False)
        assert (cleaned.removed, cleaned.rescued) == (True, None)
        assert await outpost.outpost_list() == []
        assert (await outpost.outpost_clean("gt-1.1", False)).removed

    asyncio.run(main())


def test_failed_work_is_on_the_rig_before_it_is_removed(tmux_place, rig):
    async def main():
        outpost = tmux_place.make()
        script = "echo 2 > file; echo new > more; exit 1"
        ended = await tmux_place.run(outpost, rig_order(tmux_place, rig, script))
        assert ended.state is State.FAILED
        (tmux_place.folder("gt-1.1") / "work" / "later").write_text("by hand, afterwards\n")
        cleaned = await outpost.outpost_clean("gt-1.1", False)
        assert (cleaned.removed, cleaned.rescued) == (True, "refs/outpost/gt-1.1")
        files = git(rig, "ls-tree", "--name-only", cleaned.rescued).split()
        assert files == ["file", "later", "more"]
        assert git(rig, "show", f"{cleaned.rescued}:file") == "2"

    asyncio.run(main())


def test_where_the_rig_takes_nothing_the_work_is_kept_as_a_bundle(tmux_place, rig, tmp_path):
    async def main():
        outpost = tmux_place.make(fence=Fence.OFF)
        script = f"echo 2 > file; mv {rig} {rig}.away; exit 1"
        ended = await tmux_place.run(outpost, rig_order(tmux_place, rig, script))
        assert ended.state is State.FAILED
        cleaned = await outpost.outpost_clean("gt-1.1", False)
        kept = tmux_place.root / "rescued" / "gt-1.1.bundle"
        assert (cleaned.removed, cleaned.rescued) == (True, str(kept))
        assert kept.stat().st_mode & 0o077 == 0
        away = tmp_path / "rig.git.away"
        git(away, "fetch", "-q", str(kept), "refs/outpost/gt-1.1:refs/heads/back")
        assert git(away, "show", "back:file") == "2"

    asyncio.run(main())


def test_what_the_rig_takes_after_all_is_said_to_be_there(tmux_place, rig):
    async def main():
        outpost = tmux_place.make(fence=Fence.OFF)
        script = f"echo 2 > file; mv {rig} {rig}.away; exit 1"
        await tmux_place.run(outpost, rig_order(tmux_place, rig, script))
        rig.with_name(f"{rig.name}.away").rename(rig)
        cleaned = await outpost.outpost_clean("gt-1.1", False)
        assert (cleaned.removed, cleaned.rescued) == (True, "refs/outpost/gt-1.1")
        assert git(rig, "show", f"{cleaned.rescued}:file") == "2"

    asyncio.run(main())


def test_a_broken_repository_is_kept(tmux_place, rig):
    async def main():
        outpost = tmux_place.make()
        script = "echo 2 > file; git add -A; rm .git/HEAD; exit 1"
        await tmux_place.run(outpost, rig_order(tmux_place, rig, script))
        cleaned = await outpost.outpost_clean("gt-1.1", False)
        assert (cleaned.removed, cleaned.rescued) == (True, "refs/outpost/gt-1.1")
        assert git(rig, "show", f"{cleaned.rescued}:file") == "2"
        (kept,) = (tmux_place.root / "rescued").glob("gt-1.1.broken-git-*")
        assert (kept / "index").exists()

    asyncio.run(main())


def test_what_cannot_be_rescued_is_removed_only_by_force(tmux_place, rig):
    async def main():
        outpost = tmux_place.make(fence=Fence.OFF)
        script = "echo 2 > file; rm -rf .git ../../../rigs; exit 1"
        await tmux_place.run(outpost, rig_order(tmux_place, rig, script))
        cleaned = await outpost.outpost_clean("gt-1.1", False)
        assert not cleaned.removed
        assert "could not be rescued" in cleaned.detail
        assert (tmux_place.folder("gt-1.1") / "work" / "file").read_text() == "2\n"
        cleaned = await outpost.outpost_clean("gt-1.1", True)
        assert cleaned.removed
        assert "could not be rescued" in cleaned.detail

    asyncio.run(main())


def test_what_runs_or_waits_is_not_removed_even_by_force(place):
    async def main():
        from outpost_worker.folder import publish

        outpost = place.make()
        publish.publish(place.root, place.order("/bin/true", issue="waits"), {})
        await outpost.outpost_spawn(place.order("/bin/sleep", "60"))
        await place.until(outpost, lambda status: status.state is State.WORKING, "gt-1.1")
        for worker in ("gt-1.1", "waits.1"):
            for force in (False, True):
                cleaned = await outpost.outpost_clean(worker, force)
                assert not cleaned.removed
                assert "has not ended" in cleaned.detail
                assert place.folder(worker).exists()
            await outpost.outpost_stop(worker, 1)
        await place.end(outpost)
        for worker in ("gt-1.1", "waits.1"):
            assert (await outpost.outpost_clean(worker, False)).removed
        assert await outpost.outpost_list() == []
        assert await place.make().outpost_list() == []

    asyncio.run(main())


def test_links_out_of_the_tree_are_removed_and_not_followed(place, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("stay")
    script = (
        f"ln -s {outside} link; mkdir -p a/b; ln -s {outside} a/b/link; "
        "mkdir ro; touch ro/f; chmod 500 ro"
    )

    async def main():
        outpost = place.make()
        await place.run(outpost, place.order("/bin/sh", "-c", script))
        assert (await outpost.outpost_clean("gt-1.1", False)).removed
        assert (outside / "precious").read_text() == "stay"
        assert list((place.root / "trash").iterdir()) == []

    asyncio.run(main())


def test_folders_without_permissions_go_and_not_what_links_point_to(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "link").symlink_to(outside)
    (tree / "a" / "b" / "file").touch()
    (tree / "a" / "b").chmod(0o000)
    (tree / "a").chmod(0o500)
    tree.chmod(0o500)
    (outside / "precious").touch()
    assert removal.remove(tree).left == []
    assert not tree.exists()
    assert outside.stat().st_mode & 0o777 == 0o755
    assert (outside / "precious").exists()


def test_what_a_crash_left_half_removed_goes_with_the_next_one(place, monkeypatch):
    # as a program does that has not looked yet; another test had a folder of this name
    monkeypatch.setattr(cleaning, "_swept", {})

    async def main():
        outpost = place.make()
        await place.run(outpost, place.order("/bin/true"))
        half = place.root / "trash" / "gt-0.1.abcd" / "work"
        half.mkdir(parents=True)
        (half / "file").write_text("x")
        assert (await outpost.outpost_clean("gt-1.1", False)).removed
        assert not half.parent.exists()

    asyncio.run(main())


def test_many_programs_clean_at_once(place):
    async def main():
        outposts = [place.make() for _ in range(4)]
        orders = [place.order("/bin/true", issue=f"gt-{i}") for i in range(6)]
        await asyncio.gather(*(outposts[0].outpost_spawn(order) for order in orders))
        await place.end(outposts[0])
        for order in orders:
            answers = await asyncio.gather(
                *(outpost.outpost_clean(order.worker, False) for outpost in outposts)
            )
            assert any(answer.removed for answer in answers)
        for outpost in outposts:
            assert await outpost.outpost_list() == []

    asyncio.run(main())


def test_a_tree_too_deep_to_walk_blocks_neither_its_own_clean_nor_another(place):
    script = "import os\nfor i in range(2500): os.mkdir('d'); os.chdir('d')\n"

    async def main():
        outpost = place.make()
        await place.run(outpost, place.order(sys.executable, "-c", script))
        await place.run(outpost, place.order("/bin/true", issue="gt-2"))
        for worker in ("gt-1.1", "gt-2.1"):
            cleaned = await outpost.outpost_clean(worker, False)
            assert (cleaned.removed, cleaned.detail) == (True, "")
        assert list((place.root / "trash").iterdir()) == []

    asyncio.run(main())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_what_cannot_be_removed_is_said_and_the_rest_goes_on(place):
    async def main():
        outpost = place.make()
        await place.run(outpost, place.order("/bin/sh", "-c", "mkdir m; touch file"))
        await place.run(outpost, place.order("/bin/true", issue="gt-2"))
        inside = place.folder("gt-1.1") / "work" / "m"
        subprocess.run(["mount", "-t", "tmpfs", "none", str(inside)], check=True, timeout=20)
        (trash,) = (None,)
        try:
            for _ in range(2):  # asked again, it is not taken for gone
                cleaned = await outpost.outpost_clean("gt-1.1", False)
                assert not cleaned.removed
                assert "mounted" in cleaned.detail
            assert (await outpost.outpost_clean("gt-2.1", False)).removed
            (trash,) = (place.root / "trash").iterdir()
            (found,) = [f for f in await outpost.outpost_doctor(None) if f.check == "leftovers"]
            assert found.ok is False
            assert "work/m" in found.detail
            assert "owner: root" in found.detail
        finally:
            target = inside if trash is None else trash / "work" / "m"
            subprocess.run(["umount", str(target)], check=False, timeout=20)
        assert (await outpost.outpost_clean("gt-1.1", False)).removed
        assert not trash.exists()

    asyncio.run(main())
