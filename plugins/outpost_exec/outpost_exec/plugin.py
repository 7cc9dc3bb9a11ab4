"""The entry point of the package: says what it builds, and imports nothing heavy."""

from outpost_core import Backend, hookimpl
from outpost_exec.options import CAPABILITIES

OUTPOST_API = 1


@hookimpl
def outpost_backends() -> Backend:
    """Return the type `exec`."""
    return Backend(
        type="exec",
        options="outpost_exec.options:ExecOptions",
        build="outpost_exec.outpost:ExecOutpost",
        summary="any program that speaks Outpost's protocol on its standard input and output",
        capabilities=CAPABILITIES,
    )
