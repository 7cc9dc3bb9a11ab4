"""The entry point of the package: says what it builds, and imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outpost_core.backend import Backend
from outpost_core.hookspecs import hookimpl
from outpost_exec.options import CAPABILITIES, ExecOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

OUTPOST_API = 1


@hookimpl
def outpost_backends() -> Mapping[str, Backend]:
    """Return the type `exec`."""
    return {
        "exec": Backend(
            type="exec",
            options=ExecOptions,
            build="outpost_exec.outpost:ExecOutpost",
            summary="any program that speaks Outpost's protocol on its standard input and output",
            capabilities=CAPABILITIES,
        )
    }
