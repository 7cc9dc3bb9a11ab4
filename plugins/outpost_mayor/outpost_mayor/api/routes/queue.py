"""The queue."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Path, Query, Request, Response

from outpost_core.errors import NotFoundError
from outpost_manager.jsonqueue import as_json
from outpost_manager.orders.words import moment
from outpost_mayor.api import models
from outpost_mayor.api.asking import Enqueue, orders_of
from outpost_mayor.api.routing import PAGE, Limit, Open, answer, needs, router
from outpost_mayor.dispatch.dispatcher import SWITCH

routes = router("queue")
_Issue = Annotated[str, Path(description="Of the issue.")]
_STATES = ("waiting", "running", "settling")


@routes.get("/v1/queue", **needs("view", models.Queue))
async def list_(
    manager: Open,
    state: Annotated[
        list[Literal["waiting", "running", "settling", "ended"]] | None,
        Query(description="Only those in these states; all but ended where none is said."),
    ] = None,
    batch: Annotated[str, Query(description="Only this batch.")] = "",
    limit: Limit = PAGE,
    after: Annotated[
        str | None, Query(description="Behind this issue: the last of the page before.")
    ] = None,
) -> Response:
    """What waits and runs, the next first, as `outpost queue list`."""
    queue = manager.ledger.queue
    found = await queue.entries(states=state or _STATES, batch=batch, limit=limit, after=after)
    return answer(
        {
            "entries": [*map(as_json, found)],
            "counts": await queue.counts(),
            "switch": await queue.switch(SWITCH),
        }
    )


@routes.get("/v1/queue/{issue}", **needs("view", models.QueueEntry))
async def show(manager: Open, issue: _Issue) -> Response:
    """One entry, and what it waits for, as `outpost queue show`."""
    entry = await manager.ledger.queue.entry(issue)
    if entry is None:
        raise NotFoundError(f"{issue[:96]!a} is not in the queue", hint="outpost queue list --all")
    needed = await manager.ledger.queue.needs(issue)
    return answer({"entry": as_json(entry), "needs": needed})


@routes.post("/v1/queue", **needs("work", models.Queued))
async def add(request: Request, manager: Open, said: Enqueue) -> Response:
    """Put orders into the queue, all or none, as `outpost queue add`.

    The same order again is the entry that is there.
    """
    orders = await orders_of(request, manager, said.requests)
    added = await manager.enqueue(
        orders, on=said.on, batch=said.batch, after=said.after,
        not_before=moment(said.not_before, "not_before"), retries=said.retries,
    )  # fmt: skip
    return answer(
        {
            "queued": [as_json(one.entry) for one in added if one.new],
            "there": [one.entry.issue for one in added if not one.new],
        }
    )
