"""The program of a pod is killed, stopped and not read, at every step: nothing runs twice."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import podkit
import pytest
from podkit import commit, pod, runs, work

from outpost_core.types import Result, State, Usage
from outpost_k8s.far import termination
from outpost_testing.gitrig import GitRig

#: After each durable write of `run` and of what it calls, in its own process.
STEPS = (
    "server.noted", "record.pushed", "record.claimed", "local.sealed", "local.staged",
    "local.published", "local.launched", "record.finished", "server.settled", "pod.told",
)  # fmt: skip


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    (tmp_path / "rig").mkdir()
    return GitRig(tmp_path / "rig")


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step_and_begun_again_on_the_same_disk_the_agent_runs_once(
    tmp_path: Path, rig: GitRig, step: str
) -> None:
    with pod(tmp_path / "pod", work(rig, commit("made"))) as one:
        code = one.start(OUTPOST_FAULT=step).wait()
        assert code == -signal.SIGKILL, one.said()
        said = one.run()
        assert said["result"]["state"] == "done", said
        assert said["claim"] == podkit.record_of(rig)["id"]
        assert runs(rig) == 1
        assert rig.git("-C", str(rig.path), "rev-parse", "outpost/k-1") == said["result"]["commit"]


@pytest.mark.parametrize("step", ["record.claimed", "local.published", "record.finished"])
def test_killed_at_a_step_another_pod_runs_nothing(tmp_path: Path, rig: GitRig, step: str) -> None:
    order = work(rig, commit("made"))
    with pod(tmp_path / "a", order) as first, pod(tmp_path / "b", order, uid="cd" * 16) as second:
        first.start(OUTPOST_FAULT=step).wait()
        first.kill()
        before = runs(rig)
        assert second.run() == {"v": 1, "elsewhere": podkit.UID.replace("-", "")}
        assert runs(rig) == before <= 1


def test_a_container_that_is_killed_leaves_its_claim_to_who_looks(
    tmp_path: Path, rig: GitRig
) -> None:
    with pod(tmp_path / "pod", work(rig, "echo ready; sleep 1000")) as one:
        one.start()
        podkit.until(lambda: one.log.read_bytes() == b"ready\n", one.said)
        one.kill()
        assert (one.folder / "termination").read_bytes() == b""
        assert "result" not in podkit.record_of(rig)


@pytest.mark.parametrize("asked", [False, True])
def test_sigterm_saves_the_work_and_says_why(tmp_path: Path, rig: GitRig, asked: bool) -> None:
    script = f"trap '' TERM; {commit('made')}; echo more > more.txt; echo ready; sleep 1000"
    with pod(tmp_path / "pod", work(rig, script, grace=1.0)) as one:
        one.start()
        podkit.until(lambda: one.log.read_bytes() == b"ready\n", one.said)
        if asked:  # by a command that wrote it down and could not reach the supervisor
            (one.root / "pod" / "stop.json").write_text('{"grace": 600}')
        one.signal()
        assert one.wait() == 1
        result = one.message()["result"]
        assert (result["state"], result["reason"]) == (
            "stopped",
            "stopped" if asked else "terminated",
        )
        assert result["checkpoint"] == podkit.rescued_ref()
        shown = rig.git("-C", str(rig.path), "show", f"{podkit.rescued_ref()}:more.txt")
        assert shown == "more"
        assert podkit.record_of(rig)["result"]["reason"] == result["reason"]


def test_who_is_there_before_the_program_has_said_anything_is_heeded(
    tmp_path: Path, rig: GitRig
) -> None:
    order = work(rig, commit("made"))
    with pod(tmp_path / "pod", order) as one:

        async def stop() -> None:
            async with one.asked() as place:
                assert (await place.outpost_spawn(order)).state is State.QUEUED
                await place.outpost_stop(worker="k-1.1", grace=5.0)

        asyncio.run(stop())
        result = one.run()["result"]
        assert (result["state"], result["reason"]) == ("stopped", "stopped")
        assert result["agent_began"] is False
        assert runs(rig) == 0
        assert podkit.record_of(rig)["result"]["reason"] == "stopped"


def test_sigterm_while_the_rig_is_away_ends_at_once(tmp_path: Path, rig: GitRig) -> None:
    order = podkit.order("k-1", "true", "git://127.0.0.1:9/rig.git")
    with pod(tmp_path / "pod", order) as one:
        one.start().until("claiming")
        one.signal()
        one.wait(podkit.PATIENCE)
        result = one.message()["result"]
        assert (result["state"], result["reason"]) == ("stopped", "terminated")
        assert result["agent_began"] is False


@pytest.mark.slow
def test_sigterm_with_a_rig_that_hangs_is_told_before_the_cluster_kills_the_pod(
    tmp_path: Path, rig: GitRig
) -> None:
    hangs = tmp_path / "hangs"
    hook = rig.path / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\nwhile [ -e {hangs} ]; do sleep 0.2; done\n")
    hook.chmod(0o755)
    script = f"trap '' TERM; {commit('made')}; echo ready; sleep 1000"
    with pod(tmp_path / "pod", work(rig, script, grace=0.5)) as one:
        one.start()
        podkit.until(lambda: one.log.read_bytes() == b"ready\n", one.said)
        hangs.touch()
        try:
            began = time.monotonic()
            one.signal()
            assert one.wait() == 1
            assert time.monotonic() - began < 0.5 + 60, "the pod's grace (job: grace + 60 s)"
        finally:
            hangs.unlink()
        result = one.message()["result"]
        assert (result["state"], result["reason"]) == ("stopped", "terminated")


def test_a_place_for_notes_that_is_gone_ends_no_work(tmp_path: Path, rig: GitRig) -> None:
    go = tmp_path / "go"
    script = f"echo ready; while [ ! -e {go} ]; do sleep 0.05; done; {commit('made')}"
    with pod(tmp_path / "pod", work(rig, script)) as one:
        one.start()
        podkit.until(lambda: one.log.read_bytes() == b"ready\n", one.said)
        shutil.rmtree(one.root / "pod")
        (one.root / "pod").touch()
        go.touch()
        assert one.wait() == 0, one.said()
        assert one.message()["result"]["state"] == "done"


def test_a_defect_of_the_program_saves_the_work_first(tmp_path: Path, rig: GitRig) -> None:
    script = f"{commit('made')}; echo more > more.txt; echo ready; sleep 1000"
    # the program itself, where keeping a claim is broken
    broken = (
        "import outpost_k8s.far.pod as pod, os, sys\n"
        "from pathlib import Path\n"
        "async def broken(self):\n"
        f"    while b'ready' not in Path({str(tmp_path / 'pod' / 'stdout')!r}).read_bytes():\n"
        "        await pod.asyncio.sleep(0.05)\n"
        "    raise ZeroDivisionError('a defect')\n"
        "pod.Pod._pause = broken\n"
        "from outpost_k8s.far.__main__ import main\n"
        "main(['run'])\n"
    )
    with pod(tmp_path / "pod", work(rig, script, grace=1.0)) as one:
        with one.log.open("wb") as log, one.errors.open("wb") as errors:
            one.process = subprocess.Popen(
                [sys.executable, "-c", broken], env=one.env,
                stdin=subprocess.DEVNULL, stdout=log, stderr=errors,
            )  # fmt: skip
        assert one.wait() == 1
        result = one.message()["result"]
        assert (result["state"], result["reason"]) == ("stopped", "terminated"), one.said()
        assert "a defect" in one.said()
        shown = rig.git("-C", str(rig.path), "show", f"{podkit.rescued_ref()}:more.txt")
        assert shown == "more"


def test_a_stop_that_is_asked_for_at_the_record_ends_it(tmp_path: Path, rig: GitRig) -> None:
    from outpost_worker.record.places import on_rig

    with pod(tmp_path / "pod", work(rig, "echo ready; sleep 1000", grace=1.0)) as one:
        one.start()
        podkit.until(lambda: one.log.read_bytes() == b"ready\n", one.said)
        (tmp_path / "other").mkdir(mode=0o700)
        record = on_rig(f"file://{rig.path}", str(tmp_path / "other"), podkit.OWNER)
        record.ask_stop("k-1.1", 1.0)
        assert one.wait() == 1
        assert one.message()["result"]["reason"] == "stopped"


def test_a_claim_that_another_one_took_ends_the_agent_and_delivers_nothing(
    tmp_path: Path, rig: GitRig
) -> None:
    from outpost_worker.record.kinds import Claim
    from outpost_worker.record.places import on_rig

    order = work(rig, f"{commit('made')}; echo ready; sleep 1000", grace=1.0)
    with pod(tmp_path / "pod", order) as one:
        one.start()
        podkit.until(lambda: one.log.read_bytes() == b"ready\n", one.said)
        (tmp_path / "other").mkdir(mode=0o700)
        record = on_rig(f"file://{rig.path}", str(tmp_path / "other"), podkit.OWNER)
        found = record.read("k-1.1")
        assert found is not None
        taken = Claim(
            worker="k-1.1", digest=found.claim.digest, owner=podkit.OWNER, instance="ee" * 8, leg=2
        )
        assert record.take_over(taken, found.seen).id == taken.id
        assert one.wait() == 1
        assert one.message() == {"v": 1, "elsewhere": "ee" * 8}
        assert rig.git("-C", str(rig.path), "branch", "--list", "outpost/k-1") == ""


def test_who_does_not_read_the_log_stalls_nothing(tmp_path: Path, rig: GitRig) -> None:
    """The pipe to the container's log is full, and stays so."""
    size = 3 << 20
    script = f"head -c {size} /dev/zero | tr '\\0' x; {commit('made')}"
    with pod(tmp_path / "pod", work(rig, script)) as one:
        reads, writes = os.pipe()
        try:
            with one.errors.open("wb") as errors:
                one.process = subprocess.Popen(
                    [sys.executable, "-m", "outpost_k8s.far", "run"], env=one.env,
                    stdin=subprocess.DEVNULL, stdout=writes, stderr=errors,
                )  # fmt: skip
            podkit.until(lambda: podkit.record_of(rig).get("result"), one.said)
            one.wait()
            os.close(writes)
            taken = len(b"".join(iter(lambda: os.read(reads, 1 << 20), b"")))
        finally:
            os.close(reads)
        said = one.message()
        assert said["result"]["state"] == "done"
        assert said["log"]["bytes"] == size
        assert said["log"]["copied"] == taken < size
        assert said["log"]["newline"] is False


def test_who_reads_slowly_gets_every_byte(tmp_path: Path) -> None:
    size = (1 << 20) + 17
    order = podkit.order("k-1", f"head -c {size} /dev/urandom | tee {tmp_path}/sent")
    with pod(tmp_path / "pod", order) as one, one.errors.open("wb") as errors:
        one.process = subprocess.Popen(
            [sys.executable, "-m", "outpost_k8s.far", "run"], env=one.env,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
        assert one.process.stdout is not None
        got = b"".join(iter(lambda: one.process.stdout.read1(4096), b""))
        one.process.stdout.close()
        one.wait()
        sent = (tmp_path / "sent").read_bytes()
        said = one.message()
        assert said["log"]["bytes"] == size
        shown = sent.replace(b"\r\n", b"\r\r\n")  # a runtime takes one away
        assert got == shown + (b"\n" if said["log"]["newline"] else b"")


def test_a_termination_message_is_json_of_at_most_4096_bytes() -> None:
    import json

    long = Result(
        state=State.FAILED, reason="agent_failed", message="ä" * 8000, branch="b" * 250,
        checkpoint="/c" * 2000, session="s" * 4000, pr_url="p" * 4000, fence="f" * 900,
        usage=Usage(model="m" * 4000), exit_code=3, log_bytes=7,
    )  # fmt: skip
    for result in (long, Result(state=State.DONE, message="ä" * 3000)):
        said = termination.ended(result, 7, 7, newline=True, claim="a" * 64)
        assert len(said) <= 4096
        told = json.loads(said)
        assert told["result"]["state"] == result.state.value
        assert told["claim"] == "a" * 64
    assert told["result"]["message"].startswith("ää")
