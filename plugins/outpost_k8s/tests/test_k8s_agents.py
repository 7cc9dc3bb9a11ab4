"""Claude Code and Codex themselves, in pods of a real kubelet."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import k8snearkit
import pytest
from k8snearkit import JOBS, PODS, SECRETS
from peers import MissingError, containers
from peers.githttp import GitHttp
from peers.kubelab import Cluster
from peers.stubmodel import API_KEY, StubModel

from outpost_agents.presets import PRESETS
from outpost_core.types import Delivery, Secrets, State
from outpost_k8s.outpost import K8sOutpost
from outpost_manager.orders.presets import resolve
from outpost_testing.gitrig import GitRig

pytestmark = [pytest.mark.kube, pytest.mark.slow]

CHECKOUT = Path(__file__).parents[3]
AGENTS = Path(os.environ.get("OUTPOST_AGENTS_DIR") or CHECKOUT / ".cache" / "agents").absolute()
EVENTS = "/api/v1/namespaces/{}/events"
#: Gives Codex its configuration, which would be in the image, and becomes it.
CONFIGURED = (
    'export CODEX_HOME=$(mktemp -d) && printf %s "$CODEX_TOML" >$CODEX_HOME/config.toml'
    ' && exec "$@"'
)


@pytest.fixture(scope="module")
def image(cluster: Cluster) -> str:
    installed = AGENTS / "node_modules"
    if not (installed / "@openai").is_dir():
        raise MissingError("the real agents are not installed: .ci/install-agents installs them")
    built = containers.image("claude", "codex", node_modules=installed)
    tag: str = cluster.load_image(built.tag, containers.base())
    return tag


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace() as made:
        yield made


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    (tmp_path / "rig").mkdir()
    return GitRig(tmp_path / "rig")


@pytest.fixture
def served(cluster: Cluster, rig: GitRig) -> Iterator[str]:
    """The URL by which pods reach the rig themselves."""
    server = GitHttp(rig.folder, address=cluster.host_address)
    rig.git("config", "http.receivepack", "true", cwd=rig.path)
    server.start()
    try:
        yield f"{server.url}/{rig.path.name}"
    finally:
        server.stop()


@pytest.mark.parametrize("pushed_by", ["this machine", "its pod"])
@pytest.mark.parametrize(
    ("name", "key", "whose"),
    [("claude", "ANTHROPIC_API_KEY", "order"), ("codex", "OPENAI_API_KEY", "namespace")],
)
def test_a_real_agent_works_in_a_pod_and_its_key_is_seen_nowhere(
    cluster: Cluster, image: str, namespace: str, tmp_path: Path, rig: GitRig, served: str,
    name: str, key: str, whose: str, pushed_by: str,
) -> None:  # fmt: skip
    home = tmp_path / "home"
    home.mkdir()
    said = k8snearkit.options(
        cluster, namespace, image=image, cpu=0.8, memory=2 << 30, ephemeral_storage=1 << 30,
        secrets={key: "model/key"} if whose == "namespace" else {},
    )  # fmt: skip
    if whose == "namespace":
        value = base64.b64encode(API_KEY.encode()).decode()
        metadata = {"name": "model"}
        cluster.admin.post(
            SECRETS.format(namespace),
            {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"key": value}},
        )

    async def work(mine: K8sOutpost, model: StubModel) -> None:
        env = model.claude_env(home) if name == "claude" else model.codex_env(home)
        kept = {k: v for k, v in env.items() if k != key and str(tmp_path) not in v}
        agent = resolve(name, PRESETS, interactive=False)
        if name == "codex":
            kept["CODEX_TOML"] = (home / ".codex" / "config.toml").read_text()
            agent = replace(agent, argv=("sh", "-c", CONFIGURED, "sh", *agent.argv))
        wanted = replace(
            k8snearkit.order("gt-1", rig=served if pushed_by == "its pod" else str(rig.path)),
            agent=agent, env=kept, prompt="Add a second line",
            delivery=Delivery(branch="outpost/gt-1", message="gt-1: work"),
            secrets=Secrets({key: API_KEY} if whose == "order" else {}),
        )  # fmt: skip
        await mine.outpost_spawn(order=wanted)
        status = await k8snearkit.ended(mine, wanted.worker)
        there = [
            await asyncio.to_thread(cluster.admin.get, path.format(namespace))
            for path in (JOBS, PODS, EVENTS)
        ]
        assert all(found["items"] for found in there)
        log = b"".join([piece async for piece in mine.outpost_logs(wanted.worker, 0, False)])
        assert status.result is not None
        assert (status.state, status.result.reason) == (State.DONE, "ok"), (status, log)
        assert status.result.usage.output_tokens == 80
        assert status.result.commit == rig.tip("outpost/gt-1")
        assert rig.show("outpost/gt-1", "notes.txt") == "second line"
        turns = [one.headers for one in model.requests if one.method == "POST"]
        assert any(API_KEY in one.get("x-api-key", one.get("authorization", "")) for one in turns)
        assert API_KEY not in json.dumps(there)
        assert API_KEY.encode() not in log
        for path in (tmp_path / "state").rglob("*"):
            assert not path.is_file() or API_KEY.encode() not in path.read_bytes(), path
        assert (await mine.outpost_clean(worker=wanted.worker, force=False)).removed

    command = "echo 'second line' >>notes.txt"
    with StubModel(command=command, answer="I added it.", address=cluster.host_address) as model:
        k8snearkit.with_outpost(said, tmp_path / "state", lambda mine: work(mine, model))
