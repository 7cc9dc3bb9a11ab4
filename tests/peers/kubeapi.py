"""A tiny raw client of the Kubernetes API for tests: dictionaries in and out, and no retries."""

import base64
import dataclasses
import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import yaml

from peers import MissingError

#: Seconds until what has to come is taken for missing.
PATIENCE: Final = 120.0
_PATCHES: Final = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}


class ApiError(Exception):
    """The API server says no.

    Attributes:
        status: the HTTP status.
        body: its `Status`, or what it said.
    """

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


@dataclasses.dataclass(frozen=True)
class Target:
    """An API server, and who one is to it.

    Attributes:
        server: its URL.
        authority: the certificate by which it is known; None for those of this machine.
        certificate: of who asks.
        key: of who asks.
        token: of who asks, instead of a certificate.
    """

    server: str
    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token: str = ""

    def as_bearer(self, token: str) -> "Target":
        """Return the same server, asked by somebody with a token."""
        return Target(self.server, self.authority, token=token)

    def write(self, path: Path, namespace: str = "default") -> Path:
        """Write a kubeconfig for it; returns its path."""
        user = {
            "token": self.token or None,
            "client-certificate": self.certificate and str(self.certificate),
            "client-key": self.key and str(self.key),
        }
        where = {"server": self.server}
        if self.authority:
            where["certificate-authority"] = str(self.authority)
        context = {"cluster": "lab", "user": "user", "namespace": namespace}
        path.touch(mode=0o600)
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1", "kind": "Config", "current-context": "lab",
                    "clusters": [{"name": "lab", "cluster": where}],
                    "users": [{"name": "user", "user": {k: v for k, v in user.items() if v}}],
                    "contexts": [{"name": "lab", "context": context}],
                }
            )
        )  # fmt: skip
        return path

    def own_address(self) -> str:
        """Return this machine's address as the cluster is likely to reach it."""
        if told := os.environ.get("OUTPOST_TEST_HOST_ADDRESS"):
            return told
        parts = urlsplit(self.server)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((parts.hostname or "127.0.0.1", parts.port or 443))
            return str(probe.getsockname()[0])


class Api:
    """Speaks with an API server. Every call is a connection of its own.

    Methods raise ApiError for what it refuses, and OSError where it does not answer.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._context = ssl.create_default_context(
            cafile=str(target.authority) if target.authority else None
        )
        if target.certificate:
            self._context.load_cert_chain(target.certificate, target.key)

    def get(self, path: str, **query: Any) -> Any:
        """Return an object, a list, or a text."""
        return self.call("GET", path, query=query)

    def post(self, path: str, body: Any, **query: Any) -> Any:
        """Create something; returns it."""
        return self.call("POST", path, body, query=query)

    def put(self, path: str, body: Any, **query: Any) -> Any:
        """Replace something; returns it."""
        return self.call("PUT", path, body, query=query)

    def patch(self, path: str, body: Any, kind: str = "merge", **query: Any) -> Any:
        """Change something; returns it.

        Args:
            path: its path; `/status` at its end for its status.
            body: the patch.
            kind: `merge`, `strategic`, `json` or `apply` (with `fieldManager="…"`).
            query: parameters.
        """
        return self.call("PATCH", path, body, query=query, content=_PATCHES[kind])

    def delete(self, path: str, body: Any = None, **query: Any) -> Any:
        """Delete something."""
        query.setdefault("propagationPolicy", "Background")
        return self.call("DELETE", path, body, query=query)

    def call(
        self, method: str, path: str, body: Any = None, *,
        query: dict[str, Any] | None = None, content: str = "application/json",
    ) -> Any:  # fmt: skip
        """Ask anything; a body of bytes is sent as it is."""
        connection, response = self._ask(method, path, body, query, content)
        try:
            read = response.read()
        finally:
            connection.close()
        answer = _parsed(response, read)
        if response.status >= 400:
            raise ApiError(response.status, answer)
        return answer

    def watch(self, path: str, seconds: float = PATIENCE, **query: Any) -> Iterator[dict[str, Any]]:
        """Go through the changes from now on, or from `resourceVersion`."""
        query = {"watch": "1", "timeoutSeconds": int(seconds) + 1, **query}
        connection, response = self._ask("GET", path, None, query, "", seconds)
        try:
            if response.status >= 400:
                raise ApiError(response.status, _parsed(response, response.read()))
            for line in response:
                yield json.loads(line)
        finally:
            connection.close()

    def until(
        self, path: str, holds: Callable[[Any], Any], seconds: float = PATIENCE, **query: Any
    ) -> Any:
        """Ask for an object or a list until something holds of it; returns it.

        One that is not there (404) is asked for again.
        """
        deadline = time.monotonic() + seconds
        while True:
            found: Any = None
            try:
                found = self.get(path, **query)
                if holds(found):
                    return found
            except ApiError as error:
                found = error
                if error.status != 404:
                    raise
            assert time.monotonic() < deadline, (path, found)
            time.sleep(0.05)

    def gone(self, path: str, seconds: float = PATIENCE) -> None:
        """Wait until something is not there any more."""
        self.refused(404, path, seconds)

    def refused(self, status: int, path: str = "/api", seconds: float = PATIENCE) -> None:
        """Wait until a path is refused with a status."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                found = self.get(path)
            except ApiError as error:
                if error.status == status:
                    return
                found = error
            assert time.monotonic() < deadline, (path, found)
            time.sleep(0.05)

    def _ask(
        self, method: str, path: str, body: Any, query: dict[str, Any] | None,
        content: str, seconds: float = PATIENCE,
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:  # fmt: skip
        parts = urlsplit(self.target.server)
        assert parts.hostname
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=seconds, context=self._context
        )
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content
        if self.target.token:
            headers["Authorization"] = f"Bearer {self.target.token}"
        if query:
            path = f"{path}?{urlencode(query)}"
        data = body if body is None or isinstance(body, bytes) else json.dumps(body)
        try:
            connection.request(method, path, data, headers)
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise


def from_kubeconfig(path: Path) -> Target:
    """Return whom a kubeconfig's current context is about.

    Raises:
        MissingError: who one is, is not in the file: an `exec` plugin, say.
    """
    read = yaml.safe_load(path.read_text())

    def named(kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(one for one in read[f"{kind}s"] if one["name"] == name)[kind]
        return found

    context = named("context", read["current-context"])
    where, who = named("cluster", context["cluster"]), named("user", context["user"])

    def file(of: dict[str, Any], key: str) -> Path | None:
        if data := of.get(f"{key}-data"):
            aside = path.with_name(f"{path.name}.{key}")
            aside.touch(mode=0o600)
            aside.write_bytes(base64.b64decode(data))
            return aside
        return path.parent / of[key] if of.get(key) else None

    certificate, key = file(who, "client-certificate"), file(who, "client-key")
    if not certificate and not who.get("token"):
        raise MissingError(f"{path} has neither a certificate nor a token")
    authority = file(where, "certificate-authority")
    return Target(where["server"], authority, certificate, key, who.get("token", ""))


def _parsed(response: http.client.HTTPResponse, read: bytes) -> Any:
    is_json = response.headers.get_content_type() == "application/json"
    return json.loads(read) if is_json else read.decode(errors="replace")
