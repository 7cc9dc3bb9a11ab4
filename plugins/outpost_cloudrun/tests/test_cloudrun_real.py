"""The real layer: TLS and HTTP/2 by nghttpx, and containers with limits, a freezer and an OOM."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from peers import MissingError
from peers import containers as peer
from peers.stubmodel import API_KEY, StubModel
from wholekit import Whole, git, whole

from outpost_agents.presets import PRESETS
from outpost_cloudrun.testing.podman import Podman
from outpost_core.types import State
from outpost_manager.orders.presets import resolve

CHECKOUT = Path(__file__).parents[3]
AGENTS = Path(os.environ.get("OUTPOST_AGENTS_DIR") or CHECKOUT / ".cache" / "agents").absolute()
KEYS = [("claude", "ANTHROPIC_API_KEY"), ("codex", "OPENAI_API_KEY")]

pytestmark = [pytest.mark.containers, pytest.mark.slow]


@pytest.fixture(scope="module")
def image() -> peer.Image:
    return peer.image()


@pytest.fixture(scope="module")
def boxes() -> Iterator[peer.Containers]:
    with peer.containers() as made:
        yield made


@pytest.fixture
def desk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: peer.Image, boxes: peer.Containers
) -> Iterator[Whole]:
    podman = Podman(image=image.id, env=boxes.env)
    with whole(tmp_path, monkeypatch, tls=True, podman=podman, memory=512 << 20) as made:
        yield made
    assert peer.podman(boxes.env, "ps", "--all", "--quiet").stdout == ""


def test_the_main_job_through_tls_and_a_container(desk: Whole) -> None:
    assert desk.google.front("worker").startswith("https://")
    desk.spawn(desk.order("gt-1"))
    result = desk.result("gt-1.1")
    assert (result.state, result.reason) == (State.DONE, "ok"), result
    assert desk.branch("gt-1") == result.commit
    assert desk.log("gt-1.1") == b"began\nended\n"
    posts = desk.google.journal.entries("request", method="POST")
    assert {each.about["version"] for each in posts} == {"2"}


def test_a_front_that_restarts_with_goaway_is_not_noticed(desk: Whole) -> None:
    desk.spawn(desk.order("gt-1", "sleep 3"))
    desk.google.restart_front("worker", hard=False)
    assert desk.result("gt-1.1").state is State.DONE
    assert desk.log("gt-1.1") == b"began\nended\n"


def test_a_front_that_is_cut_is_found_again(desk: Whole) -> None:
    desk.spawn(desk.order("gt-1", "sleep 3"))
    desk.google.restart_front("worker", hard=True)
    assert desk.result("gt-1.1").state is State.DONE
    assert desk.log("gt-1.1") == b"began\nended\n"


def test_without_a_request_the_kernel_freezes_the_container(
    desk: Whole, boxes: peer.Containers
) -> None:
    desk.spawn(desk.order("gt-1"))
    assert desk.result("gt-1.1").state is State.DONE
    desk.google.journal.wait("instance.frozen")
    (id_,) = peer.podman(boxes.env, "ps", "--quiet", "--no-trunc").stdout.split()
    freezer = peer.Container(boxes.env, id_).cgroup("freezer") / "freezer.state"
    end = time.monotonic() + 60
    while freezer.read_text() != "FROZEN\n":
        assert time.monotonic() < end
        time.sleep(0.02)
    desk.spawn(desk.order("gt-2"))
    assert desk.result("gt-2.1").state is State.DONE


def test_an_agent_that_eats_the_memory_takes_its_container_along(desk: Whole) -> None:
    eat = "python3 -c 'x = [bytearray(1 << 24) for _ in range(100)]'"
    desk.spawn(desk.order("gt-1", f"sleep 1; {eat}"))
    [ended] = desk.google.journal.wait("instance.ended", memory=True)
    assert ended.about["memory"] is True


@pytest.fixture(scope="module")
def with_agents() -> peer.Image:
    installed = AGENTS / "node_modules"
    if not (installed / "@openai").is_dir():
        raise MissingError("the real agents are not installed: .ci/install-agents installs them")
    return peer.image("claude", "codex", node_modules=installed)


#: Gives Codex its configuration, which would be in the image, and becomes it.
_CONFIGURED = (
    'export CODEX_HOME=$(mktemp -d) && printf %s "$CODEX_TOML" >$CODEX_HOME/config.toml'
    ' && exec "$@"'
)


@pytest.mark.parametrize(("name", "key"), KEYS)
def test_real_agents_work_behind_the_front_with_keys_of_secret_manager(
    name: str, key: str, with_agents: peer.Image, boxes: peer.Containers, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    podman = Podman(image=with_agents.id, env=boxes.env)
    secret = "projects/proj-1/secrets/model"
    home = tmp_path / "home"
    home.mkdir()
    with (
        StubModel(command="echo 'second line' >>notes.txt", answer="I added it.") as model,
        whole(
            tmp_path, monkeypatch, tls=True, podman=podman, deployed=False, cpu=2.0,
            memory=2 << 30, secrets={key: f"{secret}:1"},
        ) as desk,
    ):  # fmt: skip
        desk.google.cloud.secrets[secret] = [API_KEY]
        desk.deploy()
        env = model.claude_env(home) if name == "claude" else model.codex_env(home)
        kept = {k: v for k, v in env.items() if k != key and str(tmp_path) not in v}
        agent = resolve(name, PRESETS, interactive=False)
        if name == "codex":
            kept["CODEX_TOML"] = (home / ".codex" / "config.toml").read_text()
            agent = replace(agent, argv=("sh", "-c", _CONFIGURED, "sh", *agent.argv))
        order = replace(desk.order("gt-1"), agent=agent, env=kept, prompt="Add a second line")
        desk.spawn(order)
        result = desk.result("gt-1.1")
        log = desk.log("gt-1.1").decode()
        assert (result.state, result.reason) == (State.DONE, "ok"), (result, log)
        assert result.usage is not None
        assert result.usage.output_tokens == 80
        assert API_KEY not in log
        rig = desk.google.folder / "rigs" / "rig.git"
        assert git(rig, "show", "outpost/gt-1:notes.txt") == "second line"
