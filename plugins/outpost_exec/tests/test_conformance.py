"""A program behind the protocol keeps what every outpost must keep, and hides no defect."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from peers import MissingError, sizes

from outpost_exec.options import CAPABILITIES, ExecOptions
from outpost_shared import faults
from outpost_testing import MUTANTS, OutpostSuite, Target
from outpost_testing.mutants import Mutant
from outpost_testing.registry import Check, all_checks, run_check

SERVED = Path(__file__).parent / "served.py"
EXAMPLE = Path(__file__).parents[3] / "examples" / "outpost.js"
EXAMPLE_CAPABILITIES = ("rig", "local_rig", "checkpoint", "secrets", "interactive", "clean")
REFERENCE = ("rig", "local_rig", "checkpoint", "secrets", "clean", "facts")
FAR_SIDE = (*REFERENCE, "interactive")
LOCAL = (*REFERENCE, "nudge", "peek", "interactive")


def make_target(
    state: Path, command: tuple[str, ...], capabilities: tuple[str, ...], **sizes: Any
) -> Target:
    return Target(
        type="exec",
        provider="outpost_exec.plugin",
        options=ExecOptions(command=command, capabilities=capabilities),
        state=state,
        # what dies at a point of `local.*` is the program, whose request is repeated
        fault_points=faults.NEAR + faults.FAR,
        **sizes,
    )


def served(state: Path, kind: str, capabilities: tuple[str, ...], **sizes: Any) -> Target:
    return make_target(state, (sys.executable, str(SERVED), kind), capabilities, **sizes)


@pytest.mark.parametrize(
    "check", [one for one in all_checks() if one.needs & {"nudge", "peek"}], ids=lambda one: one.id
)
def test_a_terminal_is_reached_through_the_protocol(check: Check, tmp_path: Path) -> None:
    """The one kind of check that the far side alone, below, does not declare."""
    result = run_check(check, served(tmp_path, "local", LOCAL))
    assert result.status == "passed", result.detail


class TestFarSideAlone(OutpostSuite):
    """`python -m outpost_worker serve`, as a container has it: without any other part of ours."""

    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        program = (sys.executable, "-m", "outpost_worker", "serve")
        return make_target(tmp_path, program, FAR_SIDE, **sizes.few())


class TestAnotherLanguage(OutpostSuite):
    """What its program does itself; whom it leaves the rest to is `TestFarSideAlone`'s."""

    groups = ("load", "spawn", "list", "logs", "stop")

    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        node = shutil.which("node")
        if node is None:
            raise MissingError("the example is JavaScript, and Node is not installed")
        target = make_target(tmp_path, (node, str(EXAMPLE)), EXAMPLE_CAPABILITIES)
        # each worker's folder is made by a program of its own there: a tenth of a second of work
        options = dataclasses.replace(target.options, env={"OUTPOST_PYTHON": sys.executable})
        return dataclasses.replace(target, options=options, spawns=3, listed=5, log_bytes=5_000_000)


#: Those that can only be seen where the outpost itself can be cut off.
NEEDS_CUT = {"mutant-done-when-unreachable"}
#: Those that fail in another way behind the protocol: a log that begins anew never ends, and no
#: frame can hold an endless number.
SAYING = {
    "mutant-ignores-offset": "did not finish",
    "mutant-believes-any-cost": "not JSON compliant",
}


@pytest.mark.parametrize(
    "mutant",
    [mutant for mutant in MUTANTS if mutant.outpost.type not in NEEDS_CUT],
    ids=lambda mutant: mutant.outpost.__name__,
)
def test_a_mutant_behind_the_protocol_is_caught(mutant: Mutant, tmp_path: Path) -> None:
    (check,) = (check for check in all_checks() if check.id == mutant.caught_by)
    declared = tuple(mutant.outpost.capabilities & CAPABILITIES)
    target = served(tmp_path, mutant.outpost.type, declared, within=5.0)
    # on a busy machine, too, what it waits for decides, and not how long it may take as a whole
    result = run_check(dataclasses.replace(check, patience=8), target)
    assert result.status == "failed", result
    saying = SAYING.get(mutant.outpost.type, mutant.saying)
    assert any(words in result.detail for words in saying.split("|")), result.detail
