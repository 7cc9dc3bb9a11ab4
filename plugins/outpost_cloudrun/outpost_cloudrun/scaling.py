"""How many containers of a service Google keeps warm: its minimum of instances.

A service takes work at none of them too, and is only slower then. What is changed is that one
number; it makes no revision, and ends no container that works.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from outpost_cloudrun import price
from outpost_cloudrun.admin import specs
from outpost_cloudrun.admin.answers import Service, inner, number
from outpost_cloudrun.admin.factory import admin_client
from outpost_cloudrun.connection.identity import Identity
from outpost_cloudrun.options import Auth, KeepWarm
from outpost_core.errors import SpawnRefusedError, UnreachableError
from outpost_core.types import Scale
from outpost_shared.backoff import Backoff

if TYPE_CHECKING:
    from outpost_cloudrun.admin.client import AdminClient
    from outpost_cloudrun.options import CloudRunOptions

#: Containers of a service for which nobody says a limit: Google's own.
_MOST: Final = 100
#: Seconds that a change may take, and until it must be shown.
_CHANGED: Final = 300.0
_SHOWN: Final = 60.0
_FIELD: Final = "minInstanceCount"


async def scale(options: CloudRunOptions, to: int | None) -> Scale:
    """Have Google keep so many containers warm; None: only look.

    Raises:
        SpawnRefusedError: it cannot be so many, or Google did not do it.
        UnreachableError: it was asked, and does not show it.
        OutpostError: Google refuses, or cannot be reached.
    """
    limit = specs.most_instances(options) or _MOST
    if to is not None and to > limit:
        raise SpawnRefusedError(
            f"{options.service} has {limit} containers at most",
            hint="raise max_workers, and outpost bootstrap",
        )
    admin = admin_client(options, None if options.auth is Auth.NONE else Identity(options))
    try:
        there = await admin.service(options.service)
        if to is not None and _least(there) != to:
            there = await _change(options, admin, there, to)
        least = _least(there)
    finally:
        await admin.aclose()
    hour = price.standing(replace(options, keep_warm=KeepWarm.MIN_INSTANCES))
    return Scale(running=least, target=least, limit=limit, always=True, price=hour)


def _least(service: Service) -> int:
    """Return the minimum that is said of a service; JSON leaves a zero out."""
    return max(0, number(inner(service.body, "scaling"), _FIELD) or 0)


async def _change(options: CloudRunOptions, admin: AdminClient, there: Service, to: int) -> Service:
    scaling = {**inner(there.body, "scaling"), _FIELD: to}
    made = await admin.patch_service(
        options.service, {"scaling": scaling, "etag": there.etag}, ("scaling",)
    )
    ended = await admin.wait(made, _CHANGED)
    if ended.failure is not None:
        raise SpawnRefusedError(
            f"Google could not scale {options.service}: {ended.failure.message}",
            hint=f"gcloud run services describe {options.service} --region {options.region}",
        )
    async for _ in Backoff(0.5, 5.0, within=_SHOWN).rounds():
        now = await admin.service(options.service)
        if _least(now) == to:
            return now
    raise UnreachableError(
        f"{options.service} does not show that {to} containers are kept warm",
        hint=f"gcloud run services describe {options.service} --region {options.region}",
    )
