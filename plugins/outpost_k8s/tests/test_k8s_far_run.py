"""The program of a pod, from its order to its termination message."""

from __future__ import annotations

import asyncio
from pathlib import Path

import podkit
import pytest
from podkit import commit, pod, runs, work

from outpost_core.types import Secrets
from outpost_testing.gitrig import GitRig


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    (tmp_path / "rig").mkdir()
    return GitRig(tmp_path / "rig")


def test_an_order_becomes_a_pushed_branch_and_a_termination_message(
    tmp_path: Path, rig: GitRig
) -> None:
    script = f"printf 'one\\ntwo'; {commit('made')}"
    with pod(tmp_path / "pod", work(rig, script)) as one:
        said = one.run()
        assert one.wait() == 0, one.said()
        result = said["result"]
        assert (result["state"], result["branch"]) == ("done", "outpost/k-1"), said
        assert rig.git("-C", str(rig.path), "rev-parse", "outpost/k-1") == result["commit"]
        assert said["log"] == {"bytes": 7, "newline": True}
        assert one.log.read_bytes() == b"one\ntwo\n"
        assert one.errors.read_bytes() == b""
        record = podkit.record_of(rig)
        assert record["id"] == said["claim"]
        assert record["instance"] == podkit.UID.replace("-", "")
        assert record["result"]["commit"] == result["commit"]
        assert runs(rig) == 1


def test_an_order_without_a_rig_needs_no_claim(tmp_path: Path) -> None:
    with pod(
        tmp_path / "pod",
        podkit.order("k-1", "echo $KEY; exit 3", secrets=Secrets({"KEY": "hush-hush"})),
    ) as one:
        said = one.run()
        assert one.wait() == 1
        assert (said["result"]["reason"], said["result"]["exit_code"]) == ("agent_failed", 3)
        assert said["claim"] == ""
        assert one.log.read_bytes() == b"***\n"


def test_a_pod_whose_worker_another_one_has_runs_nothing(tmp_path: Path, rig: GitRig) -> None:
    order = work(rig, commit("made"))
    with pod(tmp_path / "a", order) as first, pod(tmp_path / "b", order, uid="ab" * 16) as second:
        first.start()
        second.start()
        codes = sorted((first.wait(), second.wait()))
        assert codes == [0, 1]
        assert runs(rig) == 1
        ran, idle = (first, second) if first.message().get("result") else (second, first)
        assert ran.message()["result"]["state"] == "done"
        assert idle.message() == {"v": 1, "elsewhere": ran.env["OUTPOST_K8S_UID"].replace("-", "")}
        assert b"another pod has this worker" in idle.errors.read_bytes()


def test_a_pod_without_an_order_says_so(tmp_path: Path) -> None:
    with pod(tmp_path / "pod", podkit.order("k-1", "true")) as one:
        (tmp_path / "pod" / "order" / "order.json").unlink()
        said = one.run()
        assert one.wait() == 1
        assert (said["result"]["state"], said["result"]["reason"]) == ("failed", "k8s_no_order")
        assert said["result"]["agent_began"] is False
        assert "there is no order at" in said["result"]["message"]
        assert b"there is no order at" in one.errors.read_bytes()


def test_who_execs_into_the_pod_sees_the_worker_and_can_stop_it(
    tmp_path: Path, rig: GitRig
) -> None:
    script = f"{commit('made')}; echo ready; echo more > more.txt; sleep 1000"
    with pod(tmp_path / "pod", work(rig, script, grace=2.0)) as one:
        one.start()
        podkit.until(lambda: one.log.read_bytes() == b"ready\n", one.said)

        async def ask() -> None:
            async with one.asked() as place:
                (status,) = await place.outpost_list()
                assert (status.id, status.state.value) == ("k-1.1", "working")
                told = place.outpost_logs(worker="k-1.1", offset=2, follow=False)
                assert b"".join([piece async for piece in told]) == b"ady\n"
                await place.outpost_stop(worker="k-1.1", grace=1.0)

        asyncio.run(ask())
        assert one.wait() == 1
        said = one.message()
        assert (said["result"]["state"], said["result"]["reason"]) == ("stopped", "stopped")
        assert said["result"]["checkpoint"] == podkit.rescued_ref()
        shown = rig.git("-C", str(rig.path), "show", f"{podkit.rescued_ref()}:more.txt")
        assert shown == "more"
