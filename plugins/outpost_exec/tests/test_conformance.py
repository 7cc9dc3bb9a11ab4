"""A program behind the protocol keeps what every outpost must keep, and hides no defect."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from outpost_core import faults
from outpost_core.testing import MUTANTS, OutpostSuite, Target
from outpost_core.testing.registry import all_checks, run_check
from outpost_exec.options import ExecOptions

SERVED = Path(__file__).parent / "served.py"
REFERENCE = ("rig", "local_rig", "checkpoint", "secrets")
LOCAL = (*REFERENCE, "clean", "nudge", "peek", "interactive")


def make_target(state: Path, command: tuple[str, ...], capabilities: tuple[str, ...]) -> Target:
    return Target(
        type="exec",
        provider="outpost_exec.plugin",
        options=ExecOptions(command=command, capabilities=capabilities),
        state=state,
        # what dies at a point of `local.*` is the program, whose request is repeated
        fault_points=faults.NEAR + faults.FAR,
    )


def served(state: Path, kind: str, capabilities: tuple[str, ...], **sizes: float) -> Target:
    return make_target(state, (sys.executable, str(SERVED), kind), capabilities)


class TestReference(OutpostSuite):
    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        return served(tmp_path, "reference", REFERENCE)


class TestLocal(OutpostSuite):
    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        return served(tmp_path, "local", LOCAL)


#: Those that can only be seen where the outpost itself can be cut off.
NEEDS_CUT = {"mutant-done-when-unreachable"}


@pytest.mark.parametrize(
    "mutant",
    [mutant for mutant in MUTANTS if mutant.outpost.type not in NEEDS_CUT],
    ids=lambda mutant: mutant.outpost.__name__,
)
def test_a_mutant_behind_the_protocol_is_caught(mutant, tmp_path: Path) -> None:
    (check,) = (check for check in all_checks() if check.id == mutant.caught_by)
    result = run_check(check, served(tmp_path, mutant.outpost.type, REFERENCE))
    assert result.status == "failed", result
    assert mutant.saying in result.detail
