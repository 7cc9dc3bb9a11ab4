"""The entry point of the package: says what it builds, and imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outpost_core.backend import Backend, BuildContext
from outpost_core.hookspecs import hookimpl
from outpost_exec.options import CAPABILITIES, ExecOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outpost_exec.outpost import ExecOutpost

OUTPOST_API = 1


def build(name: str, options: ExecOptions, context: BuildContext) -> ExecOutpost:
    """Build one configured exec outpost; starts nothing."""
    from outpost_exec.outpost import ExecOutpost

    return ExecOutpost(name, options, context)


@hookimpl
def outpost_backends() -> Mapping[str, Backend]:
    """Return the type `exec`."""
    return {
        "exec": Backend(
            type="exec",
            options=ExecOptions,
            build=build,
            summary="any program that speaks Outpost's protocol on its standard input and output",
            capabilities=CAPABILITIES,
        )
    }
