"""The local outpost keeps what every outpost must keep, with tmux and without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from outpost_core.testing import OutpostSuite, Target
from outpost_local.options import LocalOptions, Mode

if TYPE_CHECKING:
    from pathlib import Path


class TestTmux(OutpostSuite):
    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        options = LocalOptions(mode=Mode.TMUX)
        return Target(
            type="local", provider="outpost_local.plugin", options=options, state=tmp_path
        )


class TestProcess(OutpostSuite):
    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        options = LocalOptions(mode=Mode.PROCESS)
        return Target(
            type="local", provider="outpost_local.plugin", options=options, state=tmp_path
        )
