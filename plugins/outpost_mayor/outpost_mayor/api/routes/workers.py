"""Workers: what runs, how what ran has ended, and what can be done about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from outpost_core.errors import OutpostError, UsageError
from outpost_core.types import State
from outpost_manager import jsonviews
from outpost_manager.placing import references
from outpost_manager.placing.selecting import selected
from outpost_mayor.api import models
from outpost_mayor.api.asking import Orders, Placing, orders_of, spawned
from outpost_mayor.api.guard import demand
from outpost_mayor.api.routing import LAST, PAGE, Limit, Open, answer, needs, router
from outpost_mayor.api.stream import Streaming, until_ended

routes = router("workers")
_Ref = Annotated[str, Path(description="Id of a worker, or an issue for its newest attempt.")]
#: Seconds that a client may wait with one request.
_WAIT = 60.0
_Room = Annotated[
    float, Query(ge=0, le=_WAIT, description="Seconds to try again what finds everything full.")
]
#: Seconds within which a log that is followed begins or fails, where its outpost is quick.
_EARLY = 0.25
_OFFSET = "Outpost-Log-Offset"
_BYTES = "application/octet-stream"


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Nudge(_Said):
    """What is typed into a worker."""

    text: str = Field(description="What is typed, before Enter.", max_length=100_000)


class Stop(_Said):
    """How a worker is ended."""

    grace: float | None = Field(None, ge=0, le=86_400, description="Seconds from TERM to KILL.")


class Clean(_Said):
    """How the files of a worker are removed."""

    force: bool = Field(False, description="Also where unpushed work could not be rescued; admin.")
    purge: bool = Field(False, description="Also its log, which is kept otherwise; admin.")


class Retry(_Said):
    """What is tried again."""

    issues: list[str] = Field([], max_length=1000, description="Whose last attempt failed.")
    failed: bool = Field(False, description="All whose last attempt failed, in place of issues.")
    since: float | None = Field(
        None, ge=0, le=1e9, description="Of those, only what ended so many seconds ago, or later."
    )
    on: str | None = Field(None, description="At this outpost and no other.")


class Continue(_Said):
    """What else is to be done about delivered work."""

    issue: str = Field(description="Whose work.", max_length=200)
    text: str = Field(description="What else is to be done.", min_length=1, max_length=1_000_000)
    fresh: bool = Field(False, description="With a new session of the agent.")
    on: str | None = Field(None, description="At this outpost and no other.")


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


@routes.post("/v1/workers", **needs("work", models.Spawned))
async def spawn(request: Request, manager: Open, said: Orders, wait: _Room = 0.0) -> Response:
    """Start workers at once, or find those that are there, as `outpost spawn`.

    Where there is no room, an order is refused; `POST /v1/queue` has it wait.
    """
    orders = await orders_of(request, manager, said.requests)
    placings = [Placing(order=one, on=said.on) for one in orders]
    return answer(await spawned(request, manager, placings, wait))


@routes.post("/v1/retry", **needs("work", models.Spawned))
async def retry(request: Request, manager: Open, said: Retry, wait: _Room = 0.0) -> Response:
    """Try again what failed, with the same orders, as `outpost retry`."""
    if said.failed == bool(said.issues):
        raise UsageError("name issues, or say failed", hint="one of the two")
    if said.since is not None and not said.failed:
        raise UsageError("since goes with failed")
    further = manager.further
    issues = await further.failed(said.since) if said.failed else [*dict.fromkeys(said.issues)]
    await manager.look_at([*issues, *(one.rpartition(".")[0] for one in issues)])
    placings, refused = list[Placing](), list[tuple[str, OutpostError]]()
    for issue in issues:
        try:
            following = await further.retry(issue, on=said.on)
        except OutpostError as error:
            if len(issues) == 1:
                raise
            refused.append((issue, error))
        else:
            placings.append(Placing(order=following.order, on=following.on))
    return answer(await spawned(request, manager, placings, wait, refused=refused))


@routes.post("/v1/continue", **needs("work", models.Spawned))
async def continue_(request: Request, manager: Open, said: Continue, wait: _Room = 0.0) -> Response:
    """Continue with delivered work, as `outpost continue`."""
    await manager.look_at([said.issue, said.issue.rpartition(".")[0]])
    following = await manager.further.go_on(said.issue, said.text, on=said.on, fresh=said.fresh)
    hints = []
    if following.session is not None:
        agent = f"the session {following.session} at {following.on}"
        hints = [f"{following.order.worker}: continues with {agent}"]
    placings = [Placing(order=following.order, on=following.on)]
    return answer(await spawned(request, manager, placings, wait, hints=hints))


@routes.post("/v1/explain", **needs("view", models.Explained))
async def explain(request: Request, manager: Open, said: Orders) -> Response:
    """Where orders would go, and why, as `outpost explain`; starts nothing."""
    orders = await orders_of(request, manager, said.requests)
    return answer(
        {
            "explanations": [
                {"issue": order.issue.id, "worker": order.worker}
                | jsonviews.explanation(await manager.explain(order, on=said.on))
                for order in orders
            ]
        }
    )


@routes.get("/v1/workers/{ref}", **needs("view", models.Shown))
async def show(manager: Open, ref: _Ref) -> Response:
    """Everything about a worker, as `outpost show`."""
    from outpost_manager.cli.workers import shown_shape

    return answer(shown_shape(await manager.shown(ref)))


@routes.get(
    "/v1/workers/{ref}/logs",
    **needs("view", responses={200: {
        "description": "The output from that byte on, exactly",
        "content": {_BYTES: {"schema": {"type": "string", "format": "binary"}}},
        "headers": {_OFFSET: {"description": "of the first byte", "schema": {"type": "integer"}}},
    }}),
)  # fmt: skip
async def logs(
    request: Request,
    manager: Open,
    ref: _Ref,
    offset: Annotated[int, Query(ge=0, le=LAST, description="From this byte on.")] = 0,
    follow: Annotated[bool, Query(description="Until the worker has ended.")] = False,
) -> Response:
    """A worker's output, as `outpost logs --raw`; whoever is cut asks again from where he is."""
    worker = references.exact((await manager.worker(ref)).id)
    chunks = manager.logs(worker, offset, follow)
    # what is wrong with it is said by the status; but who follows a silent worker learns at once
    # that he was let in
    first = asyncio.ensure_future(anext(chunks, None))

    async def coming() -> AsyncGenerator[bytes]:
        if (chunk := await first) is not None:
            yield chunk
            async for chunk in chunks:
                yield chunk

    sent = coming()
    whole = until_ended(request.app.state.ended, sent)

    async def over() -> None:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        for each in (whole, sent, chunks):
            await each.aclose()

    try:
        await asyncio.wait({first}, timeout=_EARLY if follow else None)
        if first.done():
            first.result()
    except BaseException:
        await over()
        raise
    return Streaming(
        whole, over, media_type=_BYTES,
        headers={_OFFSET: str(offset), "Cache-Control": "no-store"},
    )  # fmt: skip


@routes.get("/v1/workers/{ref}/peek", **needs("view", models.Text))
async def peek(
    manager: Open,
    ref: _Ref,
    lines: Annotated[int, Query(ge=1, le=10_000, description="The last so many.")] = 50,
) -> Response:
    """What a worker's terminal shows, as `outpost peek`."""
    from outpost_manager.cli.contact import told

    worker = (await manager.find(ref)).id
    text = await manager.peek(references.exact(worker), lines)
    return answer({"worker": worker, "text": await told(manager, worker, text, lines)})


@routes.post("/v1/workers/{ref}/nudge", **needs("work", models.Text))
async def nudge(manager: Open, ref: _Ref, said: Nudge) -> Response:
    """Type a line into an interactive worker, as `outpost nudge`."""
    worker = (await manager.find(ref)).id
    await manager.nudge(references.exact(worker), said.text)
    return answer({"worker": worker, "text": said.text})


@routes.post("/v1/workers/{ref}/stop", **needs("work", models.Stopped))
async def stop(manager: Open, ref: _Ref, said: Stop | None = None) -> Response:
    """End a worker, after its unpushed work was rescued, as `outpost stop`.

    Answers when its outpost has the request.
    """
    worker = await manager.stop(ref, said.grace if said is not None else None)
    return answer({"stopped": [worker.id], "refused": []})


@routes.post("/v1/workers/{ref}/clean", **needs("work", models.Cleaned))
async def clean(request: Request, manager: Open, ref: _Ref, said: Clean | None = None) -> Response:
    """Remove the files of a worker that has ended, as `outpost clean`."""
    said = said or Clean(force=False, purge=False)
    if said.force or said.purge:
        demand(request, "admin", "to force or purge")
    answers = await manager.clean_many([ref], force=said.force, purge=said.purge)
    return answer({"cleaned": [jsonviews.cleaned(one, each) for one, each in answers.items()]})


@routes.post("/v1/workers/{ref}/forget", **needs("admin", models.Stopped))
async def forget(manager: Open, ref: _Ref) -> Response:
    """Give a worker up whose outpost is no longer configured, as `outpost stop --forget`."""
    return answer({"stopped": [(await manager.forget(ref)).id], "refused": []})


@routes.get("/v1/workers/{ref}/wait", **needs("view", models.Waited))
async def wait(
    request: Request,
    manager: Open,
    ref: _Ref,
    timeout: Annotated[float, Query(ge=0, le=_WAIT, description="Seconds.")] = _WAIT,
) -> Response:
    """A worker once it has ended, or as it is when the time has passed, as `outpost wait`."""
    worker = references.exact((await manager.find(ref)).id)

    async def once() -> AsyncIterator[Any]:
        yield await manager.wait([worker], timeout=timeout)

    found = [one async for some in until_ended(request.app.state.ended, once()) for one in some]
    found = found or [await manager.find(worker)]  # the mayor ends
    return answer({"workers": [*map(jsonviews.worker, found)]})
