"""The conformance kit as a pytest class.

A backend's tests subclass it with one fixture::

    class TestConformance(OutpostSuite):
        @pytest.fixture
        def target(self, tmp_path):
            return Target(type="mine", provider="outpost_mine.plugin", state=tmp_path)
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

import pytest

from outpost_testing.registry import GROUPS, Check, all_checks, run_check
from outpost_testing.target import Target


class OutpostSuite:
    """Every check as one test. What an outpost does not declare is skipped.

    Attributes:
        groups: only the checks of these groups, and single ones by their ids; a second class on
            the same backend, in another mode, names those that its mode can change.
    """

    groups: ClassVar[Collection[str]] = GROUPS

    @pytest.fixture
    def target(self) -> Target:
        """Return the backend under test, on a state folder of its own."""
        raise NotImplementedError("subclass OutpostSuite with a fixture named target")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test of each check of the groups."""
        if "check" in metafunc.fixturenames:
            named = {*self.groups}
            checks = [check for check in all_checks() if {check.group, check.id} & named]
            metafunc.parametrize("check", checks, ids=lambda check: check.id)

    def test_conformance(
        self, check: Check, target: Target, record_property: pytest.FixtureRequest
    ) -> None:
        """The outpost meets the demand."""
        result = run_check(check, target)
        record_property(result.status, result.detail)  # type: ignore[operator]
        if result.status == "not declared":
            pytest.skip(f"not declared: {result.detail}")
        if not result.ok:
            pytest.fail(f"{result.id}: {result.detail}\n{result.log}".rstrip(), pytrace=False)
