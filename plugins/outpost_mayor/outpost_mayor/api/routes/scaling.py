"""Outposts that are brought up and down."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from outpost_mayor.api import models
from outpost_mayor.api.routing import Open, answer, needs, router
from outpost_mayor.scaling.view import by_hand, document, overview

routes = router("scaling")


class Scale(BaseModel):
    """How much of an outpost is to be up."""

    model_config = ConfigDict(extra="forbid")

    to: int = Field(ge=0, le=1000, description="So many units (machines, warm containers); 0: off.")
    dry_run: bool = Field(False, description="Only say what would be done, and what it costs.")


@routes.get("/v1/scaling", **needs("view", models.Scaling))
async def show(
    manager: Open,
    foresee: Annotated[bool, Query(description="Also what would be done now.")] = False,
) -> Response:
    """What is up, why, and what comes next, as `outpost scale`; asks the outposts."""
    return answer(document(await overview(manager, foresee=foresee)))


@routes.post("/v1/outposts/{name}/scale", **needs("admin", models.Scaling))
async def scale(
    manager: Open, name: Annotated[str, Path(description="Of the outpost.")], said: Scale
) -> Response:
    """Bring an outpost up or down, as `outpost scale NAME --to N`.

    Answers when the mayor has the wish; `GET /v1/scaling` says when it is done.
    """
    return answer(document(await by_hand(manager, name, said.to, dry_run=said.dry_run)))
