"""The entry point of the package: says what it builds, and imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outpost_core.backend import Backend, BuildContext
from outpost_core.hookspecs import hookimpl
from outpost_local.options import CAPABILITIES, LocalOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outpost_local.outpost import LocalOutpost

OUTPOST_API = 1


def build(name: str, options: LocalOptions, context: BuildContext) -> LocalOutpost:
    """Build one configured local outpost; opens nothing."""
    from outpost_local.outpost import LocalOutpost

    return LocalOutpost(name, options, context)


@hookimpl
def outpost_backends() -> Mapping[str, Backend]:
    """Return the type `local`."""
    return {
        "local": Backend(
            type="local",
            options=LocalOptions,
            build=build,
            summary="this machine: tmux sessions, or detached processes where tmux is missing",
            capabilities=CAPABILITIES,
        )
    }
