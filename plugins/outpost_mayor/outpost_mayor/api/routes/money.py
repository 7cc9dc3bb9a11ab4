"""Money: what was spent, what it is held to, whose credentials are used, and what fires when."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from fastapi import Path, Query, Response

from outpost_manager import jsonviews
from outpost_manager.orders.words import duration
from outpost_mayor.api import models
from outpost_mayor.api.routing import Open, answer, needs, router
from outpost_mayor.schedules.view import fire as firing
from outpost_mayor.schedules.view import shape, view

routes = router("money")
_By = Annotated[Literal["day", "outpost", "agent", "rig"], Query(description="Of what.")]
_Name = Annotated[str, Path(description="Of the account.")]


@routes.get("/v1/cost", **needs("view", models.Cost))
async def cost(
    manager: Open,
    by: _By = "day",
    since: Annotated[
        str, Query(description="Of workers that ended so long ago or later: 7d; 0 for all.")
    ] = "30d",
    forecast: Annotated[bool, Query(description="Also what the queue will cost.")] = False,
) -> Response:
    """What was spent, and the budgets, as `outpost cost`."""
    seconds = duration(since, "since") or 0.0
    begin = max(0.0, time.time() - seconds) if seconds else 0.0
    standing = {one.name: one.standing for one in await manager.outposts() if one.standing}
    return answer(
        jsonviews.cost(
            by, begin, await manager.ledger.totals(by, begin), standing, await manager.budgets(),
            await manager.forecast() if forecast else None,
        )
    )  # fmt: skip


@routes.get("/v1/cost/forecast", **needs("view", models.Forecast))
async def forecast(manager: Open) -> Response:
    """What the queue will cost, and when budgets are used up, as in `outpost cost --forecast`."""
    return answer(jsonviews.forecast(await manager.forecast()))


@routes.get("/v1/accounts", **needs("view", models.Accounts))
async def accounts(manager: Open) -> Response:
    """The accounts of agents, as `outpost accounts`."""
    return answer({"accounts": [*map(jsonviews.account, await manager.accounts())]})


@routes.post("/v1/accounts/{name}/unpark", **needs("admin", models.Accounts))
async def unpark(manager: Open, name: _Name) -> Response:
    """Use a parked account again at once, as `outpost accounts --unpark`."""
    await manager.unpark(name)
    return await accounts(manager)


@routes.post("/v1/accounts/{name}/breaker/reset", **needs("admin", models.Accounts))
async def reset(manager: Open, name: _Name) -> Response:
    """Close the circuit breaker of an account, as `outpost accounts --reset`."""
    await manager.reset_breaker("account", name)
    return await accounts(manager)


@routes.get("/v1/schedules", **needs("view", models.Schedules))
async def schedules(
    manager: Open, count: Annotated[int, Query(ge=1, le=100, description="Next times.")] = 3
) -> Response:
    """The schedules, with the next times of each, as `outpost schedule list`."""
    return answer({"schedules": [*map(shape, await view(manager, count))]})


@routes.post("/v1/schedules/{name}/run", **needs("work", models.Fired))
async def fire(
    manager: Open, name: Annotated[str, Path(description="Of the schedule.")]
) -> Response:
    """Put what a schedule orders into the queue now, as `outpost schedule run`."""
    return answer({"issue": await firing(manager, name)})
