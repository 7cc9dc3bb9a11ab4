"""What is up at the machines of a server, whose mayor brings them up and down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from outpost_core.errors import NotFoundError, PlacementError, UnreachableError
from outpost_manager.remote.client import segment
from outpost_manager.remote.fields import Fields
from outpost_mayor.scaling.view import Scaling, read
from outpost_shared.backoff import Backoff, reaching_again

if TYPE_CHECKING:
    from outpost_manager.remote.manager import RemoteManager

#: Seconds between two looks at what is under way: at first, and at most.
_FIRST: Final = 0.2
_MOST: Final = 5.0


async def overview(manager: RemoteManager, *, foresee: bool = False) -> Scaling:
    """Return how the outposts stand; see `view.overview`."""
    said = await manager.client.get("/v1/scaling", {"foresee": foresee})
    return _read(manager, said)


async def by_hand(
    manager: RemoteManager, name: str, to: int, *, dry_run: bool, wait: bool
) -> Scaling:
    """Have the mayor bring an outpost up or down; see `view.by_hand`.

    Raises:
        PlacementError: it could not be done, and why.
        NotFoundError: the outpost is not there any more.
    """
    path = f"/v1/outposts/{segment(name)}/scale"
    done = _read(manager, await manager.client.post(path, {"to": to, "dry_run": dry_run}))
    if dry_run or not wait or not done.decisions:
        return done
    looks, away = Backoff(_FIRST, _MOST, growth=1.5), reaching_again()
    while True:
        await looks.wait()
        try:
            found = await overview(manager)
            away.reset()
        except UnreachableError:
            await away.wait()
            continue
        here = [one for one in found.outposts if one.outpost == name]
        if not here:
            raise NotFoundError(f"{name} is not scaled any more", hint="outpost scale lists them")
        if here[0].settled:
            if here[0].error:
                raise PlacementError(here[0].error, hint="outpost scale shows it")
            return Scaling(outposts=here, decisions=done.decisions)


def _read(manager: RemoteManager, said: object) -> Scaling:
    return manager.read(lambda data: read(Fields.of_answer(data)), said)
