"""The outposts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Path, Query, Response

from outpost_manager import jsonviews
from outpost_mayor.api import models
from outpost_mayor.api.routing import Open, answer, needs, router

if TYPE_CHECKING:
    from outpost_manager.manager import Manager

routes = router("outposts")
_Name = Annotated[str, Path(description="Of the outpost.")]


@routes.get("/v1/outposts", **needs("view", models.Outposts))
async def list_(
    manager: Open, refresh: Annotated[bool, Query(description="Ask them first.")] = False
) -> Response:
    """What is known of the outposts, as `outpost list`."""
    views = await (manager.refresh() if refresh else manager.outposts())
    return answer({"outposts": [*map(jsonviews.outpost, views)]})


@routes.get("/v1/outposts/{name}", **needs("view", models.Outpost))
async def show(manager: Open, name: _Name) -> Response:
    """What is known of one outpost."""
    return answer(await _one(manager, name))


async def _one(manager: Manager, name: str) -> dict[str, object]:
    manager.fleet.configured(name)
    (view,) = [view for view in await manager.outposts() if view.name == name]
    return jsonviews.outpost(view)
