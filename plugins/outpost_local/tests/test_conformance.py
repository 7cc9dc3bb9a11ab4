"""The local outpost keeps what every outpost must keep, with tmux and without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from outpost_local.options import Fence, LocalOptions, Mode
from outpost_shared import faults
from outpost_testing import OutpostSuite, Target
from outpost_testing.registry import Check, all_checks, run_check

if TYPE_CHECKING:
    from pathlib import Path


def make_target(mode: Mode, state: Path, fence: Fence = Fence.AUTO) -> Target:
    return Target(
        type="local",
        provider="outpost_local.plugin",
        options=LocalOptions(mode=mode, fence=fence),
        state=state,
        fault_points=faults.NEAR + faults.LOCAL + faults.FAR,
    )


class TestTmux(OutpostSuite):
    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        return make_target(Mode.TMUX, tmp_path)


class TestProcess(OutpostSuite):
    """What depends on how a supervisor is started and a terminal is made."""

    groups = ("spawn", "outcome", "agent", "logs", "stop", "crash", "faults")

    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        return make_target(Mode.PROCESS, tmp_path)


@pytest.mark.parametrize(
    "check", [check for check in all_checks() if check.group == "security"], ids=lambda one: one.id
)
def test_a_hostile_agent_without_a_fence(check: Check, tmp_path: Path) -> None:
    """What is said of workers and done for them is not led astray where nothing holds an agent."""
    target = make_target(Mode.TMUX, tmp_path, fence=Fence.OFF)
    result = run_check(check, target)
    assert result.ok, result.detail
    if check.id == "security.fence_keeps_its_word":
        assert "no fence is claimed: off" in result.detail
