"""The outposts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

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


@routes.get("/v1/outposts/{name}/ping", **needs("view", models.Pinged))
async def ping(manager: Open, name: _Name) -> Response:
    """Whether an outpost would take a worker now, as `outpost ping`."""
    answers = await manager.ping([manager.fleet.configured(name).name])
    return answer({"outposts": [jsonviews.ping(one, each) for one, each in answers.items()]})


@routes.post("/v1/outposts/{name}/breaker/reset", **needs("admin", models.Outpost))
async def reset(manager: Open, name: _Name) -> Response:
    """Close the circuit breaker of an outpost, as `outpost list --reset`."""
    await manager.reset_breaker("outpost", name)
    return answer(await _one(manager, name))


async def _one(manager: Manager, name: str) -> dict[str, Any]:
    name = manager.fleet.configured(name).name
    (view,) = [view for view in await manager.outposts() if view.name == name]
    return jsonviews.outpost(view)
