"""For tests: an outpost in memory, and the conformance kit that every backend must pass.

Names load when they are first used: the command line runs the kit without pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outpost_testing.authors import plugin_problems as plugin_problems
    from outpost_testing.authors import run_outpost as run_outpost
    from outpost_testing.fake import FakeOptions as FakeOptions
    from outpost_testing.fake import FakeOutpost as FakeOutpost
    from outpost_testing.fake import Script as Script
    from outpost_testing.fake import fake_backend as fake_backend
    from outpost_testing.mutants import MUTANTS as MUTANTS
    from outpost_testing.registry import GROUPS as GROUPS
    from outpost_testing.registry import CheckResult as CheckResult
    from outpost_testing.registry import run_suite as run_suite
    from outpost_testing.suite import OutpostSuite as OutpostSuite
    from outpost_testing.target import Target as Target
    from outpost_testing.target import target_from_manager as target_from_manager

_HOMES = {
    "CheckResult": "registry",
    "FakeOptions": "fake",
    "FakeOutpost": "fake",
    "GROUPS": "registry",
    "MUTANTS": "mutants",
    "OutpostSuite": "suite",
    "Script": "fake",
    "Target": "target",
    "fake_backend": "fake",
    "plugin_problems": "authors",
    "run_outpost": "authors",
    "run_suite": "registry",
    "target_from_manager": "target",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"outpost_testing.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'outpost_testing' has no attribute {name!r}")
