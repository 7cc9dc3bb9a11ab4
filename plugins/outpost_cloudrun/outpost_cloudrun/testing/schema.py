"""What the Admin API v2 understands: routes and messages are those of Google's own package.

So a request with an unknown field, a wrong type, a wrong verb or a misspelt query is refused here
as it would be there, and nobody had to copy Google's schema by hand.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from google.cloud import run_v2
from google.iam.v1 import iam_policy_pb2
from google.longrunning import operations_pb2
from google.protobuf import json_format

from outpost_cloudrun.testing.errors import GoogleError

#: The services of Google's package whose routes are answered.
_SERVICES: Final = ("services", "jobs", "executions", "tasks", "instances")
#: What belongs to the calls that all services share.
_MIXED_IN: Final = {
    "GetOperation": operations_pb2.GetOperationRequest,
    "ListOperations": operations_pb2.ListOperationsRequest,
    "DeleteOperation": operations_pb2.DeleteOperationRequest,
    "WaitOperation": operations_pb2.WaitOperationRequest,
    "GetIamPolicy": iam_policy_pb2.GetIamPolicyRequest,
    "SetIamPolicy": iam_policy_pb2.SetIamPolicyRequest,
    "TestIamPermissions": iam_policy_pb2.TestIamPermissionsRequest,
}
#: What bodies may say and the package (0.16) does not know, with the values that are allowed, and
#: what the package is told instead; from the discovery document of 2026-10-31.
_NEWER: Final = {
    "restartPolicy": {"RESTART_POLICY_UNSPECIFIED", "ALWAYS", "ON_FAILURE", "NEVER"},
    "medium": {"DISK"},
}
_NEWER_IN: Final = {
    "restartPolicy": re.compile("CreateInstance"),
    "medium": re.compile("(Create|Update)(Service|Job|Instance)"),
}


@dataclass(frozen=True)
class Route:
    """One way to call one method.

    Attributes:
        method: the verb of HTTP.
        path: what the path has to match; its groups are fields of the request.
        body: the field that the body is; `*` for all of the request, None for no body.
        call: the method's name, such as `CreateJob`.
        kind: the service's name, such as `jobs`.
        message: the class of the request.
    """

    method: str
    path: re.Pattern[str]
    body: str | None
    call: str
    kind: str
    message: Any


@dataclass(frozen=True)
class Call:
    """A request that Google's messages have accepted.

    Attributes:
        name: such as `CreateJob`.
        kind: such as `jobs`.
        message: the request; a message of protobuf.
        newer: values of fields that Google has added since its package was made.
    """

    name: str
    kind: str
    message: Any
    newer: Mapping[str, str] = field(default_factory=dict)


@cache
def routes() -> tuple[Route, ...]:
    """Return every route of the services that are emulated."""
    return tuple(route for kind in _SERVICES for route in _routes(kind))


def parse(method: str, target: str, body: bytes) -> Call:
    """Return the call that a request is.

    Args:
        method: the verb.
        target: path and query.
        body: the body, JSON or nothing.

    Raises:
        GoogleError: there is no such method, or the request is none of its.
    """
    url = urlsplit(target)
    for route in routes():
        hit = route.path.fullmatch(unquote(url.path)) if route.method == method else None
        if hit is not None:
            return _read(route, hit.groupdict(), url.query, body)
    raise GoogleError(404, f"the method {method} {url.path} does not exist")


def _read(route: Route, path: dict[str, str], query: str, body: bytes) -> Call:
    try:
        given = json.loads(body) if body else {}
    except ValueError as error:
        raise GoogleError(400, f"Invalid JSON payload received. {error}") from error
    if route.body is None and given:
        raise GoogleError(400, "Invalid JSON payload received. This method has no body.")
    newer = _take_newer(route.call, given)
    document: dict[str, Any] = given if route.body == "*" else {}
    if route.body not in (None, "*"):
        document = {str(route.body): given}
    try:
        for key, value in [*parse_qsl(query, keep_blank_values=True), *path.items()]:
            if not key.startswith("$"):
                _put(document, key.replace("__", "."), value)
        message = route.message()
        json_format.ParseDict(document, message)
    except (json_format.ParseError, AttributeError, TypeError) as error:
        raise GoogleError(400, f"Invalid JSON payload received. {error}") from error
    return Call(route.call, route.kind, message, newer)


def _take_newer(call: str, body: Any, at: str = "") -> dict[str, str]:
    """Take what the package does not know out of a body; return it by its paths."""
    found: dict[str, str] = {}
    items: list[tuple[Any, Any]] = []
    if isinstance(body, dict):
        items = list(body.items())
    elif isinstance(body, list):
        items = list(enumerate(body))
    for key, value in items:
        path = f"{at}.{key}" if at else str(key)
        known = key in _NEWER and _NEWER_IN[key].fullmatch(call) is not None
        if known and isinstance(value, str) and value in _NEWER[key]:
            found[path] = value
            del body[key]
        else:
            found |= _take_newer(call, value, path)
    return found


def _put(document: dict[str, Any], key: str, value: str) -> None:
    *heads, last = key.split(".")
    for head in heads:
        document = document.setdefault(head, {})
    document[last] = value == "true" if value in ("true", "false") else value


def _routes(kind: str) -> Iterator[Route]:
    base = importlib.import_module(f"google.cloud.run_v2.services.{kind}.transports.rest_base")
    transport = next(
        found
        for name, found in inspect.getmembers(base, inspect.isclass)
        if name.startswith("_Base") and name.endswith("RestTransport")
    )
    for name, found in vars(transport).items():
        call = name.removeprefix("_Base")
        message = _message(call)
        if message is not None and hasattr(found, "_get_http_options"):
            for option in found._get_http_options():  # noqa: SLF001 - the only place that says it
                yield Route(
                    option["method"].upper(), _pattern(option["uri"]), option.get("body"), call,
                    kind, message,
                )  # fmt: skip


def _message(call: str) -> Any:
    if call in _MIXED_IN:
        return _MIXED_IN[call]
    wrapper = getattr(run_v2, f"{call}Request", None)
    return None if wrapper is None else lambda: wrapper.pb(wrapper())


def _pattern(uri: str) -> re.Pattern[str]:
    """Return what matches a template such as `/v2/{parent=projects/*/locations/*}/jobs`."""

    def group(found: re.Match[str]) -> str:
        inner = found[2].replace("**", ".+").replace("*", "[^/:]+")
        return f"(?P<{found[1].replace('.', '__')}>{inner})"

    return re.compile(re.sub(r"\{([\w.]+)=([^}]+)\}", group, uri))
