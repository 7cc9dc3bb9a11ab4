"""The program of a pod in the container, which may as little as a restricted pod may."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import podkit
import pytest
from peers import containers as peer
from peers.containers import PATIENCE, Container, Containers, Image

from outpost_core.types import Order, Secrets
from outpost_testing.gitrig import GitRig
from outpost_worker.record.places import on_volume, volume_logs
from outpost_worker.record.segments import KeptLog

RUN = ("--", "outpost-enter", "python", "-m", "outpost_k8s.far", "run")
#: The user of the image, whose group is the fsGroup of the pod.
USER = 10001


@pytest.fixture(scope="module")
def image() -> Image:
    return peer.image()


@pytest.fixture(scope="module")
def containers() -> Iterator[Containers]:
    with peer.containers() as made:
        yield made


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    (tmp_path / "rig").mkdir()
    return GitRig(tmp_path / "rig")


@pytest.fixture
def served(rig: GitRig) -> Iterator[str]:
    """The rig's URL as a container reaches it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ("--export-all", "--enable=receive-pack", "--reuseaddr", "--listen=127.0.0.1")
    with subprocess.Popen(
        ["git", "daemon", *words, f"--port={port}", f"--base-path={rig.folder}",
         "--log-destination=none", str(rig.folder)],
        stdin=subprocess.DEVNULL,
    ) as daemon:  # fmt: skip
        try:
            podkit.until(lambda: _is_open(port))
            yield f"git://127.0.0.1:{port}/rig.git"
        finally:
            daemon.terminate()


def _is_open(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


class PodOf:
    """The container of a Job, with its volumes as a kubelet makes them."""

    def __init__(
        self,
        containers: Containers,
        image: Image,
        folder: Path,
        order: Order,
        volumes: Sequence[str] = (),
        **env: str,
    ) -> None:
        self.disk, self.termination = folder / "disk", folder / "termination"
        secret = folder / "order"
        for path, mode in ((self.disk, 0o2777), (secret, 0o2750)):
            path.mkdir()
            os.chown(path, 0, USER)
            path.chmod(mode)
        podkit.write_order(secret, order, "a-token-of-git")
        for file in secret.iterdir():
            os.chown(file, 0, USER)
            file.chmod(0o440)
        self.termination.touch()
        self.termination.chmod(0o666)
        options = (
            *peer.CONFINED,
            *("--volume", f"{self.disk}:/outpost/disk:exec"),
            *("--volume", f"{secret}:/outpost/order:ro"),
            *("--volume", f"{self.termination}:/dev/termination-log"),
            *(word for each in volumes for word in ("--volume", each)),
        )
        environ = {
            "OUTPOST_K8S_POD": "outpost-k-1-x7k2p", "OUTPOST_K8S_UID": podkit.UID,
            "OUTPOST_SECRETS": "", "OUTPOST_LOOK": "0.3", **env,
        }  # fmt: skip
        self.container: Container = containers.start(
            image.id, *RUN, options=options, entrypoint="tini", environ=environ
        )

    def message(self) -> dict[str, dict[str, Any]]:
        said: dict[str, dict[str, Any]] = json.loads(self.termination.read_bytes())
        return said

    def serve(self, *lines: dict[str, object]) -> list[dict[str, Any]]:
        """Ask what an exec into it is asked."""
        hello = {"outpost": 1, "hello": {"name": "pod", "options": {}, "nonce": "x"}}
        asked = "".join(f"{json.dumps(one)}\n" for one in (hello, *lines))
        argv = ("outpost-enter", "python", "-m", "outpost_k8s.far", "serve")
        done = self.container.exec(*argv, stdin=asked)
        return [json.loads(line) for line in done.stdout.splitlines() if line]


def test_an_order_becomes_a_pushed_branch_there(
    containers: Containers, image: Image, tmp_path: Path, served: str, rig: GitRig
) -> None:
    looks = "id -u; grep CapEff /proc/self/status; touch /usr/x || echo no"
    script = f"{looks}; {podkit.commit('made')}"
    order = podkit.order("k-1", script, served)
    pod = PodOf(containers, image, tmp_path, order)
    try:
        assert pod.container.wait() == 0, (pod.container.logs(), pod.termination.read_text())
        said = pod.message()
        assert said["result"]["state"] == "done"
        assert rig.git("-C", str(rig.path), "rev-parse", "outpost/k-1") == said["result"]["commit"]
        uid, caps, *_, last = pod.container.logs().splitlines()
        assert uid == "10001"
        assert int(caps.split()[1], 16) == 0
        assert last == "no"
    finally:
        pod.container.remove()


def test_an_agent_sees_nothing_of_the_order_s_folder(
    containers: Containers, image: Image, tmp_path: Path
) -> None:
    script = "cat /outpost/order/* /outpost/disk/state/logins/*/*; ls /outpost/order; echo $KEY"
    order = podkit.order("k-1", script, secrets=Secrets({"KEY": "value-of-the-order"}))
    secret = {"OF_THE_POD": "value-of-the-pod", "OUTPOST_SECRETS": "OF_THE_POD"}
    pod = PodOf(containers, image, tmp_path, order, **secret)
    try:
        pod.container.wait()
        log = pod.container.logs()
        assert pod.message()["result"]["fence"].startswith(("namespace", "landlock")), log
        assert log.endswith("***\n"), log
        assert not any(word in log for word in ("a-token-of-git", "order.json", "value-of")), log
    finally:
        pod.container.remove()


def test_a_pod_that_is_deleted_saves_its_work_and_says_how_it_ended(
    containers: Containers, image: Image, tmp_path: Path, served: str, rig: GitRig
) -> None:
    script = "echo more > more.txt; echo ready; sleep 1000"
    pod = PodOf(containers, image, tmp_path, podkit.order("k-1", script, served, grace=2.0))
    try:
        podkit.until(lambda: pod.container.logs() == "ready\n", pod.container.logs)
        _, told = pod.serve({"id": 1, "method": "x-state", "params": {}})
        assert told["result"]["phase"] == "working", told
        began = time.monotonic()
        pod.container.signal("TERM")
        assert pod.container.wait() == 1
        assert time.monotonic() - began < PATIENCE / 2
        said = pod.message()
        assert (said["result"]["state"], said["result"]["reason"]) == ("stopped", "terminated")
        assert rig.git("-C", str(rig.path), "show", f"{podkit.rescued_ref()}:more.txt") == "more"
        assert podkit.record_of(rig)["result"]["reason"] == "terminated"
    finally:
        pod.container.remove()


def test_claim_log_and_work_are_on_a_volume_and_the_rig_comes_from_another(
    containers: Containers, image: Image, tmp_path: Path, served: str, rig: GitRig
) -> None:
    """Both belong to root, as a kubelet hands them out; nobody in the pod is root."""
    volume, cache = tmp_path / "volume", tmp_path / "rigs"
    volume.mkdir()
    os.chown(volume, 0, USER)
    volume.chmod(0o2775)
    cache.mkdir()
    rig.git("clone", "-q", "--mirror", str(rig.path), str(cache / "rig.git"))
    hook = rig.path / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    script = f"ls /outpost/volume; printf 'some log'; {podkit.commit('made')}"
    pod = PodOf(
        containers, image, tmp_path, podkit.order("k-1", script, served),
        (f"{volume}:/outpost/volume", f"{cache}:/outpost/rigs:ro"),
        OUTPOST_VOLUME="/outpost/volume", OUTPOST_RIG_REFERENCE="/outpost/rigs",
    )  # fmt: skip
    try:
        assert pod.container.wait() == 1
        result = pod.message()["result"]
        assert result["reason"] == "push_failed", (result, pod.container.logs())
        assert result["checkpoint"] == "/outpost/volume/work/k-1.1/checkpoint.bundle"
        assert "records" not in pod.container.logs(), "the agent looked into the volume"
        bundle = volume / "work" / "k-1.1" / "checkpoint.bundle"
        rig.git("fetch", "-q", str(bundle), f"+{podkit.rescued_ref()}:got")
        assert rig.git("show", "got:made.txt") == "made"
        record, logs = on_volume(str(volume), podkit.OWNER), volume_logs(str(volume))
        for path in volume.rglob("*"):  # files of a volume are believed of their owner alone
            os.chown(path, 0, 0)
        found = record.read("k-1.1")
        assert found is not None
        assert found.result is not None
        assert KeptLog(logs, "k-1.1", podkit.OWNER).read(0).endswith(b"some log")
        assert "is not used" not in (pod.disk / "state" / "run.log").read_text()
    finally:
        pod.container.remove()
