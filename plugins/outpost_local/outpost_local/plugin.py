"""The entry point of the package: says what it builds, and imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outpost_core.backend import Backend
from outpost_core.hookspecs import hookimpl
from outpost_local.options import CAPABILITIES, LocalOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

OUTPOST_API = 1


@hookimpl
def outpost_backends() -> Mapping[str, Backend]:
    """Return the type `local`."""
    return {
        "local": Backend(
            type="local",
            options=LocalOptions,
            build="outpost_local.outpost:LocalOutpost",
            summary="this machine: tmux sessions, or detached processes where tmux is missing",
            capabilities=CAPABILITIES,
        )
    }
