"""The entry point of the package: says what it builds, and imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from outpost_core.backend import Backend, BuildContext, Dialogue
from outpost_core.hookspecs import hookimpl
from outpost_ssh.options import CAPABILITIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outpost_ssh.options import SshOptions

OUTPOST_API = 1


async def introduce(
    name: str, options: SshOptions, context: BuildContext, dialogue: Dialogue
) -> Mapping[str, Any]:
    """Look at a host before it is added; see `outpost_ssh.introduce`."""
    from outpost_ssh import introduce as module

    return await module.introduce(name, options, context, dialogue)


@hookimpl
def outpost_backends() -> Backend:
    """Return the type `ssh`."""
    return Backend(
        type="ssh",
        options="outpost_ssh.options:SshOptions",
        build="outpost_ssh.outpost:SshOutpost",
        summary="a host that is reached over SSH: the local outpost, run on the far machine",
        capabilities=CAPABILITIES,
        introduce=introduce,
    )
