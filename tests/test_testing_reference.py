"""The conformance kit finds nothing wrong with the reference outpost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from outpost_testing import OutpostSuite
from outpost_testing.reference import reference_target

if TYPE_CHECKING:
    from pathlib import Path

    from outpost_testing import Target


class TestReference(OutpostSuite):
    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        return reference_target(tmp_path, spawns=40, listed=100)
