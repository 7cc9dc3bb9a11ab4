"""What routes are made of: each says the role that it needs, and answers with a plain document."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.routing import APIRoute

from outpost_mayor.api.guard import Document, demand
from outpost_mayor.api.models import Failure

if TYPE_CHECKING:
    from pydantic import BaseModel

    from outpost_manager.manager import Manager

#: Where an operation says which role it needs.
ROLE: Final = "x-outpost-role"
#: Events and other rows that one page has, at most, and where nothing is said.
PAGE_MOST: Final = 1000
PAGE: Final = 100
#: The largest number that a row can have.
LAST: Final = 2**63 - 1


class _Route(APIRoute):
    """A route that looks at the role before it looks at what was sent."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()
        role = str((self.openapi_extra or {})[ROLE])  # a route without one cannot be made

        async def handle(request: Request) -> Response:
            if role:
                demand(request, role)
            began = time.monotonic()
            try:
                return await inner(request)
            finally:
                took = time.monotonic() - began
                request.app.state.metrics.took(request.method, self.path, took)

        return handle


def router(tag: str) -> APIRouter:
    """Return a router of one subject."""
    return APIRouter(route_class=_Route, tags=[tag])


def needs(role: str, model: type[BaseModel] | None = None, **more: Any) -> dict[str, Any]:
    """Return what a route says of itself: the role that it needs, and what it answers.

    Args:
        role: one of `tokens.ROLES`; "" for nobody's.
        model: of the document that it answers.
        more: other arguments of the route.
    """
    responses: dict[int | str, Any] = {
        "default": {"model": Failure, "description": "What went wrong, as with `--json`"},
        **more.pop("responses", {}),
    }
    if model is not None:
        responses[200] = {"model": model, "description": "As the command prints with `--json`"}
    return {
        "openapi_extra": {ROLE: role}, "responses": responses, "response_model": None, **more,
    }  # fmt: skip


def answer(document: dict[str, Any]) -> Response:
    """Return a document; nothing on the way keeps it."""
    return Document(document, headers={"Cache-Control": "no-store"})


def _manager(request: Request) -> Manager:
    manager: Manager = request.app.state.manager
    return manager


#: The mayor's manager, as a parameter of a route.
Open = Annotated[Any, Depends(_manager)]
Limit = Annotated[int, Query(ge=1, le=PAGE_MOST, description="At most so many.")]
After = Annotated[int | None, Query(ge=0, le=LAST)]
