"""Agents of the far machine rewrite what is hosted there; a far machine tells nonsense."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rigkit import Laptop, at_laptop

from outpost_core.errors import OutpostError, SpawnRefusedError, UsageError
from outpost_core.types import Json, State
from outpost_exec.rigs import localrig
from outpost_exec.rigs.notes import Notes
from outpost_worker.hosting.copies import Hosted
from outpost_worker.repository import hosted as copies

HOLD = "while [ ! -e {go} ]; do sleep 0.05; done; echo new >new.txt"


def program(folder: Path) -> tuple[Path, Path]:
    ran, path = folder / "ran", folder / "program"
    path.write_text(f"#!/bin/sh\nenv >>{ran}\ncat\nexit 0\n")
    path.chmod(0o755)
    return path, ran


def settings(copy: Path, folder: Path) -> None:
    evil, _ = program(folder)
    for key in ("core.sshCommand", "core.fsmonitor", "core.alternateRefsCommand", "core.gitProxy"):
        subprocess.run(["git", "config", "-f", copy / "config", key, evil], check=True)
    more = folder / "more"
    more.write_text(f"[core]\n\tfsmonitor = {evil}\n[receive]\n\tdenyDeletes = true\n")
    for key, value in (
        ("include.path", str(more)), ("core.hooksPath", str(copy / "hooks")),
        ("receive.denyCurrentBranch", "refuse"), ("receive.fsckObjects", "true"),
        ("receive.hideRefs", "refs/heads"), ("transfer.hideRefs", "refs"),
        ("extensions.partialClone", "x"), ("remote.x.url", "host:x"), ("remote.x.promisor", "true"),
    ):  # fmt: skip
        subprocess.run(["git", "config", "-f", copy / "config", key, value], check=True)
    hooks = copy / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("pre-receive", "update", "post-receive", "post-update", "reference-transaction",
                 "proc-receive", "pre-auto-gc"):  # fmt: skip
        (hooks / name).write_bytes(evil.read_bytes())
        (hooks / name).chmod(0o755)


def elsewhere(copy: Path, folder: Path) -> None:
    """Settings, objects and refs of another repository."""
    evil, _ = program(folder)
    other = folder / "other.git"
    subprocess.run(["git", "clone", "-q", "--bare", copy, other], check=True)
    subprocess.run(["git", "config", "-f", other / "config", "core.sshCommand", evil], check=True)
    (other / "hooks/post-receive").write_bytes(evil.read_bytes())
    (other / "hooks/post-receive").chmod(0o755)
    (copy / "commondir").write_text(f"{other}\n")
    (copy / "objects/info/alternates").write_text(f"{other}/objects\n")
    (copy / "config.worktree").write_text(f"[core]\n\tsshCommand = {evil}\n")


def fifos(copy: Path, folder: Path) -> None:
    for name in ("config", "shallow", "packed-refs", "gc.pid"):
        (copy / name).unlink(missing_ok=True)
        os.mkfifo(copy / name)
    lock = copy.with_suffix(".lock")
    lock.unlink(missing_ok=True)
    os.mkfifo(lock)


def links(copy: Path, folder: Path) -> None:
    precious = folder / "precious"
    precious.write_text("precious\n")
    for name in ("config", "shallow"):
        (copy / name).unlink(missing_ok=True)
        (copy / name).symlink_to(precious)
    lock = copy.with_suffix(".lock")
    lock.unlink(missing_ok=True)
    lock.symlink_to(precious)
    (copy / "hooks").rename(folder / "hooks")
    (copy / "hooks").symlink_to(folder / "hooks")


@pytest.mark.parametrize("attack", [settings, elsewhere, fifos, links])
def test_what_an_agent_there_does_to_the_copy_runs_nothing_and_loses_nothing(
    tmp_path: Path, attack: Any
) -> None:
    async def test(laptop: Laptop) -> None:
        outpost, go = laptop.open(), tmp_path / "go"
        await outpost.outpost_spawn(laptop.order(HOLD.format(go=go)))
        await laptop.until(outpost, lambda each: each.state is State.WORKING)
        (copy,) = laptop.copies()
        attack(copy, tmp_path)
        go.touch()
        seen = (await laptop.end(outpost))["gt-1.1"]
        assert seen.state is State.DONE, seen
        assert laptop.rig.show("polecat/gt-1", "new.txt") == "new"
        attack(copy, tmp_path) if attack in (settings, fifos) else None
        laptop.rig.commit({"later": "1"})  # so that something is sent, and fetched from the copy
        order = laptop.order("test -e later && echo more >more.txt", issue="gt-2")
        assert (await laptop.run(outpost, order)).state is State.DONE
        assert laptop.rig.show("polecat/gt-2", "more.txt") == "more"
        assert not (tmp_path / "ran").exists()
        assert (copy / "config").read_text() == copies.config(sha256=False)
        precious = tmp_path / "precious"
        assert not precious.exists() or precious.read_text() == "precious\n"

    at_laptop(tmp_path, test)


def test_a_copy_that_became_a_link_is_not_written_through(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        first = laptop.order("echo new >new.txt")
        assert (await laptop.run(outpost, first)).state is State.DONE
        (copy,) = laptop.copies()
        other = tmp_path / "other.git"
        subprocess.run(["git", "clone", "-q", "--bare", copy, other], check=True)
        before = sorted(str(path) for path in other.rglob("*"))
        copy.rename(tmp_path / "away.git")
        copy.symlink_to(other)
        laptop.rig.commit({"later": "1"})
        order = laptop.order("echo more >more.txt", issue="gt-2")
        assert (await laptop.run(outpost, order)).state is State.DONE
        assert sorted(str(path) for path in other.rglob("*")) == before
        assert not copy.is_symlink()

    at_laptop(tmp_path, test)


@pytest.mark.parametrize(
    "lie",
    [
        {"tips": ["--all"]}, {"tips": ["HEAD"]}, {"tips": ["0" * 40 + "\n--upload-pack=x"]},
        {"tips": "x" * 40}, {"tips": {"a": 1}}, {"tips": [7]}, {"tips": 7},
        {"shallow": ["refs/heads/main"]}, {"shallow": 7}, {"tips": ["0" * 40] * 200_000},
    ],
)  # fmt: skip
def test_what_the_copy_is_said_to_hold_has_to_be_hashes(
    tmp_path: Path, lie: dict[str, Json]
) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        outpost.lies["x-rig-refs"] = lambda told: {
            "same": False, "tips": [], "next": None, "shallow": [], **lie
        }  # fmt: skip
        with pytest.raises(OutpostError):
            await outpost.outpost_spawn(laptop.order("true"))
        outpost.lies.clear()
        assert (await laptop.run(outpost, laptop.order("true"))).state is State.DONE

    at_laptop(tmp_path, test)


def test_a_long_word_of_what_is_missing_is_cut(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        outpost.lies["x-rig-take"] = lambda _: {"missing": "x" * 10**6}
        with pytest.raises(SpawnRefusedError) as caught:
            await outpost.outpost_spawn(laptop.order("true"))
        assert len(str(caught.value)) < 1500

    at_laptop(tmp_path, test)


def test_a_pack_of_a_huge_object_takes_no_more_memory_than_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = tmp_path / "bomb"
    bomb.mkdir()

    def git(*words: str, data: bytes = b"") -> bytes:
        done = subprocess.run(
            ["git", "-c", "user.name=x", "-c", "user.email=x@x", *words],
            cwd=bomb, input=data, capture_output=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    git("init", "-q")
    blob = git("hash-object", "-w", "--stdin", data=bytes(300 << 20)).decode()
    tree = git("mktree", data=f"100644 blob {blob}\tzeros\n".encode()).decode()
    commit = git("commit-tree", "-m", "bomb", tree).decode()
    pack = subprocess.run(
        ["git", "pack-objects", "--revs", "--stdout", "-q"],
        cwd=bomb, input=f"{commit}\n".encode(), capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert len(pack) < 400_000
    monkeypatch.setattr(localrig, "MEMORY", 128 << 20)

    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        await outpost.outpost_spawn(laptop.order("echo new >new.txt"))
        await laptop.ended_there("gt-1.1")
        outpost.lies["x-rig-want"] = lambda _: {
            "commit": commit, "checkpoint": None, "branch": "polecat/gt-1", "size": len(pack),
            "sha256": hashlib.sha256(pack).hexdigest(), "data": base64.b64encode(pack).decode(),
        }  # fmt: skip
        (seen,) = await laptop.until(outpost, lambda each: "cannot be taken" in each.detail)
        outpost.lies.clear()
        assert (await laptop.end(outpost))[seen].state is State.DONE

    at_laptop(tmp_path, test)


@pytest.mark.parametrize(
    "change",
    [
        {"branch": "--force"}, {"branch": "../heads/main"}, {"branch": 7}, {"branch": None},
        {"ref": "refs/heads/main"}, {"ref": "refs/outpost/gt-9.1"}, {"worker": "gt-9.1"},
        {"rig": "ext::sh -c x"}, {"home": "host:x"}, {"attempt": "1"}, {"kept": ["--all"]},
        {"kept": 7}, {"rig": 7},
    ],
)  # fmt: skip
def test_a_note_that_somebody_has_written_moves_nothing(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    async def test(laptop: Laptop) -> None:
        outpost, _ = await laptop.unfetched()
        (note,) = (laptop.near / "hosted/waiting").glob("*.json")
        before, refs = note.read_text(), laptop.rig.git("for-each-ref", cwd=laptop.rig.path)
        note.write_text(json.dumps({**json.loads(before), **change}))
        (seen,) = await outpost.outpost_list()
        assert seen.state is State.WORKING
        assert "cannot be read" in seen.detail
        assert laptop.rig.git("for-each-ref", cwd=laptop.rig.path) == refs
        note.write_text(before)
        assert (await laptop.end(outpost))["gt-1.1"].state is State.DONE

    at_laptop(tmp_path, test)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/etc/passwd")])
def test_a_note_that_is_no_file_is_waited_for_by_nobody(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "waiting" / "gt-1.1.abc.json"
    path.parent.mkdir()
    make(path)
    with pytest.raises(OutpostError, match="cannot be read"):
        Notes(tmp_path).read("waiting", "gt-1.1.abc")


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_an_upload_is_not_written_through_what_an_agent_there_put_in_its_place(
    tmp_path: Path, kind: str
) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        precious = tmp_path / "precious"
        precious.write_text("precious")
        content = b"x" * 10
        name = hashlib.sha256(content).hexdigest()
        key = f"rig-{'0' * 32}"
        place = laptop.far / "hosted/incoming" / f"{key}.{name}"
        place.parent.mkdir(parents=True)
        os.mkfifo(place) if kind == "fifo" else place.symlink_to(precious)
        asked: dict[str, Json] = {
            "key": key, "sha256": name, "size": 10, "offset": 0,
            "data": base64.b64encode(content).decode(),
        }  # fmt: skip
        told = await asyncio.wait_for(outpost.call("x-rig-put", asked), 60)
        assert told == {"offset": 10}
        assert precious.read_text() == "precious"
        assert place.read_bytes() == content

    at_laptop(tmp_path, test)


def test_only_commits_are_packed(tmp_path: Path) -> None:
    hosted = Hosted(tmp_path, f"rig-{'0' * 32}")
    with pytest.raises(UsageError, match="hash of an object"):
        hosted.pack(["--all"], tmp_path / "out", whole=True)
