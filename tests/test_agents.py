from __future__ import annotations

import pluggy
import pytest

from outpost_agents import plugin
from outpost_agents.presets import PRESETS
from outpost_core import hookspecs
from outpost_core.agents import AgentPreset
from outpost_core.errors import UnsupportedError, UsageError
from outpost_manager.orders.presets import resolve


def test_the_presets_of_the_issue_are_there_under_their_own_names() -> None:
    assert set(PRESETS) == {"claude", "codex", "gemini", "opencode"}
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert preset.summary
        assert preset.install.startswith("npm install -g ")


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("interactive", [False, True])
def test_a_prompt_that_begins_with_a_dash_stays_a_prompt(name: str, interactive: bool) -> None:
    argv = resolve(name, PRESETS, interactive=interactive).argv
    assert argv[0] == name
    (prompt,) = (arg for arg in argv if "{prompt}" in arg)
    assert prompt == argv[-1]
    assert argv[-2] == "--" or prompt.endswith("={prompt}")


@pytest.mark.parametrize("name", PRESETS)
def test_only_headless_output_is_read(name: str) -> None:
    assert resolve(name, PRESETS, interactive=False).output == PRESETS[name].output != "plain"
    agent = resolve(name, PRESETS, interactive=True)
    assert agent.output == "plain"
    assert agent.interactive


def test_claude_never_claims_a_sandbox_nor_skips_all_permissions() -> None:
    for interactive in (False, True):
        agent = resolve("claude", PRESETS, interactive=interactive)
        assert "--dangerously-skip-permissions" not in agent.argv
        assert "bypassPermissions" not in agent.argv
        assert "IS_SANDBOX" not in agent.env


@pytest.mark.parametrize(
    ("name", "rights"),
    [
        ("codex", ["--dangerously-bypass-approvals-and-sandbox"]),
        ("gemini", ["--approval-mode", "yolo"]),
        ("opencode", []),
    ],
)
def test_the_rights_that_a_preset_gives_are_those_that_are_told(
    name: str, rights: list[str]
) -> None:
    told = ("dangerous", "bypass", "yolo", "approval", "permission", "sandbox")
    for interactive in (False, True):
        agent = resolve(name, PRESETS, interactive=interactive)
        given = [word for word in agent.argv if word in rights or any(x in word for x in told)]
        assert given == rights
        assert not any(x in name.lower() for name in agent.env for x in told)


def test_the_servers_address_goes_along_but_no_secret_does() -> None:
    environ = {
        "ANTHROPIC_BASE_URL": "http://gateway",
        "ANTHROPIC_API_KEY": "sk-canary",
        "DISABLE_AUTOUPDATER": "0",
        "OTHER": "x",
    }
    agent = resolve("claude", PRESETS, interactive=False, environ=environ)
    assert agent.env == {"ANTHROPIC_BASE_URL": "http://gateway", "DISABLE_AUTOUPDATER": "1"}
    assert "ANTHROPIC_API_KEY" in PRESETS["claude"].secrets
    for preset in PRESETS.values():
        assert not set(preset.secrets) & set(preset.forward)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="no agent named 'cluade'") as caught:
        resolve("cluade", PRESETS, interactive=False)
    assert "did you mean claude?" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        resolve("zzz", PRESETS, interactive=False)
    assert caught.value.hint.startswith("known: claude, codex, gemini, opencode")


def test_a_preset_that_has_one_way_only_says_so() -> None:
    presets = {"batch": AgentPreset(name="batch", headless=("batch",), interactive=None)}
    assert resolve("batch", presets, interactive=False).argv == ("batch",)
    with pytest.raises(UnsupportedError, match="cannot run interactively"):
        resolve("batch", presets, interactive=True)


def test_the_plugin_offers_them() -> None:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    manager.check_pending()
    assert manager.hook.outpost_agents() == [PRESETS]


def test_more_arguments_stand_before_the_prompt() -> None:
    agent = resolve(
        "claude", PRESETS, interactive=False, model="opus", budget=0.5, extra=("--effort", "low")
    )
    at = agent.argv.index("--")
    added = ("--model", "opus", "--max-budget-usd", "0.500000", "--effort", "low")
    assert agent.argv[at - 6 : at] == added
    assert agent.argv[at:] == ("--", "{prompt}")
    own = AgentPreset(name="own", headless=("own", "{args}", "run", "{prompt}"), interactive=None)
    argv = resolve("own", {"own": own}, interactive=False, extra=("-v",)).argv
    assert argv == ("own", "-v", "run", "{prompt}")
    assert resolve("own", {"own": own}, interactive=False).argv == ("own", "run", "{prompt}")


@pytest.mark.parametrize("name", ["claude", "codex", "opencode"])
def test_a_session_is_gone_on_with(name: str) -> None:
    argv = resolve(name, PRESETS, interactive=False, session="abc-123").argv
    assert any("abc-123" in word for word in argv)
    assert argv[-1] == "{prompt}"
    with pytest.raises(UsageError, match="not the name of a session"):
        resolve(name, PRESETS, interactive=False, session="--dangerous")


def test_what_an_agent_cannot_be_told_is_refused() -> None:
    presets = {"batch": AgentPreset(name="batch", headless=("batch",), interactive=None)}
    with pytest.raises(UnsupportedError, match="continue with a session"):
        resolve("batch", presets, interactive=False, session="x")
    with pytest.raises(UnsupportedError, match="given a model") as caught:
        resolve("batch", presets, interactive=False, model="x")
    assert "--agent-arg" in caught.value.hint
    assert resolve("batch", presets, interactive=False, budget=1.0).argv == ("batch",)
