"""Work that no remote took: it is waited for, fetched by who execs into the pod, or on a volume."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path
from typing import Any

import podkit
import pytest
from podkit import Pod, commit, pod, runs, work

from outpost_core.names import checkpoint_ref
from outpost_k8s.far import place
from outpost_testing.gitrig import GitRig


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    (tmp_path / "rig").mkdir()
    return GitRig(tmp_path / "rig")


def refuse_pushes(rig: GitRig) -> None:
    """Let the rig take no branch and no checkpoint; records are taken."""
    hook = rig.path / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text('#!/bin/sh\ncase "$1" in */records/*|*/stops/*) exit 0;; esac\nexit 1\n')
    hook.chmod(0o755)


async def ask(one: Pod, method: str, **params: Any) -> Any:
    """One request to who serves the pod."""
    async with one.asked() as asked:
        client = await asked.connect()
        try:
            return await client.call(method, {"worker": one.worker, **params})
        finally:
            await client.aclose()


def test_a_pod_stays_until_its_work_was_fetched(tmp_path: Path, rig: GitRig) -> None:
    refuse_pushes(rig)
    script = f"{commit('made')}; mkfifo pipe; exit 0"
    with pod(tmp_path / "pod", work(rig, script)) as one:
        one.start().until("lingering")
        result = one.message()["result"]  # told already: the pod may be killed while it waits
        assert result["reason"] == "push_failed"
        assert result["checkpoint"].endswith("checkpoint.bundle")
        assert podkit.record_of(rig)["result"]["reason"] == "push_failed"
        assert one.process is not None
        assert one.process.poll() is None

        async def fetch() -> bytes:
            said = await ask(one, "x-state")
            assert (said["phase"], said["worker"]) == ("lingering", "k-1.1")
            first, *_ = (await ask(one, "x-bundle"))["files"]
            assert first["name"] == "checkpoint.bundle"
            data = b""
            while len(data) < first["size"]:
                told = await ask(one, "x-bundle", name=first["name"], offset=len(data))
                data += told["data"]
            return data

        (tmp_path / "fetched.bundle").write_bytes(asyncio.run(fetch()))
        rig.git("fetch", "-q", str(tmp_path / "fetched.bundle"), f"+{podkit.rescued_ref()}:got")
        assert rig.git("show", "got:made.txt") == "made"
        asyncio.run(ask(one, "x-collected"))
        assert one.wait() == 1
        assert one.state()["phase"] == "ended"


def test_nobody_waits_for_ever(tmp_path: Path, rig: GitRig) -> None:
    refuse_pushes(rig)
    with pod(tmp_path / "pod", work(rig, commit("made")), OUTPOST_LINGER="1") as one:
        one.start().until("lingering")
        began = time.monotonic()
        assert one.wait() == 1
        assert time.monotonic() - began < podkit.PATIENCE


def test_sigterm_ends_the_waiting(tmp_path: Path, rig: GitRig) -> None:
    refuse_pushes(rig)
    with pod(tmp_path / "pod", work(rig, commit("made"))) as one:
        one.start().until("lingering")
        one.signal()
        assert one.wait(podkit.PATIENCE) == 1
        assert one.message()["result"]["reason"] == "push_failed"


def test_with_a_volume_it_is_there_and_the_next_attempt_goes_on_from_it(
    tmp_path: Path, rig: GitRig
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    refuse_pushes(rig)
    first = work(rig, f"printf 'some log'; {commit('made')}; echo more > more.txt; exit 3")
    with pod(tmp_path / "a", first, OUTPOST_VOLUME=str(volume)) as one:
        result = one.run()["result"]
        assert one.wait() == 1
        kept = volume / "work" / "k-1.1" / "checkpoint.bundle"
        assert (result["reason"], result["checkpoint"]) == ("agent_failed", str(kept))
        assert kept.is_file()
        # claim, result and log are on the volume as well, and nothing is on the rig
        assert podkit.record_of(rig) == {}
        from outpost_worker.record.places import on_volume, volume_logs
        from outpost_worker.record.segments import KeptLog

        found = on_volume(str(volume), podkit.OWNER).read("k-1.1")
        assert found is not None
        assert found.result is not None
        assert found.result.checkpoint == str(kept)
        assert KeptLog(volume_logs(str(volume)), "k-1.1", podkit.OWNER).read(0) == b"some log"
    (rig.path / "hooks" / "update").unlink()
    ref = checkpoint_ref("k-1.1", podkit.OWNER)
    again = work(rig, f"cat made.txt more.txt; {commit('again')}", attempt=2, resume=ref)
    with pod(tmp_path / "b", again, uid="cd" * 16, OUTPOST_VOLUME=str(volume)) as two:
        result = two.run()["result"]
        assert result["state"] == "done", result
        assert two.log.read_bytes() == b"made\nmore\n"
        assert runs(rig) == 2
        assert rig.git("-C", str(rig.path), "show", "outpost/k-1:more.txt") == "more"


def test_two_pods_of_one_volume_run_a_worker_without_a_rig_once(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    order = podkit.order("k-1", f"echo begun >> {tmp_path}/ran")
    shared = {"OUTPOST_VOLUME": str(volume)}
    with (
        pod(tmp_path / "a", order, **shared) as one,
        pod(tmp_path / "b", order, uid="cd" * 16, **shared) as two,
    ):
        one.start()
        two.start()
        assert sorted((one.wait(), two.wait())) == [0, 1]
        assert (tmp_path / "ran").read_text() == "begun\n"


@pytest.mark.parametrize("step", ["pod.kept", "record.segment_put", "record.finished"])
def test_killed_while_it_writes_to_the_volume_and_begun_again_it_is_whole(
    tmp_path: Path, rig: GitRig, step: str
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    refuse_pushes(rig)
    order = work(rig, f"printf 'some log'; {commit('made')}")
    with pod(tmp_path / "a", order, OUTPOST_VOLUME=str(volume)) as one:
        assert one.start(OUTPOST_FAULT=step).wait() == -9, one.said()
        said = one.run()
        kept = volume / "work" / "k-1.1" / "checkpoint.bundle"
        assert said["result"]["checkpoint"] == str(kept)
        subprocess.run(["git", "-C", rig.path, "bundle", "verify", "-q", kept], check=True)
        assert runs(rig) == 1


def test_a_rig_that_the_cluster_has_already_is_not_cloned(tmp_path: Path, rig: GitRig) -> None:
    cache = tmp_path / "rigs"
    cache.mkdir()
    subprocess.run(
        ["git", "clone", "-q", "--mirror", str(rig.path), str(cache / "rig.git")], check=True
    )
    with pod(tmp_path / "pod", work(rig, commit("made")), OUTPOST_RIG_REFERENCE=str(cache)) as one:
        assert one.run()["result"]["state"] == "done"
        assert "is not used" not in one.said()
        assert [*one.root.glob("rigs/*/objects/pack/*.pack")]


@pytest.mark.parametrize(
    ("there", "rig"),
    [
        ("github.com/o/n.git", "https://github.com/o/n.git"),
        ("github.com/o/n.git", "git@github.com:o/n"),
        ("n.git", "ssh://git@host:2222/o/n.git"),
        ("host/o/n", "ssh://git@host:2222/o/n.git"),
        ("o/n.git", "https://user:secret@host/o/n"),
    ],
)
def test_a_mirror_is_found_by_its_rig(tmp_path: Path, there: str, rig: str) -> None:
    (tmp_path / there / "objects").mkdir(parents=True)
    assert place.mirror_of(str(tmp_path), rig) == str(tmp_path / there)
    assert place.mirror_of(str(tmp_path / there), rig) == str(tmp_path / there)
    assert place.mirror_of(str(tmp_path), "https://host/../../etc") == ""
    assert place.mirror_of(str(tmp_path / "nowhere"), rig) == ""
