from pathlib import Path

import pytest

from outpost_testing import OutpostSuite, Target


class TestSandbox(OutpostSuite):
    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        return Target(type="sandbox", provider="outpost_sandbox.plugin", state=tmp_path, listed=100)
