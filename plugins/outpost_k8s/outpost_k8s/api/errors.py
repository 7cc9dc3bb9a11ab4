"""What an API server answers when it does not do what it was asked, as errors of Outpost.

::

    ApiError                         any answer that is no success
    ├── AbsentError                  404: there is no such thing             (NotFoundError)
    ├── ExistsError                  409: the name is taken                  (ConflictError)
    ├── ChangedError                 409: another version or uid than meant  (ConflictError)
    ├── ExpiredError                 410: a version that is no longer kept
    ├── RefusedError                 422, admission, quota: certainly not made (SpawnRefusedError)
    ├── DeniedError                  401, 403: who may not what              (UnreachableError)
    └── UnavailableError             429, 5xx, or no answer at all           (UnreachableError)
        └── StrangeError             what no API server would say

What a server, a webhook or a proxy in between says is a stranger's: it is cut and made harmless.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from outpost_core.errors import (
    ConflictError,
    NotFoundError,
    OutpostError,
    SpawnRefusedError,
    UnreachableError,
)
from outpost_shared import border

#: Longest message of a server that is shown, in characters.
_SHOWN: Final = 1200
#: How the answer of the authorizer begins, in contrast to one of admission, which is a 403 as well:
#: `jobs.batch is forbidden: User "jane" cannot create resource "jobs" in API group "batch" …`.
_MAY_NOT: Final = re.compile(r'User "[^"]*" cannot ')
#: Longest wait that a server's `Retry-After` is believed, in seconds.
_LONGEST_WAIT: Final = 60.0


class ApiError(OutpostError):
    """An answer of the API server that is no success.

    Args:
        message: what was asked, and what the server says.
        hint: the next step.
        status: the HTTP status; 0 when there was no answer.
        reason: the machine-readable reason of the answer, such as `AlreadyExists`.
        causes: the details, such as which field of a Job is wrong.
        proceed: the token with which a list may go on after a 410.
        wait: seconds that the server asks to be left alone.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        status: int = 0,
        reason: str = "",
        causes: tuple[str, ...] = (),
        proceed: str = "",
        wait: float = 0.0,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.reason = reason
        self.causes = causes
        self.proceed = proceed
        self.wait = wait


class AbsentError(ApiError, NotFoundError):
    """There is no such thing at the cluster."""


class ExistsError(ApiError, ConflictError):
    """Something has that name already."""


class ChangedError(ApiError, ConflictError):
    """What is there is not what was meant: another version, another uid, another owner."""


class ExpiredError(ApiError):
    """The version that was asked for is no longer kept (etcd was compacted)."""


class RefusedError(ApiError, SpawnRefusedError):
    """The server certainly did not make it: invalid, or admission or a quota is against it."""


class DeniedError(ApiError, UnreachableError):
    """The server does not know us, or we may not do that. Nothing was done."""

    def __init__(self, message: str, **more: Any) -> None:
        super().__init__(message, **more)
        self.sent = False


class UnavailableError(ApiError, UnreachableError):
    """No answer, or that of a server that cannot answer now.

    Args:
        message: what was tried and what came back.
        sent: False when the request certainly was not worked on.
        more: as of `ApiError`.
    """

    def __init__(self, message: str, *, sent: bool = True, **more: Any) -> None:
        super().__init__(message, **more)
        self.sent = sent


class StrangeError(UnavailableError):
    """What answers is no API server, or a broken one: asking again would change nothing."""


def told(
    peer: str,
    asked: str,
    status: int,
    body: bytes,
    *,
    outpost: str = "",
    login: str = "",
    headers: Mapping[str, str] | None = None,
) -> ApiError:
    """Return the error that an answer is.

    Args:
        peer: who answered, for messages.
        asked: the method and path.
        status: the HTTP status.
        body: what came with it; a `Status` object, or anything.
        outpost: the outpost's name, for hints.
        login: how we log in, for who is not known there.
        headers: of the answer.
    """
    answer = _status(body)
    reason, said = _text(answer, "reason"), _text(answer, "message")
    causes = _causes(answer)
    if not said:
        plain = border.line(body[: _SHOWN * 4].decode("utf-8", "replace"), 300)
        said = f"HTTP {status}" + (f": {plain}" if plain else "")
    proceed = _mapping(answer.get("metadata")).get("continue")
    more: dict[str, Any] = {
        "status": status,
        "reason": reason,
        "causes": causes,
        "proceed": proceed if isinstance(proceed, str) else "",
        "wait": _wait(headers or {}, answer),
    }
    text = f"{peer}: {said}"
    kind, hint = _kind(asked, status, reason, said)
    if kind is DeniedError:
        hint = _denied(status, outpost, login)
    elif kind is RefusedError:
        hint = "change the options of the outpost, or what the cluster allows"
    elif kind is UnavailableError:
        # turned away before anything was done: too many requests, or none are taken yet
        more["sent"] = not (status == 429 or (status == 503 and more["wait"] > 0))
    return kind(text, hint=hint, **more)


def _kind(asked: str, status: int, reason: str, said: str) -> tuple[type[ApiError], str]:
    """Return the class of an answer, and the hint where it needs no more to be known."""
    changes = not asked.startswith("GET ")
    if status == 401 or (status == 403 and (_MAY_NOT.search(said) or not changes)):
        return DeniedError, ""
    if status == 404:
        return AbsentError, ""
    if status == 409:
        return (ExistsError if reason == "AlreadyExists" else ChangedError), ""
    if status == 410:
        return ExpiredError, ""
    if status in (400, 403, 406, 413, 415, 422) and changes:
        return RefusedError, ""
    if status == 429 or status >= 500:
        return UnavailableError, "it is overloaded, starting or ending; try again"
    return ApiError, ""


def _denied(status: int, outpost: str, login: str) -> str:
    if status == 401:
        return f"log in again: {login}" if login else "log in again"
    name = outpost or "NAME"
    return (
        f"`outpost doctor {name}` says what is missing; whoever administers the cluster can apply"
        f" what `outpost bootstrap {name}` prints"
    )


def _status(body: bytes) -> Mapping[str, Any]:
    try:
        return _mapping(json.loads(body))
    except (ValueError, RecursionError):
        return {}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(answer: Mapping[str, Any], name: str) -> str:
    value = answer.get(name)
    return border.line(value, _SHOWN) if isinstance(value, str) else ""


def _causes(answer: Mapping[str, Any]) -> tuple[str, ...]:
    causes = _mapping(answer.get("details")).get("causes")
    if not isinstance(causes, list):
        return ()
    parts = ([_text(_mapping(one), key) for key in ("field", "message")] for one in causes[:20])
    return tuple(": ".join(filter(None, part)) for part in parts)


def _wait(headers: Mapping[str, str], answer: Mapping[str, Any]) -> float:
    """Return how long the server asks to be left alone, in seconds (RFC 9110, 10.2.3)."""
    said = headers.get("Retry-After") or _mapping(answer.get("details")).get("retryAfterSeconds")
    try:
        return min(max(float(said or 0), 0.0), _LONGEST_WAIT)
    except (TypeError, ValueError):  # a date: nobody sends one
        return 0.0
