"""The next step after each bad end."""

from __future__ import annotations

import re

import click
import pytest

from outpost_agents.presets import PRESETS
from outpost_cloudrun.keeper import endings
from outpost_core.types import REASONS, Result, State, Worker
from outpost_k8s.near import codes as kubernetes
from outpost_manager.cli.app import cli
from outpost_manager.hints import BACKENDS, HINTS, next_step

#: Ends that are as they were asked for.
WELL = {"ok", "nothing_to_commit", "stopped", "terminated"}


def worker(reason: str, **more: object) -> Worker:
    result = Result(state=State.FAILED, reason=reason, **more)  # type: ignore[arg-type]
    return Worker(
        id="x.1", issue="x", attempt=1, outpost="vm1", digest="", state=State.FAILED,
        agent="claude", result=result,
    )  # fmt: skip


def test_each_reason_that_is_bad_has_a_hint_and_no_other() -> None:
    assert HINTS.keys() == REASONS.keys() - WELL


def test_reasons_of_our_backends_have_hints() -> None:
    cloudrun = {endings.CANCELLED, endings.DELETED, endings.OUT_OF_MEMORY}
    assert {*cloudrun, *kubernetes.REASONS} == BACKENDS.keys()


def test_the_hints_of_kubernetes_are_told_the_same_while_a_worker_waits() -> None:
    assert {code: BACKENDS[code] for code in kubernetes.REASONS} == {
        code: reason.hint for code, reason in kubernetes.REASONS.items()
    }


@pytest.mark.parametrize("reason", sorted({*HINTS, *BACKENDS}))
def test_every_command_in_a_hint_exists_and_nothing_is_left_to_fill_in(reason: str) -> None:
    step = next_step(worker(reason), PRESETS)
    assert "{" not in step
    for name in re.findall(r"outpost ([a-z]+) ", step + " "):
        assert cli.get_command(click.Context(cli), name) is not None, name


def test_hints_name_what_the_agent_needs() -> None:
    assert "claude /login" in next_step(worker("not_logged_in"), PRESETS)
    assert "npm install -g @anthropic-ai/claude-code" in next_step(
        worker("command_not_found"), PRESETS
    )
    assert "install the agent's command" in next_step(worker("command_not_found"), {})
    kept = next_step(worker("agent_failed", checkpoint="refs/outpost/x.1"), PRESETS)
    assert kept.endswith("; outpost retry x continues from what is kept")
    again = next_step(worker("terminated", checkpoint="refs/outpost/x.1"), PRESETS)
    assert again.endswith("; outpost retry x continues from what is kept")
    longer = next_step(worker("timeout", checkpoint="refs/outpost/x.1"), PRESETS)
    assert longer.endswith("with --again and a longer --timeout; it continues from what is kept")
    said = next_step(worker("rate_limited", checkpoint="refs/outpost/x.1"), PRESETS)
    assert said.endswith("outpost retry x; it continues from what is kept")
    archive = next_step(worker("filter_missing", checkpoint="/r/x.1.unfiltered.tar"), PRESETS)
    assert archive.endswith("tar -tf /r/x.1.unfiltered.tar")
    assert "retry" not in archive, "what is in an archive alone is not taken up"
    assert next_step(worker("acme_evicted"), PRESETS) == "outpost logs x.1"
