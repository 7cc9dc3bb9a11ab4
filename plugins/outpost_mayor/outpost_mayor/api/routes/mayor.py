"""The mayor itself."""

from __future__ import annotations

from fastapi import Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from outpost_manager.offloop import off_loop
from outpost_mayor.api import models
from outpost_mayor.api.routing import ROLE, Open, answer, needs, router
from outpost_mayor.serving import lease, status

routes = router("mayor")


@routes.get("/healthz", **needs("", models.Health, openapi_extra={ROLE: "", "security": []}))
async def healthz(request: Request) -> Response:
    """Whether it works (`ok`) or is about to end (`ending`); needs no token."""
    return answer({"status": "ending" if request.app.state.ended.is_set() else "ok"})


@routes.get("/v1/mayor", **needs("view", models.Mayor))
async def status_(manager: Open) -> Response:
    """How the mayor does, as `outpost serve --status`."""
    held = await off_loop(lease.holder, manager.state)
    return answer(status.shape(held, await off_loop(status.read, manager.state)))


@routes.post("/v1/mayor/reload", **needs("admin", models.Mayor))
async def reload(manager: Open) -> Response:
    """Read the configuration again now; a mistake in it is said, and changes nothing."""
    await manager.reload()
    return await status_(manager)


@routes.get(
    "/metrics",
    **needs(
        "view",
        responses={
            200: {
                "description": "Text that Prometheus reads",
                "content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}},
            }
        },
    ),
)
async def metrics(request: Request, manager: Open) -> Response:
    """Numbers for Prometheus: workers, slots, queue, money, breakers, services, requests."""
    text = await request.app.state.metrics.text(manager)
    return Response(text, media_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"})


@routes.get("/openapi.json", include_in_schema=False, **needs("view"))
async def openapi(request: Request) -> Response:
    """What can be asked, as OpenAPI."""
    return answer(request.app.openapi())
