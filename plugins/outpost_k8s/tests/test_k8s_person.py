"""A person at a worker in a real pod, from the command line: attach, nudge and peek."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import k8snearkit as kit
import pytest
from docswalk import Reader, Typed, steps
from guidestages import program
from nearkit import AGENT, Near
from peers.githttp import GitHttp
from peers.kubelab import Lab, Options, own_lab

from outpost_core.errors import UnreachableError
from outpost_core.types import Agent, Delivery, Issue, Order, State
from outpost_k8s.near import pod
from outpost_k8s.outpost import K8sOutpost
from outpost_manager.manager import Manager
from outpost_testing.gitrig import GitRig

pytestmark = pytest.mark.kube

T = TypeVar("T")
OUTPOST = str(Path(sys.executable).with_name("outpost"))
#: Seconds until what has to come is taken for missing.
PATIENCE = 90.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A cluster of its own: its API server is frozen."""
    with own_lab(Options(fake_nodes=0)) as running:
        yield running


class Desk:
    """A command line, and one interactive worker in a pod."""

    def __init__(self, folder: Path, lab: Lab, image: str, namespace: str) -> None:
        self.lab = lab
        self._words = ["--config", str(folder / "outposts.yaml"), "--state", str(folder / "state")]
        one = {
            "name": "kube", "type": "k8s", "kubeconfig": str(lab.kubeconfig),
            "namespace": namespace, "image": image, "image_pull_policy": "Never",
            "cpu": 0.3, "memory": "128MiB", "ephemeral_storage": "64MiB",
        }  # fmt: skip
        (folder / "outposts.yaml").write_text(json.dumps({"outposts": [one]}))
        self._folder = folder
        self._env = {name: value for name, value in os.environ.items() if name != "TMUX"}
        self._env |= {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        self._near: list[Near] = []
        agent = Agent(argv=("python", "-I", "-S", "-c", AGENT), interactive=True)
        self.ask(lambda m: m.spawn(Order(issue=Issue(id="gt-1"), agent=agent)))

    def ask(self, work: Callable[[Manager], Awaitable[T]]) -> T:
        async def run() -> T:
            config, state = self._folder / "outposts.yaml", self._folder / "state"
            async with Manager.open(config=config, state=state) as manager:
                return await work(manager)

        return asyncio.run(run())

    def state(self) -> State:
        return self.ask(lambda m: m.worker("gt-1")).state

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [OUTPOST, *self._words, *words], env=self._env, capture_output=True, text=True,
            check=False, timeout=2 * PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def peek_until(self, wanted: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while wanted not in (shown := self.run("peek", "gt-1")):
            assert time.monotonic() < deadline, shown

    def attach(self) -> Near:
        self._near.append(Near([OUTPOST, *self._words, "attach", "gt-1"], self._env, 90, 30))
        return self._near[-1]

    def close(self) -> None:
        for near in self._near:
            near.close()


@pytest.fixture
def desk(lab: Lab, image: str, namespace: str, tmp_path: Path) -> Iterator[Desk]:
    one = Desk(tmp_path, lab, image, namespace)
    yield one
    one.close()


def test_a_worker_in_a_pod_is_seen_typed_to_and_left(desk: Desk) -> None:
    near = desk.attach()
    near.until(b"ready")
    near.type(b"\x03")
    near.until(b"[03]")
    near.resize(100, 40)
    near.until(b"<100x39>")
    near.type(b"\x02d")
    assert near.end() == 0
    assert b"gt-1.1 keeps running" in near.seen
    assert near.as_before()
    desk.run("nudge", "gt-1", "go on")
    desk.peek_until("676f206f6e")  # as the agent tells of keys
    assert "ready" in desk.run("peek", "gt-1")
    assert desk.state() in (State.WORKING, State.IDLE)


def test_what_the_guide_has_a_reader_type(lab: Lab, image: str, namespace: str) -> None:
    """Step by step, from adding the cluster to a branch on the repository."""
    page = Path(__file__).parents[3] / "docs" / "guides" / "kubernetes.md"
    called = {
        "--context my-cluster": f"--kubeconfig {lab.kubeconfig} --image-pull-policy Never"
        " --cpu 0.3 --memory 128MiB --ephemeral-storage 64MiB",
        "registry.example/team/outpost-worker:1": image,
        "--namespace outpost": f"--namespace {namespace}",
        "create namespace outpost": f"get namespace {namespace}",
        "label namespace outpost": f"label namespace {namespace}",
        "-n outpost": f"-n {namespace}",
    }
    with tempfile.TemporaryDirectory(prefix="op") as folder:
        reader = Reader(Path(folder))
        rigs = GitHttp(reader.home, address=lab.host_address)
        rigs.start()
        try:
            program(
                reader,
                "kubectl",
                f'#!/bin/sh\nexec {lab.plan.program} kubectl --kubeconfig {lab.kubeconfig} "$@"\n',
            )
            reader.env["ANTHROPIC_API_KEY"] = "a key"
            config = reader.home / ".config" / "outpost" / "outposts.yaml"
            config.parent.mkdir(parents=True)
            config.write_text(  # the image has no claude
                "defaults: {agent: fixer}\nagents:\n"
                "  fixer: {headless: [sh, -c, 'echo fixed >> app.py']}\n"
            )
            reader.typed("git -C ~/app.git config http.receivepack true")
            reader.typed(f"git remote set-url origin {rigs.url}/app.git")
            here = "it needs a cluster: plugins/outpost_k8s/tests/test_k8s_person.py"
            found = [step for step in steps(page, here) if isinstance(step, Typed)]
            assert len(found) == 9
            for step in found:
                if step.command != "outpost bootstrap cluster":
                    reader.do(step, called)
                    continue
                said = reader.shell(step.command).stdout
                wrong = [line for line in said.splitlines() if line.strip().startswith("✗")]
                assert len(wrong) == 1, said
                assert "fixer" in wrong[0], "the image has no agents, and it is said"
            assert "fixed" in reader.typed("git -C ~/app.git show outpost/fix-login:app.py")
        finally:
            reader.leave()
            rigs.stop()


def test_after_a_frozen_api_server_the_next_attach_shows_the_worker(desk: Desk, lab: Lab) -> None:
    near = desk.attach()
    near.until(b"ready")
    lab.stop("apiserver")
    try:
        near.type(b"x")
        assert near.end(PATIENCE) == 5
    finally:
        lab.cont("apiserver")
    assert b"gt-1.1 keeps running" in near.seen
    assert near.as_before()
    again = desk.attach()
    again.until(b"ready")
    again.type(b"y")
    again.until(b"[79]")


def test_a_worker_whose_pod_only_prepares_is_waited_for(
    lab: Lab, image: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rig").mkdir()
    rig = GitRig(tmp_path / "rig")
    rig.git("config", "http.receivepack", "true", cwd=rig.path)
    server = GitHttp(rig.folder, address=lab.host_address)
    said = kit.options(lab, namespace, image=image, cpu=0.3, memory=128 << 20)
    order = kit.order(
        "late", "echo up; sleep 300", rig=f"{server.url}/{rig.path.name}",
        delivery=Delivery(branch="outpost/late", message="late"),
    )  # fmt: skip

    async def look(mine: K8sOutpost) -> None:
        await mine.outpost_spawn(order=order)
        with monkeypatch.context() as soon:
            soon.setattr(pod, "BEGINS", 5.0)
            while True:  # its node is slow to begin, too
                with pytest.raises(UnreachableError) as refused:
                    await mine.outpost_peek(worker=order.worker, lines=5)
                if "is being claimed" in refused.value.message:
                    break
        asked = asyncio.create_task(mine.outpost_peek(worker=order.worker, lines=5))
        await asyncio.sleep(1.0)
        assert not asked.done(), "its rig does not answer yet"
        server.start()
        assert isinstance(await asked, str)

    try:
        kit.with_outpost(said, tmp_path / "state", look)
    finally:
        server.stop()
