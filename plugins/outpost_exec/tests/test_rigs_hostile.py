"""A far machine that lies about the work for a repository of this machine, or sends a trap."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rigkit import Laptop, at_laptop

from outpost_core.errors import SpawnRefusedError
from outpost_core.types import Json, State

HOLD = "while :; do sleep 0.1; done"
WORK = "echo new >new.txt"


def ended(told: Any, **result: Any) -> Any:
    """A status as one of a worker that is done."""
    ends = {"state": "done", "reason": "ok", **result}
    return {**told, "state": "done", "detail": "ok", "result": ends}


def refs(laptop: Laptop) -> str:
    return laptop.rig.git("for-each-ref", cwd=laptop.rig.path)


@pytest.mark.parametrize("branch", ["main", "polecat/gt-1", "../heads/main", None])
def test_a_worker_that_is_said_to_be_done_is_not_without_its_branch(
    tmp_path: Path, branch: str | None
) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        await outpost.outpost_spawn(laptop.order(HOLD))
        commit = laptop.rig.tip("main") if branch else None

        def lie(told: Any) -> Json:
            lied = [ended(one, branch=branch, commit=commit) for one in told["workers"]]
            return {**told, "workers": lied}

        before = refs(laptop)
        outpost.lies["list"] = lie
        for _ in range(3):
            (seen,) = await outpost.outpost_list()
            assert (seen.state, seen.result) == (State.WORKING, None)
        assert refs(laptop) == before
        del outpost.lies["list"]
        await outpost.outpost_stop("gt-1.1", 0.0)
        assert (await laptop.end(outpost))["gt-1.1"].state is State.STOPPED

    at_laptop(tmp_path, test)


def test_a_spawn_that_is_answered_as_done_is_not_believed(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        outpost.lies["spawn"] = lambda told: ended(told, branch="main", commit="0" * 40)
        status = await outpost.outpost_spawn(laptop.order(WORK))
        assert (status.state, status.result) == (State.WORKING, None)
        del outpost.lies["spawn"]
        assert (await laptop.end(outpost))["gt-1.1"].state is State.DONE

    at_laptop(tmp_path, test)


def test_what_is_shown_after_the_way_home_is_what_came_home(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        tip = laptop.rig.tip("main")
        outpost.lies["x-rig-home"] = lambda told: ended(told, branch="main", commit=tip)
        await outpost.outpost_spawn(laptop.order(WORK))
        await laptop.ended_there("gt-1.1")
        (seen,) = await outpost.outpost_list()
        assert seen.state is State.WORKING
        assert seen.detail.endswith("tells of other work than what came home")
        del outpost.lies["x-rig-home"]
        assert (await laptop.end(outpost))["gt-1.1"].state is State.DONE

    at_laptop(tmp_path, test)


def trap(folder: Path, write: Callable[[Callable[..., str]], str]) -> tuple[str, bytes]:
    """Return a commit of a tree that `write` makes, and a pack of it."""
    folder.mkdir()

    def git(*args: str, text: str = "") -> str:
        argv = ("git", "-c", "user.name=x", "-c", "user.email=x@x", *args)
        return subprocess.run(
            argv, cwd=folder, input=text, text=True, check=True, capture_output=True
        ).stdout.strip()

    git("init", "-q")
    commit = git("commit-tree", "-m", "trap", write(git))
    pack = subprocess.run(
        ("git", "pack-objects", "--revs", "--stdout", "-q"),
        cwd=folder, input=f"{commit}\n".encode(), check=True, capture_output=True,
    )  # fmt: skip
    return commit, pack.stdout


def dot_git(git: Callable[..., str]) -> str:
    blob = git("hash-object", "-w", "--stdin", text="#!/bin/sh\ntouch pwned\n")
    hooks = git("mktree", text=f"100755 blob {blob}\tpost-checkout\n")
    inner = git("mktree", text=f"040000 tree {hooks}\thooks\n")
    return git("mktree", text=f"040000 tree {inner}\t.git\n")


def submodule(git: Callable[..., str]) -> str:
    told = '[submodule "x"]\n\tpath = x\n\turl = --upload-pack=touch${IFS}pwned\n'
    blob = git("hash-object", "-w", "--stdin", text=told)
    return git("mktree", text=f"100644 blob {blob}\t.gitmodules\n")


def outside(git: Callable[..., str]) -> str:
    blob = git("hash-object", "-w", "--stdin", text="x")
    inner = git("mktree", text=f"100644 blob {blob}\tx\n")
    return git("mktree", text=f"040000 tree {inner}\t..\n")


@pytest.mark.parametrize("write", [dot_git, submodule, outside])
def test_objects_that_are_traps_do_not_come_into_the_repository(
    tmp_path: Path, write: Callable[[Callable[..., str]], str]
) -> None:
    commit, pack = trap(tmp_path / "trap", write)

    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        told = {
            "commit": commit,
            "checkpoint": None,
            "branch": "polecat/gt-1",
            "sha256": hashlib.sha256(pack).hexdigest(),
            "size": len(pack),
            "data": base64.b64encode(pack).decode(),
        }
        outpost.lies["x-rig-want"] = lambda _: told
        await outpost.outpost_spawn(laptop.order(WORK))
        await laptop.ended_there("gt-1.1")
        before = refs(laptop)
        (seen,) = await outpost.outpost_list()
        assert seen.state is State.WORKING
        assert "cannot be taken" in seen.detail
        assert refs(laptop) == before
        kept = await asyncio.to_thread(
            subprocess.run, ("git", "cat-file", "-e", commit), cwd=laptop.rig.path, check=False
        )
        assert kept.returncode

    at_laptop(tmp_path, test)


@pytest.mark.parametrize("branch", ["main", "../../HEAD", "--all", "polecat/gt-2", "x\nmain"])
def test_the_branch_that_is_told_from_there_decides_nothing(tmp_path: Path, branch: str) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        main = laptop.rig.tip("main")

        def lie(told: Any) -> Json:
            return {**told, "branch": branch}

        outpost.lies["x-rig-want"] = lie
        assert (await laptop.run(outpost, laptop.order(WORK))).state is State.DONE
        assert laptop.rig.tip("main") == main
        assert len(refs(laptop).splitlines()) == 2
        assert laptop.rig.show("polecat/gt-1", "new.txt") == "new"

    at_laptop(tmp_path, test)


@pytest.mark.parametrize(
    "lie",
    [
        {"commit": 7},
        {"commit": "--upload-pack=touch pwned"},
        {"checkpoint": ["x"]},
        {"sha256": "../../../x", "size": 10, "data": "eHh4eHh4eHh4eA=="},
        {"sha256": "x", "size": "10"},
        {"sha256": "x", "size": 1 << 49, "data": None},
        {"data": "!!"},
        {"branch": {"a": 1}, "commit": None, "checkpoint": None},
    ],
)
def test_nonsense_about_a_pack_is_told_and_changes_nothing(
    tmp_path: Path, lie: dict[str, Json]
) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        await outpost.outpost_spawn(laptop.order(WORK))
        await laptop.ended_there("gt-1.1")
        before = refs(laptop)

        def lied(told: Any) -> Json:
            return {**told, **lie}

        outpost.lies["x-rig-want"] = lied
        (seen,) = await outpost.outpost_list()
        assert seen.state is State.WORKING
        assert seen.detail.startswith("waits to be fetched: ")
        assert refs(laptop) == before
        del outpost.lies["x-rig-want"]
        assert (await laptop.end(outpost))["gt-1.1"].state is State.DONE
        assert not [*(laptop.near / "hosted/incoming").iterdir()]

    at_laptop(tmp_path, test)


def test_commits_that_are_told_without_an_end_are_not_listened_to(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        told = iter(range(10**6))
        outpost.lies["x-rig-refs"] = lambda _: {"tips": ["0" * 40], "next": str(next(told))}
        with pytest.raises(SpawnRefusedError, match="tells of commits without an end"):
            await outpost.outpost_spawn(laptop.order(WORK))
        outpost.lies.clear()
        assert (await laptop.run(outpost, laptop.order(WORK))).state is State.DONE

    at_laptop(tmp_path, test)


def test_a_repository_that_cannot_be_written_to_now_gets_the_work_later(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        await outpost.outpost_spawn(laptop.order("head -c 300000 /dev/urandom >new.txt"))
        await laptop.ended_there("gt-1.1")
        config = laptop.rig.path / "config"
        before = config.read_text()
        config.write_text(before + "[receive]\n\tmaxInputSize = 1000\n")
        (seen,) = await outpost.outpost_list()
        assert seen.state is State.WORKING
        assert "could not push polecat/gt-1" in seen.detail
        config.write_text(before)
        assert (await laptop.end(outpost))["gt-1.1"].state is State.DONE

    at_laptop(tmp_path, test)
