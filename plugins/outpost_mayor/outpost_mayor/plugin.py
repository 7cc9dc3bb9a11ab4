"""The entry point of the package: brings the commands of the queue and `outpost serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outpost_core import hookimpl

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from outpost_manager.manager import Manager

OUTPOST_API = 1


@hookimpl
def outpost_commands() -> Sequence[object]:
    """Return the commands of this package."""
    from outpost_mayor.commands.serve import serve

    return [serve]


@hookimpl
def outpost_services(manager: Manager) -> Mapping[str, Callable[[], Awaitable[None]]]:
    """Return what the mayor does by itself."""
    from outpost_mayor.serving.follow import Follower

    return {"follow": Follower(manager).run}
