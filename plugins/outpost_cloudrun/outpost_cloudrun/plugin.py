"""The entry point of the package: says what it builds, and imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from outpost_cloudrun.capabilities import CAPABILITIES
from outpost_core.backend import Backend, BuildContext, Dialogue
from outpost_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outpost_cloudrun.options import CloudRunOptions

OUTPOST_API = 1


async def introduce(
    name: str, options: CloudRunOptions, context: BuildContext, dialogue: Dialogue
) -> Mapping[str, Any]:
    """Say what an hour costs before it is added; see `outpost_cloudrun.introduce`."""
    from outpost_cloudrun import introduce as module

    return await module.introduce(name, options, context, dialogue)


@hookimpl
def outpost_backends() -> Backend:
    """Return the type `cloudrun`."""
    return Backend(
        type="cloudrun",
        options="outpost_cloudrun.options:CloudRunOptions",
        build="outpost_cloudrun.outpost:CloudRunOutpost",
        summary="containers of Google Cloud Run, which cost nothing while they are idle",
        capabilities=CAPABILITIES,
        introduce=introduce,
    )
