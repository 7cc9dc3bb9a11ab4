"""What happens, as a page or as a stream."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Query, Request, Response

from outpost_manager import jsonviews
from outpost_mayor.api import models
from outpost_mayor.api.routing import PAGE, After, Limit, Open, answer, needs, router
from outpost_mayor.api.stream import EVENT_STREAM, stream

routes = router("events")


@routes.get(
    "/v1/events",
    **needs(
        "view",
        models.Events,
        responses={200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}}},
    ),
)
async def events(
    request: Request,
    manager: Open,
    after: After = None,
    worker: Annotated[str | None, Query(description="Only of this worker or issue.")] = None,
    limit: Limit = PAGE,
    accept: Annotated[str, Header()] = "application/json",
    last_event_id: Annotated[int | None, Header(ge=0, le=2**63 - 1)] = None,
) -> Response:
    """Events of the log, oldest first, as `outpost events`: those behind `after`, else the newest.

    With `Accept: text/event-stream`, what happens from then on as server-sent events, whose id
    continues the stream (`Last-Event-ID`, or `after`).
    """
    of = (await manager.find(worker)).id if worker is not None else None
    if EVENT_STREAM in accept:
        begin = after if last_event_id is None else last_event_id
        return await stream(request, manager, begin, of)
    ledger = manager.ledger
    if after is None:
        last = await ledger.last_event()
        found = await ledger.events(of, limit)
    else:
        found = await ledger.events_after(after, limit)
        last = found[-1].id if found else after
        found = [event for event in found if of in (None, event.worker)]
    return answer({"events": [*map(jsonviews.event, found)], "last": last})
