"""Every kind of repository of this machine can be worked on at an outpost."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest
from rigkit import Laptop, at_laptop

from outpost_core.errors import SpawnRefusedError
from outpost_core.types import State


def _log(laptop: Laptop, worker: str) -> str:
    return (laptop.far / "workers" / worker / "output.log").read_text()


async def _delivers(laptop: Laptop, rig: Path | str, shown: Path | None = None) -> None:
    """Run a worker on a rig, and see its work there."""
    order = laptop.order("cat README; echo new >new.txt", rig=rig)
    status = await laptop.run(laptop.open(), order)
    assert status.state is State.DONE, status
    assert status.result is not None
    where = shown or Path(rig)
    assert laptop.rig.git("rev-parse", "polecat/gt-1", cwd=where) == status.result.commit
    assert laptop.rig.git("show", "polecat/gt-1:new.txt", cwd=where) == "new"
    assert _log(laptop, order.worker) == "hello\n"


def test_a_repository_with_a_working_tree(tmp_path: Path) -> None:
    at_laptop(tmp_path, lambda laptop: _delivers(laptop, laptop.rig.seed))


def test_a_worktree_of_another_repository(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        tree = laptop.folder / "tree"
        laptop.rig.git("worktree", "add", "-q", "-b", "side", str(tree))
        (tree / "README").write_text("side\n")
        laptop.rig.git("commit", "-q", "-a", "-m", "side", cwd=tree)
        order = laptop.order("cat README; echo new >new.txt", rig=tree)
        status = await laptop.run(laptop.open(), order)
        assert status.state is State.DONE, status
        assert _log(laptop, order.worker) == "side\n"  # its HEAD, not the main one's
        assert laptop.rig.git("show", "polecat/gt-1:new.txt", cwd=tree) == "new"

    at_laptop(tmp_path, test)


def test_a_branch_that_another_worktree_has_checked_out_does_not_move(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        tree = laptop.folder / "tree"
        laptop.rig.git("worktree", "add", "-q", "-b", "polecat/gt-1", str(tree))
        order = laptop.order("echo new >new.txt", rig=laptop.rig.seed)
        result = (await laptop.run(laptop.open(), order)).result
        assert result is not None
        assert result.branch == "polecat/gt-1-1"
        assert not (tree / "new.txt").exists()

    at_laptop(tmp_path, test)


def test_a_file_url(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        await _delivers(laptop, f"file://{laptop.rig.path}", laptop.rig.path)

    at_laptop(tmp_path, test)


def test_a_path_with_blanks_quotes_and_other_letters(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        odd = laptop.folder / 'my "rig" $(x); ärger'
        laptop.rig.git("clone", "-q", "--bare", str(laptop.rig.path), str(odd))
        await _delivers(laptop, odd)

    at_laptop(tmp_path, test)


def test_an_empty_repository(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        empty = laptop.folder / "empty"
        laptop.rig.git("init", "-q", "-b", "trunk", str(empty))
        order = laptop.order("echo new >new.txt", rig=empty)
        status = await laptop.run(laptop.open(), order)
        assert status.state is State.DONE, status
        assert laptop.rig.git("show", "polecat/gt-1:new.txt", cwd=empty) == "new"
        assert laptop.rig.git("symbolic-ref", "HEAD", cwd=empty) == "refs/heads/trunk"

    at_laptop(tmp_path, test)


def test_a_shallow_clone(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        for number in range(5):
            laptop.rig.commit({"count": f"{number}\n"})
        shallow = laptop.folder / "shallow"
        url = f"file://{laptop.rig.path}"
        laptop.rig.git("clone", "-q", "--depth", "2", url, str(shallow))
        await _delivers(laptop, shallow)
        assert (shallow / ".git/shallow").exists()
        laptop.rig.git("fetch", "-q", "--unshallow", cwd=shallow)
        order = laptop.order("git rev-list --count HEAD", issue="gt-2", rig=shallow)
        await laptop.run(laptop.open(), order)
        assert _log(laptop, order.worker) == "6\n"

    at_laptop(tmp_path, test)


def test_a_repository_that_borrows_its_objects(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        borrows = laptop.folder / "borrows"
        laptop.rig.git("clone", "-q", "--shared", str(laptop.rig.path), str(borrows))
        await _delivers(laptop, borrows)

    at_laptop(tmp_path, test)


def test_a_repository_of_sha256(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        modern = laptop.folder / "modern"
        laptop.rig.git("init", "-q", "-b", "main", "--object-format=sha256", str(modern))
        (modern / "README").write_text("hello\n")
        laptop.rig.git("add", "-A", cwd=modern)
        laptop.rig.git("commit", "-q", "-m", "one", cwd=modern)
        await _delivers(laptop, modern)

    at_laptop(tmp_path, test)


def test_a_detached_head_is_where_the_work_begins(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        laptop.rig.commit({"README": "later\n"})
        laptop.rig.git("checkout", "-q", "--detach", "HEAD^")
        await _delivers(laptop, laptop.rig.seed)

    at_laptop(tmp_path, test)


def test_submodules_are_left_as_they_are(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        seed = laptop.rig.seed
        laptop.rig.git("submodule", "--quiet", "add", str(laptop.rig.path), "sub")
        laptop.rig.git("commit", "-q", "-m", "a submodule")
        await _delivers(laptop, seed)
        tree = laptop.rig.git("ls-tree", "polecat/gt-1", "sub")
        assert tree == laptop.rig.git("ls-tree", "main", "sub")

    at_laptop(tmp_path, test)


def test_thousands_of_refs(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        tip = laptop.rig.tip("main")
        text = "".join(f"create refs/tags/t{number} {tip}\n" for number in range(4_000))
        subprocess.run(
            ["git", "update-ref", "--stdin"],
            cwd=laptop.rig.path, input=text.encode(), check=True,
        )  # fmt: skip
        await _delivers(laptop, laptop.rig.path)
        laptop.rig.git("tag", "-d", "t77", cwd=laptop.rig.path)
        order = laptop.order("true", issue="gt-2")
        await laptop.run(laptop.open(), order)
        (copy,) = laptop.copies()
        tags = laptop.rig.git("tag", cwd=copy).splitlines()
        assert len(tags) == 3_999
        assert "t77" not in tags

    at_laptop(tmp_path, test)


@pytest.mark.parametrize("base", ["a tag", "a commit of no branch", "a remote's branch"])
def test_an_order_may_begin_anywhere(tmp_path: Path, base: str) -> None:
    async def test(laptop: Laptop) -> None:
        rig = laptop.rig
        lost = rig.commit({"README": "lost\n"}, "gone")
        rig.git("tag", "-a", "-m", "a tag", "v1", lost)
        rig.git("checkout", "-q", "main")
        rig.git("branch", "-q", "-D", "gone")
        names = {"a tag": "v1", "a commit of no branch": lost}
        if base != "a tag":
            rig.git("tag", "-d", "v1")
        order = laptop.order(
            "cat README", rig=rig.seed, base=names.get(base, "refs/remotes/origin/gone")
        )
        status = await laptop.run(laptop.open(), order)
        assert status.state is State.DONE, status
        assert _log(laptop, order.worker) == "lost\n"

    at_laptop(tmp_path, test)


def test_a_branch_in_the_place_of_a_folder_of_branches(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        tip = laptop.rig.commit({"x": "x\n"}, "topic")
        await laptop.run(outpost, laptop.order("true"))
        laptop.rig.git("branch", "-m", "topic", "topic/one", cwd=laptop.rig.path)
        await laptop.run(outpost, laptop.order("true", issue="gt-2"))
        (copy,) = laptop.copies()
        assert laptop.rig.git("rev-parse", "topic/one", cwd=copy) == tip
        laptop.rig.git("branch", "-m", "topic/one", "topic", cwd=laptop.rig.path)
        await laptop.run(outpost, laptop.order("true", issue="gt-3"))
        assert laptop.rig.git("rev-parse", "topic", cwd=copy) == tip

    at_laptop(tmp_path, test)


def test_a_large_repository_goes_in_many_chunks_and_so_does_the_work(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        (laptop.rig.seed / "large").write_bytes(os.urandom(6 << 20))
        laptop.rig.commit({"README": "hello\n", "more": "x\n"})
        outpost = laptop.open()
        script = "cat README; head -c 5000000 /dev/urandom >big; cmp large ../../x;"
        script += "cp big $OUTPOST_WORKER_DIR/big"
        order = laptop.order(script)
        status = await laptop.run(outpost, order)
        assert status.state is State.DONE, status
        assert outpost.calls.count("x-rig-put") > 10
        assert outpost.calls.count("x-rig-get") >= 10
        got = subprocess.run(
            ["git", "show", "polecat/gt-1:big"],
            cwd=laptop.rig.path, capture_output=True, check=True,
        ).stdout  # fmt: skip
        assert got == (laptop.far / "workers" / order.worker / "exchange" / "big").read_bytes()
        left = [*(laptop.near / "hosted").rglob("*.pack"), *laptop.far.glob("hosted/incoming/*")]
        assert left == []

    at_laptop(tmp_path, test)


def test_the_rig_s_own_environment_and_hooks_do_not_mislead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(laptop: Laptop) -> None:
        for name in ("pre-push", "pre-auto-gc", "post-index-change"):
            hook = laptop.rig.seed / ".git" / "hooks" / name
            hook.write_text(f"#!/bin/sh\necho {name} >>{laptop.folder}/ran; exit 1\n")
            hook.chmod(0o755)
        monkeypatch.setenv("GIT_DIR", str(laptop.folder / "nowhere"))
        monkeypatch.setenv("GIT_WORK_TREE", str(laptop.folder))
        monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere")
        await _delivers(laptop, laptop.rig.seed)
        assert not (laptop.folder / "ran").exists()

    at_laptop(tmp_path, test)


def test_work_for_a_fork_of_this_machine_comes_into_the_fork(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        fork = tmp_path / "fork.git"
        laptop.rig.git("clone", "-q", "--bare", str(laptop.rig.path), str(fork))
        order = laptop.order("echo new >new.txt")
        assert order.delivery is not None
        order = dataclasses.replace(
            order, delivery=dataclasses.replace(order.delivery, push_url=str(fork))
        )
        outpost = laptop.open()
        status = await laptop.run(outpost, order)
        assert status.state is State.DONE, status
        assert status.result is not None
        tip = laptop.rig.git("rev-parse", "polecat/gt-1", cwd=fork)
        assert status.result.commit == tip
        assert laptop.rig.tip("polecat/gt-1") is None

    at_laptop(tmp_path, test)


def test_work_does_not_go_from_here_to_elsewhere(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        order = laptop.order("true")
        assert order.delivery is not None
        elsewhere = dataclasses.replace(order.delivery, push_url="https://h/fork.git")
        with pytest.raises(SpawnRefusedError, match="cannot take its work from one to the other"):
            await laptop.open().outpost_spawn(dataclasses.replace(order, delivery=elsewhere))
        here = dataclasses.replace(order.delivery, push_url=str(laptop.rig.path))
        with pytest.raises(SpawnRefusedError, match="cannot take its work from one to the other"):
            await laptop.open().outpost_spawn(
                dataclasses.replace(order, rig="https://h/x.git", delivery=here)
            )

    at_laptop(tmp_path, test)


def test_a_partial_clone_is_named_with_its_origin(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        laptop.rig.git("config", "uploadpack.allowFilter", "true", cwd=laptop.rig.path)
        laptop.rig.commit({"README": "other\n"})
        url, part = f"file://{laptop.rig.path}", tmp_path / "part"
        laptop.rig.git("clone", "-q", "--no-checkout", "--filter=blob:none", url, str(part))
        laptop.rig.path.rename(tmp_path / "away")
        with pytest.raises(SpawnRefusedError, match="is a partial clone") as caught:
            await laptop.open().outpost_spawn(laptop.order("true", rig=part))
        assert f"--rig {url}" in caught.value.hint

    at_laptop(tmp_path, test)
