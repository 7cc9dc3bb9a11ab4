"""Agents that the configuration defines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ourplugins import ours

from outpost_agents.presets import PRESETS
from outpost_core.errors import ConfigError
from outpost_manager.config import load_config, settings
from outpost_manager.config.model import Defaults
from outpost_manager.manager import Manager
from outpost_manager.offloop import at_once
from outpost_manager.orders.making import OrderRequest


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "outposts.yaml"


def manage(file: Path, text: str, **environ: str) -> Manager:
    file.write_text(text)
    plugins = ours()
    config = load_config(file, plugins.backends, presets=lambda: PRESETS)
    return Manager(config, plugins, file.parent / "state", environ, file.parent)


AIDER = """\
defaults: {agent: aider}
agents:
  aider:
    headless: [aider, --yes, "{prompt}"]
    env: {A: "1"}
    secrets: [AIDER_KEY]
    forward: [AIDER_MODEL]
    install: pipx install aider-chat
    model_args: [--model, "{model}"]
"""


def test_an_agent_of_the_file_is_one_like_any_other(file: Path) -> None:
    with manage(file, AIDER, AIDER_KEY="s3cret", AIDER_MODEL="m") as manager:
        request = OrderRequest(issue="x-1", no_rig=True, prompt="do it", model="big")
        order = at_once(manager.order(request))
    assert order.agent.name == "aider"
    assert order.agent.argv[:2] == ("aider", "--yes")
    assert ("--model", "big") in zip(order.agent.argv, order.agent.argv[1:], strict=False)
    assert order.agent.env == {"A": "1", "AIDER_MODEL": "m"}
    assert dict(order.secrets) == {"AIDER_KEY": "s3cret"}
    assert not order.agent.interactive


def test_an_entry_with_a_presets_name_changes_it_and_leaves_the_rest(file: Path) -> None:
    text = "agents:\n  claude:\n    env: {ANTHROPIC_MODEL: small}\n    max_agent_cost_usd: 2\n"
    with manage(file, text) as manager:
        claude = manager.agents()["claude"]
        assert manager.agents()["codex"] == PRESETS["codex"]
    assert claude.headless == PRESETS["claude"].headless
    assert claude.output == "claude-stream-json"
    assert (claude.env, claude.max_agent_cost_usd) == ({"ANTHROPIC_MODEL": "small"}, 2.0)


def test_config_show_has_what_was_said_and_where(file: Path) -> None:
    file.write_text(AIDER)
    shown = {s.key: s for s in settings(load_config(file, {}))}
    assert shown["agents.aider.headless"].value == ["aider", "--yes", "{prompt}"]
    assert str(shown["agents.aider.secrets"].origin).endswith(":6:14")
    assert shown["defaults.agent"].value == "aider"
    assert Defaults().agent == "claude"


@pytest.mark.parametrize(
    ("lines", "where", "said"),
    [
        ("agents: [a]", "1:9", "a map of names"),
        ("agents:\n  a: 5", "2:6", "is a map with the keys"),
        ("agents:\n  a: {env: {}}", "2:6", "needs a command"),
        ("agents:\n  a: {headless: []}", "2:6", "needs a command"),
        ("agents:\n  claude: {headless: []}", "2:22", "headless is empty"),
        ("agents:\n  a: {headless: [x], resume: ['']}", "2:30", "resume is empty"),
        ("agents:\n  command: {headless: [x]}", "2:3", "not a name for an agent"),
        ("agents:\n  a b: {headless: [x]}", "2:3", "not a name for an agent"),
        ("agents:\n  a: {headles: [x]}", "2:7", "did you mean 'headless'"),
        ("agents:\n  a: {headless: [x], output: claude}", "2:30", "claude-stream-json"),
        (
            "agents:\n  a: {headless: [x], secrets: [K=hunter2]}",
            "2:31",
            "stays in your",
        ),
        ("agents:\n  a: {headless: [x], env: {'1A': x}}", "2:27", "not the name"),
        ("agents:\n  a: {headless: [x], max_agent_cost_usd: -1}", "2:42", "at least 0"),
        ("agent: {}", "1:1", "did you mean 'agents'"),
    ],
)
def test_a_mistake_has_its_place_and_the_right_word(
    file: Path, lines: str, where: str, said: str
) -> None:
    file.write_text(lines + "\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, {}, presets=lambda: PRESETS)
    error = caught.value
    assert f"{error.line}:{error.column}" == where
    assert said in str(error) + error.hint
    assert "hunter2" not in error.message + error.hint
    assert re.search(r"\S", error.message)
