"""The entry point of the package: says what it builds, and imports nothing heavy."""

from __future__ import annotations

from outpost_cloudrun.capabilities import CAPABILITIES
from outpost_core.backend import Backend
from outpost_core.hookspecs import hookimpl

OUTPOST_API = 1


@hookimpl
def outpost_backends() -> Backend:
    """Return the type `cloudrun`."""
    return Backend(
        type="cloudrun",
        options="outpost_cloudrun.options:CloudRunOptions",
        build="outpost_cloudrun.outpost:CloudRunOutpost",
        summary="containers of Google Cloud Run, which cost nothing while they are idle",
        capabilities=CAPABILITIES,
    )
