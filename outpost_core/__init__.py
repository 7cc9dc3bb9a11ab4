"""Outpost: run coding agents on issues of a git repository, wherever there is room.

One import gives a plugin author what a plugin needs; each name is loaded when first used, so
that `import outpost_worker` on the far side costs nothing.
"""

from __future__ import annotations

# not from `typing`: that import alone would more than double the start of a worker
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from outpost_core.agents import AgentPreset as AgentPreset
    from outpost_core.backend import Backend as Backend
    from outpost_core.backend import BuildContext as BuildContext
    from outpost_core.backend import Outpost as Outpost
    from outpost_core.backend import OutpostOptions as OutpostOptions
    from outpost_core.backend import option as option
    from outpost_core.hookspecs import API_VERSION as API_VERSION
    from outpost_core.hookspecs import hookimpl as hookimpl
    from outpost_core.types import Assignment as Assignment

__version__ = "0.1.0"

_HOMES = {
    "API_VERSION": "hookspecs",
    "AgentPreset": "agents",
    "Assignment": "types",
    "Backend": "backend",
    "BuildContext": "backend",
    "Outpost": "backend",
    "OutpostOptions": "backend",
    "hookimpl": "hookspecs",
    "option": "backend",
}

__all__ = [
    "API_VERSION",
    "AgentPreset",
    "Assignment",
    "Backend",
    "BuildContext",
    "Outpost",
    "OutpostOptions",
    "__version__",
    "hookimpl",
    "option",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"outpost_core.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'outpost_core' has no attribute {name!r}")
