"""Workers: what runs, and how what ran has ended."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response

from outpost_core.types import State
from outpost_manager import jsonviews
from outpost_manager.placing.selecting import selected
from outpost_mayor.api import models
from outpost_mayor.api.routing import PAGE, Limit, Open, answer, needs, router

routes = router("workers")


@routes.get("/v1/workers", **needs("view", models.Workers))
async def list_(
    manager: Open,
    outpost: Annotated[str | None, Query(description="Only those there.")] = None,
    status: Annotated[list[State] | None, Query(description="Only those in these states.")] = None,
    issue: Annotated[str | None, Query(description="Only attempts at it.")] = None,
    all: Annotated[bool, Query(description="Those that have ended too.")] = False,  # noqa: A002
    refresh: Annotated[bool, Query(description="Ask the outposts first.")] = False,
    limit: Limit = PAGE,
    after: Annotated[
        str | None, Query(description="Behind this one: the last of the page before.")
    ] = None,
) -> Response:
    """Workers, newest first, as `outpost workers`.

    The mayor follows them, so what is known is current without `refresh`.
    """
    silent = await manager.look() if refresh else {}
    everything = all or any(state.terminal for state in status or ())
    found = selected(
        await manager.workers(all=everything, refresh=False),
        outpost=outpost, issue=issue, states=status or (), limit=limit, after=after,
    )  # fmt: skip
    return answer(jsonviews.workers(found, silent, outpost))
