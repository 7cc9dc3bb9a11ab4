"""Each mutant fails the check that is meant for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from outpost_testing import MUTANTS, mutants
from outpost_testing.reference import target_of
from outpost_testing.registry import all_checks, run_check

if TYPE_CHECKING:
    from pathlib import Path

    from outpost_testing.mutants import Mutant


def test_each_has_a_check_of_its_own() -> None:
    assert len(MUTANTS) == 31
    assert len({mutant.outpost.type for mutant in MUTANTS}) == len(MUTANTS)
    assert len({mutant.caught_by for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.outpost.__name__)
def test_is_caught(mutant: Mutant, tmp_path: Path) -> None:
    (check,) = (check for check in all_checks() if check.id == mutant.caught_by)
    target = target_of(mutant.outpost.type, mutants.__name__, tmp_path, within=4.0)
    result = run_check(check, target)
    assert result.status == "failed", result
    assert any(words in result.detail for words in mutant.saying.split("|")), result.detail
