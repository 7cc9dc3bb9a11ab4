"""The application: routes, and how what goes wrong is answered."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from outpost_core import __version__
from outpost_core.errors import (
    ConflictError,
    NotFoundError,
    OutpostError,
    PlacementError,
    PluginError,
    SpawnRefusedError,
    UnreachableError,
    UnsupportedError,
    UsageError,
    WorkerError,
)
from outpost_mayor.api.guard import ForbiddenError, failure
from outpost_mayor.api.metrics import Metrics
from outpost_mayor.api.routes import events, mail, mayor, money, outposts, queue, scaling, workers
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from starlette.responses import JSONResponse

    from outpost_manager.manager import Manager

#: Error → the status that says it; the first that fits.
STATUS: Final[tuple[tuple[type[OutpostError], int], ...]] = (
    (ForbiddenError, 403),
    (NotFoundError, 404),
    (ConflictError, 409),
    (UnsupportedError, 409),
    (PlacementError, 503),
    (SpawnRefusedError, 503),
    (UnreachableError, 502),
    (WorkerError, 502),
    (PluginError, 502),
    (UsageError, 400),
)
_ABOUT: Final = """\
What `outpost serve` can be asked. Documents are those that the commands print with `--json`, and
errors those of `--json` too, as `{"error": …}`. Send `Authorization: Bearer TOKEN`, but for the
private socket, whose owner needs none. Each operation says the role that it needs
(`x-outpost-role`): `view`, `work` or `admin`.
"""
_log = Logger("api")


def create(manager: Manager, ended: asyncio.Event | None = None) -> FastAPI:
    """Return the application.

    It lets everybody in whom `guard.Guard`, which stands before it, has let in.

    Args:
        manager: an open one.
        ended: is set when the program that answers ends.
    """
    app = _routed()
    app.state.manager = manager
    app.state.metrics = Metrics()
    app.state.streams = 0
    app.state.ended = ended or asyncio.Event()
    app.add_exception_handler(OutpostError, _said)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(Exception, _unexpected)
    return app


def described() -> dict[str, Any]:
    """Return the OpenAPI of the application."""
    return _routed().openapi()


def _routed() -> FastAPI:
    app = FastAPI(
        title="Outpost", version=__version__, description=_ABOUT, openapi_url=None, docs_url=None,
        redoc_url=None, redirect_slashes=False, openapi_tags=_tags(), servers=[{"url": "/"}],
    )  # fmt: skip
    for each in _ROUTES:
        app.include_router(each.routes)
    return app


_ROUTES: Final = (mayor, outposts, scaling, workers, queue, mail, money, events)


def _tags() -> list[dict[str, Any]]:
    return [{"name": each.__name__.rpartition(".")[2], "description": (each.__doc__ or "").strip()}
            for each in _ROUTES]  # fmt: skip


def status_of(error: OutpostError) -> int:
    """Return the HTTP status that says an error."""
    return next((code for kind, code in STATUS if isinstance(error, kind)), 500)


async def _said(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OutpostError)
    return failure(error, status_of(error))


async def _not_valid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    said = [
        f"{'.'.join(str(part) for part in one.get('loc', ()))}: {one.get('msg', '')}"
        for one in error.errors()
    ]
    more = f" (and {len(said) - 5} more)" if len(said) > 5 else ""
    text = "; ".join(each[:300] for each in said[:5])
    return failure(UsageError(f"{text}{more}", hint="GET /openapi.json says what is taken"), 422)


async def _plain(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    said = str(error.detail) or HTTPStatus(error.status_code).phrase
    made: OutpostError = UsageError(said, hint="GET /openapi.json says what can be asked")
    if error.status_code == 404:
        made = NotFoundError("there is no such path", hint=made.hint)
    answer = failure(made, error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    path = str(request.scope.get("path", ""))[:200]
    _log.warning("%s %s failed: %s", request.method, ascii(path), error, error=error)
    return failure(error, 500)
