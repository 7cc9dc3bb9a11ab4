"""A bucket of Cloud Storage, by its JSON API and the standard library alone.

Four calls are enough: get, insert, delete and list objects, with preconditions on generations, so
that what was seen is what is changed (https://cloud.google.com/storage/docs/request-preconditions).
A repeated insert is known by what stands there. Calls block, and may be made by any thread.

`STORAGE_EMULATOR_HOST` leads elsewhere, as in Google's own clients, and then no token is asked for;
`GCE_METADATA_HOST` says where the machine's token is.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from outpost_core.errors import UnreachableError, UsageError
from outpost_shared.backoff import Backoff
from outpost_worker.record.kinds import RecordRefusedError

_HOST: Final = "https://storage.googleapis.com"
_METADATA: Final = "metadata.google.internal"
_ACCESS: Final = "/computeMetadata/v1/instance/service-accounts/default/token"
#: Seconds for one connection, and for one answer.
_TIMEOUT: Final = 30.0
#: Seconds for which a bucket that does not answer is asked again.
_PATIENCE: Final = 60.0
#: Seconds before its end from which on a token is not used any more.
_SPARE: Final = 225.0
#: Answers after which Google says to ask again (storage/docs/retry-strategy).
_AGAIN: Final = frozenset((408, 429, 500, 502, 503, 504))
#: Bytes of an answer that is not an object, and objects in one page of a list.
_MOST_ANSWER: Final = 8 << 20
_PAGE: Final = 1000


class PreconditionError(Exception):
    """The object does not have the generation that was asked for; nothing was changed."""


class Stored(NamedTuple):
    """An object as it is listed."""

    name: str
    size: int


class Bucket:
    """One bucket.

    Args:
        name: `NAME`, `NAME/FOLDER`, or the same behind `gs://`.
        environ: where the variables above are looked for; None for the process's own.
        access: gives access tokens, a new one where it is told so; None: the metadata server does.

    Raises:
        UsageError: that is no name of a bucket.
    """

    def __init__(
        self,
        name: str,
        environ: Mapping[str, str] | None = None,
        access: Callable[[bool], str] | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        bucket, _, folder = name.removeprefix("gs://").strip("/").partition("/")
        if not 3 <= len(bucket) <= 222 or not all(c.isalnum() or c in "-_." for c in bucket):
            raise UsageError(f"{name[:100]!a} is not the name of a bucket")
        self.name = bucket
        self._folder = f"{folder}/" if folder else ""
        emulator = environ.get("STORAGE_EMULATOR_HOST", "")
        self._free = bool(emulator)
        whole = emulator if "://" in emulator else f"http://{emulator}"
        self._at = urlsplit(whole if emulator else _HOST)
        self._metadata = environ.get("GCE_METADATA_HOST") or _METADATA
        self._context = ssl.create_default_context() if self._at.scheme == "https" else None
        self._given = access
        self._lock = threading.Lock()
        self._token = ("", 0.0)  # and the moment (monotonic) after which another is asked for

    def get(self, name: str, most: int) -> tuple[str, bytes | None] | None:
        """Return an object's generation and content; None for no such object.

        Args:
            name: of the object.
            most: bytes that it may have; of a larger one the content is None.

        Raises:
            UnreachableError: the bucket does not answer.
            RecordRefusedError: it lets us not.
        """
        done = self._ask("GET", f"{self._path(name)}?alt=media", most=most)
        if done.status == 404:
            return None
        self._must(done, f"read {name}")
        return done.generation, done.body

    def insert(self, name: str, data: bytes, generation: str) -> str:
        """Write an object, and return its generation once the bucket has said what it holds.

        Args:
            name: of the object.
            data: its content.
            generation: the one that it has; "0" for no object.

        Raises:
            PreconditionError: it has another one, and other content.
            UnreachableError: the bucket does not answer.
            RecordRefusedError: it does not take it.
        """
        asked = {"uploadType": "media", "name": self._folder + name}
        query = urlencode({**asked, "ifGenerationMatch": generation})
        path = f"/upload/storage/v1/b/{quote(self.name, safe='')}/o?{query}"
        done = self._ask("POST", path, data)
        if done.status in (404, 412):
            there = self.get(name, len(data))
            if there is not None and there[1] == data:  # an answer was lost
                return there[0]
            if done.status == 412 or there is not None:
                raise PreconditionError(name)
        self._must(done, f"write {name}")
        about = done.json()
        made = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        if about.get("md5Hash", made) != made or not str(about.get("generation", "")).isdigit():
            raise self._unreachable(f"it says that it holds something else as {name}")
        return str(about["generation"])

    def delete(self, name: str, generation: str = "") -> None:
        """Remove an object; fine when it is not there.

        Args:
            name: of the object.
            generation: the one that it has; "" for whichever.

        Raises:
            PreconditionError: it has another one.
            UnreachableError: the bucket does not answer.
            RecordRefusedError: it does not let it go.
        """
        query = f"?ifGenerationMatch={generation}" if generation else ""
        done = self._ask("DELETE", self._path(name) + query)
        if done.status == 412:
            if self.get(name, 0) is None:
                return
            raise PreconditionError(name)
        if done.status != 404:
            self._must(done, f"remove {name}")

    def list(self, prefix: str, start: str = "") -> list[Stored]:
        """Return the objects whose names begin so, in order.

        Args:
            prefix: the beginning.
            start: only those whose names are this or come after it.

        Raises:
            UnreachableError: the bucket does not answer.
            RecordRefusedError: it lets us not.
        """
        found: list[Stored] = []
        page = ""
        while True:
            query = {"prefix": self._folder + prefix, "maxResults": str(_PAGE)}
            query["fields"] = "items(name,size),nextPageToken"
            if start:
                query["startOffset"] = self._folder + start
            if page:
                query["pageToken"] = page
            path = f"/storage/v1/b/{quote(self.name, safe='')}/o?{urlencode(query)}"
            done = self._ask("GET", path)
            self._must(done, f"list {prefix}")
            about = done.json()
            for item in about.get("items", []):
                name, size = str(item.get("name", "")), str(item.get("size", "0"))
                if name.startswith(self._folder) and size.isascii() and size.isdigit():
                    found.append(Stored(name[len(self._folder) :], int(size)))
            page = str(about.get("nextPageToken", ""))
            if not page:
                return found

    def where(self, name: str) -> str:
        """Return the address of an object as people write it."""
        return f"gs://{self.name}/{self._folder}{name}"

    # --- how ---------------------------------------------------------------------------------

    def _path(self, name: str) -> str:
        bucket, inner = quote(self.name, safe=""), quote(self._folder + name, safe="")
        return f"/storage/v1/b/{bucket}/o/{inner}"

    def _ask(
        self, method: str, path: str, data: bytes | None = None, most: int = _MOST_ANSWER
    ) -> _Answer:
        """Ask until there is an answer that is one.

        Raises:
            UnreachableError: there is none.
        """
        why, fresh = "", False
        for _ in Backoff(0.3, 10.0, jitter=0.5, within=_PATIENCE).tries():
            headers = {"Content-Type": "application/octet-stream"} if data is not None else {}
            try:
                if not self._free:
                    headers["Authorization"] = f"Bearer {self._access(fresh=fresh)}"
                done = _asked(self._connect(), method, self._at.path + path, data, headers, most)
            except (OSError, HTTPException, ValueError) as error:
                why = str(error) or type(error).__name__
                continue
            if done.status == 401 and not (fresh or self._free):
                fresh = True
                continue
            if done.status not in _AGAIN:
                return done
            why = done.why()
        raise self._unreachable(why)

    def _connect(self) -> HTTPConnection:
        host, port = self._at.hostname or "", self._at.port
        if self._context is not None:
            return HTTPSConnection(host, port, timeout=_TIMEOUT, context=self._context)
        return HTTPConnection(host, port, timeout=_TIMEOUT)

    def _access(self, *, fresh: bool) -> str:
        """Return an access token: the machine's, where nobody gives another one.

        Raises:
            OSError, HTTPException, ValueError: there is none.
        """
        if self._given is not None:
            return self._given(fresh)
        with self._lock:
            token, until = self._token
            if token and not fresh and time.monotonic() < until:
                return token
            host, _, port = self._metadata.partition(":")
            line = HTTPConnection(host, int(port or 80), timeout=_TIMEOUT)
            asked = _asked(line, "GET", _ACCESS, None, {"Metadata-Flavor": "Google"}, 1 << 16)
            if asked.status != 200:
                raise OSError(f"the metadata server gives no token: {asked.why()}")
            about = asked.json()
            token, life = str(about["access_token"]), float(about.get("expires_in", 0))
            self._token = (token, time.monotonic() + max(life - _SPARE, 0.0))
            return token

    def _must(self, done: _Answer, doing: str) -> None:
        """See that it was done.

        Raises:
            RecordRefusedError: it was not, and asking again would not help.
        """
        if 200 <= done.status < 300:
            return
        hint = f"look at the bucket: gcloud storage buckets describe gs://{self.name}"
        if done.status in (401, 403):
            hint = (
                "give the container's service account the role roles/storage.objectUser on"
                f" gs://{self.name}"
            )
        elif done.status == 404:
            hint = f"make it: gcloud storage buckets create gs://{self.name}"
        raise RecordRefusedError(f"gs://{self.name} does not {doing}: {done.why()}", hint=hint)

    def _unreachable(self, why: str) -> UnreachableError:
        return UnreachableError(
            f"gs://{self.name} does not answer, so nothing was started: {why}",
            hint="it is tried again with the next command",
            sent=False,
        )


class _Answer(NamedTuple):
    """What was answered; `body` is None where it is larger than was asked for."""

    status: int
    body: bytes | None
    generation: str

    def json(self) -> dict[str, Any]:
        """Return the object that it is; an empty one where it is none."""
        try:
            about = json.loads(self.body or b"")
        except (ValueError, RecursionError):
            return {}
        return about if isinstance(about, dict) else {}

    def why(self) -> str:
        """Return what it says is wrong, in a line."""
        error = self.json().get("error")
        said = error.get("message") if isinstance(error, dict) else error
        text = said if isinstance(said, str) else (self.body or b"").decode("utf-8", "replace")
        return f"{self.status} {ascii(text.strip()[:300])[1:-1]}".strip()


def _asked(
    line: HTTPConnection,
    method: str,
    path: str,
    data: bytes | None,
    headers: Mapping[str, str],
    most: int,
) -> _Answer:
    """Ask once, on a connection of its own.

    Raises:
        OSError, HTTPException: there was no answer, or not all of it.
    """
    try:
        line.request(method, path, body=data, headers=dict(headers))
        answer = line.getresponse()
        generation = answer.headers.get("x-goog-generation", "")
        most = most if answer.status < 300 else _MOST_ANSWER
        return _Answer(answer.status, _read(answer, most), generation)
    finally:
        line.close()


def _read(answer: HTTPResponse, most: int) -> bytes | None:
    body = answer.read(most + 1)
    if len(body) > most:
        return None
    if answer.length:  # it was cut off
        raise OSError(f"{answer.length} bytes of the answer are missing")
    return body
