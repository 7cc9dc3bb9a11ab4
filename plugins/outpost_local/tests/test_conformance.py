"""The local outpost keeps what every outpost must keep, with tmux and without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from outpost_core import faults
from outpost_core.testing import OutpostSuite, Target
from outpost_local.options import LocalOptions, Mode

if TYPE_CHECKING:
    from pathlib import Path


def make_target(mode: Mode, state: Path) -> Target:
    return Target(
        type="local",
        provider="outpost_local.plugin",
        options=LocalOptions(mode=mode),
        state=state,
        fault_points=faults.NEAR + faults.LOCAL + faults.FAR,
    )


class TestTmux(OutpostSuite):
    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        return make_target(Mode.TMUX, tmp_path)


class TestProcess(OutpostSuite):
    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        return make_target(Mode.PROCESS, tmp_path)
