"""The mayor itself."""

from __future__ import annotations

from fastapi import Request, Response

from outpost_mayor.api import models
from outpost_mayor.api.routing import ROLE, answer, needs, router

routes = router("mayor")


@routes.get("/healthz", **needs("", models.Health, openapi_extra={ROLE: "", "security": []}))
async def healthz(request: Request) -> Response:
    """Whether it works (`ok`) or is about to end (`ending`); needs no token."""
    return answer({"status": "ending" if request.app.state.ended.is_set() else "ok"})


@routes.get("/openapi.json", include_in_schema=False, **needs("view"))
async def openapi(request: Request) -> Response:
    """What can be asked, as OpenAPI."""
    return answer(request.app.openapi())
