"""The entry point of the package: the commands of the mayor, and what it does by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from outpost_core import hookimpl

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from outpost_manager.manager import Manager

OUTPOST_API = 1


@hookimpl
def outpost_commands() -> Sequence[object]:
    """Return the commands of this package."""
    from outpost_manager.cli.plugincommands import Deferred

    home = "outpost_mayor.commands"
    return [
        Deferred("queue", f"{home}.queue:queue", "Have orders wait for a place."),
        Deferred(
            "batch",
            f"{home}.batch:batch",
            "Sum up a batch, wait for it, stop it, or try again what failed of it.",
        ),
        Deferred(
            "serve",
            f"{home}.serve:serve",
            "Run the mayor, which works for as long as it runs.",
        ),
        Deferred(
            "schedule", f"{home}.schedule:schedule", "Show what fires when, and have it fire."
        ),
        Deferred(
            "scale",
            f"{home}.scale:scale",
            "Show which outposts are up, why, and what comes next; or bring one up or down.",
        ),
        Deferred(
            "simulate",
            f"{home}.simulate:simulate",
            "Show what a policy would cost, and how long work would wait.",
        ),
        Deferred("token", f"{home}.token:token", "Say who may ask the mayor over the network."),
        Deferred("notify", f"{home}.notify:notify", "Try whether those who are told hear of it."),
    ]


@hookimpl
def outpost_services(manager: object) -> Mapping[str, Callable[[], Awaitable[None]]]:
    """Return what `outpost serve` does beside hosting others."""
    from outpost_mayor.dispatch.dispatcher import Dispatcher
    from outpost_mayor.notify.notifier import Notifier
    from outpost_mayor.retries.settler import Settler
    from outpost_mayor.scaling.scaler import Scaler
    from outpost_mayor.schedules.scheduler import Scheduler
    from outpost_mayor.serving.follow import Follower

    manager = cast("Manager", manager)
    return {
        "dispatch": Dispatcher(manager).run,
        "settle": Settler(manager).run,
        "follow": Follower(manager).run,
        "schedules": Scheduler(manager).run,
        "notify": Notifier(manager).run,
        "scale": Scaler(manager).run,
    }
