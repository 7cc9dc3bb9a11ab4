"""The entry point of the package: says what it builds, and imports nothing heavy."""

from outpost_core import Backend, hookimpl
from outpost_local.options import CAPABILITIES

OUTPOST_API = 1


@hookimpl
def outpost_backends() -> Backend:
    """Return the type `local`."""
    return Backend(
        type="local",
        options="outpost_local.options:LocalOptions",
        build="outpost_local.outpost:LocalOutpost",
        summary="this machine: tmux sessions, or detached processes where tmux is missing",
        capabilities=CAPABILITIES,
    )
