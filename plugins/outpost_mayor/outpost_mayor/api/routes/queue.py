"""The queue, and batches of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from outpost_core.errors import NotFoundError
from outpost_manager.jsonqueue import as_json
from outpost_manager.ledger.turns import SWITCH
from outpost_manager.orders.words import moment
from outpost_mayor import batches
from outpost_mayor.api import models
from outpost_mayor.api.asking import Enqueue, orders_of
from outpost_mayor.api.routing import PAGE, Limit, Open, answer, needs, router

if TYPE_CHECKING:
    from outpost_manager.manager import Manager

routes = router("queue")
_Issue = Annotated[str, Path(description="Of the issue.")]
_Batch = Annotated[str, Path(description="Of the batch.")]
_STATES = ("waiting", "running", "settling")


class Move(BaseModel):
    """Where an entry goes."""

    model_config = ConfigDict(extra="forbid")

    priority: int = Field(ge=0, le=4, description="0 to 4, 0 is the highest.")


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
    found, more = await queue.page(states=state or _STATES, batch=batch, limit=limit, after=after)
    return answer(
        {
            "entries": [*map(as_json, found)],
            "counts": await queue.counts(),
            "more": more,
            "switch": await queue.switch(SWITCH),
        }
    )


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


@routes.post("/v1/queue/pause", **needs("admin", models.Switched))
async def pause_all(manager: Open) -> Response:
    """Place nothing until it is resumed, as `outpost queue pause`; what runs goes on."""
    await manager.ledger.queue.set_switch(SWITCH, "paused")
    return await _switched(manager)


@routes.post("/v1/queue/resume", **needs("admin", models.Switched))
async def resume_all(manager: Open) -> Response:
    """Place what waits again, as `outpost queue resume`."""
    await manager.ledger.queue.set_switch(SWITCH, "")
    return await _switched(manager)


@routes.post("/v1/queue/drain", **needs("admin", models.Switched))
async def drain(manager: Open) -> Response:
    """Place nothing more, as `outpost queue drain`; does not wait for what runs."""
    await manager.ledger.queue.set_switch(SWITCH, "draining")
    return await _switched(manager)


@routes.get("/v1/queue/{issue}", **needs("view", models.QueueEntry))
async def show(manager: Open, issue: _Issue) -> Response:
    """One entry, and what it waits for, as `outpost queue show`."""
    entry = await manager.ledger.queue.entry(issue)
    if entry is None:
        raise NotFoundError(f"{issue[:96]!a} is not in the queue", hint="outpost queue list --all")
    needed = await manager.ledger.queue.needs(issue)
    return answer({"entry": as_json(entry), "needs": needed})


@routes.delete("/v1/queue/{issue}", **needs("work", models.Removed))
async def remove(manager: Open, issue: _Issue) -> Response:
    """Take a waiting order out of the queue, as `outpost queue remove`."""
    removed = await manager.ledger.queue.remove([issue])
    return answer({"removed": [*map(as_json, removed)]})


@routes.post("/v1/queue/{issue}/move", **needs("work", models.Moved))
async def move(manager: Open, issue: _Issue, said: Move) -> Response:
    """Give a waiting order another priority, as `outpost queue move`."""
    step = manager.config.queue.step
    entry = await manager.ledger.queue.move(issue, said.priority, step)
    return answer({"entry": as_json(entry)})


@routes.post("/v1/queue/{issue}/pause", **needs("work", models.Switched))
async def pause(manager: Open, issue: _Issue) -> Response:
    """Have one order wait until it is resumed, as `outpost queue pause ISSUE`."""
    await manager.ledger.queue.hold([issue], True)
    return await _switched(manager)


@routes.post("/v1/queue/{issue}/resume", **needs("work", models.Switched))
async def resume(manager: Open, issue: _Issue) -> Response:
    """Have one order go on, as `outpost queue resume ISSUE`."""
    await manager.ledger.queue.hold([issue], False)
    return await _switched(manager)


async def _switched(manager: Manager) -> Response:
    queue = manager.ledger.queue
    held = [entry.issue for entry in await queue.entries() if entry.held]
    return answer({"held": held, "switch": await queue.switch(SWITCH)})


@routes.get("/v1/batches", **needs("view", models.Batches))
async def all_batches(manager: Open) -> Response:
    """The batches, the newest first."""
    return answer({"batches": await batches.overview(manager)})


@routes.get("/v1/batches/{name}", **needs("view", models.Batch))
async def batch(manager: Open, name: _Batch) -> Response:
    """What became of a batch, as `outpost batch`."""
    found = await batches.entries(manager, name)
    return answer(batches.shape(name, found, await batches.cost(manager, found)))


@routes.post("/v1/batches/{name}/stop", **needs("work", models.Batch))
async def stop_batch(manager: Open, name: _Batch) -> Response:
    """Take out what waits of a batch, and stop what runs, as `outpost batch --stop`."""
    told, _ = await batches.stop(manager, await batches.entries(manager, name))
    found = await batches.entries(manager, name)
    return answer(batches.shape(name, found, await batches.cost(manager, found), stopped=told))


@routes.post("/v1/batches/{name}/retry", **needs("work", models.Batch))
async def retry_batch(manager: Open, name: _Batch) -> Response:
    """Queue again what failed of a batch, as `outpost batch --retry`."""
    again, _ = await batches.retry(manager, await batches.entries(manager, name))
    found = await batches.entries(manager, name)
    return answer(batches.shape(name, found, await batches.cost(manager, found), again=again))
