"""The real Claude Code and Codex in the container, against the stub model server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import boxkit
import pytest
from boxkit import Rig, log, order, outpost, result
from peers.containers import Containers, Image
from peers.stubmodel import API_KEY, StubModel

from outpost_agents.presets import PRESETS
from outpost_core.types import State
from outpost_manager.orders.presets import resolve

KEYS = {"claude": "ANTHROPIC_API_KEY", "codex": "OPENAI_API_KEY"}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with boxkit.served_rig(tmp_path) as made:
        yield made


@pytest.mark.parametrize("name", ["claude", "codex"])
def test_an_issue_becomes_a_pushed_branch_with_tokens(
    name: str, containers: Containers, with_agents: Image, rig: Rig, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with StubModel(command="echo 'second line' >>notes.txt", answer="I added it.") as model:
        env = model.claude_env(home) if name == "claude" else model.codex_env(home)
        secrets = {KEYS[name]: env.pop(KEYS[name])}
        # folders of this machine are none of the container's: its own home has what is in them
        env = {key: value for key, value in env.items() if str(tmp_path) not in value}
        config = home / ".codex" / "config.toml"
        agent = resolve(name, PRESETS, interactive=False)
        one = order(rig, agent=agent, env=env, secrets=secrets)
        with boxkit.box(containers, with_agents) as inside:
            if name == "codex":  # or it would ask its provider
                there = "mkdir ~/.codex && cat >~/.codex/config.toml"
                inside.exec("outpost-enter", "sh", "-c", there, stdin=config.read_text())

            async def run() -> None:
                async with outpost(containers, inside, tmp_path) as place:
                    facts = await place.outpost_facts(programs=(name,))
                    assert facts.programs[name] == f"/opt/agents/bin/{name}"
                    began = time.monotonic()
                    await place.outpost_spawn(order=one)
                    found = await result(place, "gt-1.1")
                    text = await log(place, "gt-1.1")
                    print(f"{name}: {time.monotonic() - began:.1f} s")
                    assert (found.state, found.reason) == (State.DONE, "ok"), (found, text)
                    assert found.usage.output_tokens == 80
                    assert API_KEY not in text

            asyncio.run(run())
    assert rig.git("show", "polecat/gt-1:notes.txt") == "first line\nsecond line"
