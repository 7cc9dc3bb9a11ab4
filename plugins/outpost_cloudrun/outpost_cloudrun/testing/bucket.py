"""Cloud Storage, as far as claims, results and logs need it: the JSON API of objects.

https://cloud.google.com/storage/docs/json_api/v1/objects. What it holds is also written to
`buckets/NAME/` in the emulator's folder, where containers find a bucket that they mount.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import google_crc32c

from outpost_cloudrun.testing.cloud import Cloud
from outpost_cloudrun.testing.exchanges import Headers, Reply, Request, answer
from outpost_cloudrun.testing.httpd import Server

_OBJECT: Final = re.compile(r"/(?:download/)?storage/v1/b/([^/]+)/o/(.+)")
_OBJECTS: Final = re.compile(r"/storage/v1/b/([^/]+)/o")
_UPLOAD: Final = re.compile(r"/(?:resumable/)?upload/storage/v1/b/([^/]+)/o")
_BUCKET: Final = re.compile(r"/storage/v1/b/([^/]+)")
#: Names of objects are at most this long, in bytes (cloud.google.com/storage/docs/objects).
_LONGEST: Final = 1024
_REASONS: Final = {
    400: "invalid", 401: "required", 403: "forbidden", 404: "notFound", 412: "conditionNotMet",
    416: "requestedRangeNotSatisfiable", 429: "rateLimitExceeded", 503: "backendError",
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """One version of an object."""

    name: str
    data: bytes
    generation: int
    kind: str
    created: str


class StorageError(Exception):
    """An answer that is an error, in the shape of this API."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def body(self) -> bytes:
        """Return the answer's body."""
        detail = {"message": str(self), "domain": "global", "reason": _REASONS.get(self.status, "")}
        error = {"code": self.status, "message": str(self), "errors": [detail]}
        return json.dumps({"error": error}).encode()


class Storage:
    """Buckets on one port.

    Args:
        cloud: whose knobs and clock count.
        folder: where objects are written for those who mount them.
    """

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.cloud = cloud
        self.folder = folder
        self.buckets: dict[str, dict[str, Stored]] = {}
        self.server = Server(self._handle)
        self._generation = 1_700_000_000_000_000
        self._uploads: dict[str, tuple[str, dict[str, str], str]] = {}

    def make(self, name: str) -> None:
        """Make a bucket, if there is none of that name."""
        self.buckets.setdefault(name, {})
        (self.folder / name).mkdir(parents=True, exist_ok=True)

    def read(self, bucket: str, name: str) -> bytes | None:
        """Return what an object holds; None where there is none. For tests."""
        found = self.buckets[bucket].get(name)
        return None if found is None else found.data

    async def _handle(self, request: Request, reply: Reply) -> None:
        knobs = self.cloud.knobs
        if knobs.bucket_away:
            raise ConnectionResetError("the bucket is away")
        if knobs.bucket_delay:
            await asyncio.sleep(knobs.bucket_delay)
        status, headers, body = 200, list[tuple[str, str]](), b""
        try:
            if knobs.bucket_status:
                raise StorageError(knobs.bucket_status, "We encountered an internal error.")
            token = request.header("authorization").removeprefix("Bearer ")
            if knobs.access_tokens and self.cloud.tokens.check_access(token) is None:
                raise StorageError(401, "Invalid Credentials")
            status, found, body = self._answer(request)
            headers.extend(found)
        except StorageError as error:
            status, body = error.status, error.body()
            headers.append(("content-type", "application/json; charset=UTF-8"))
        self.cloud.journal.write(
            "bucket", method=request.method, path=request.target, status=status
        )
        headers.append(("date", formatdate(self.cloud.tokens.now(), usegmt=True)))
        await answer(reply, status, body, headers)

    def _answer(self, request: Request) -> tuple[int, Headers, bytes]:
        url = urlsplit(request.target)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        if found := _UPLOAD.fullmatch(url.path):
            return self._upload(unquote(found[1]), request, query)
        if found := _OBJECT.fullmatch(url.path):
            bucket, name = unquote(found[1]), unquote(found[2])
            if request.method == "GET":
                return self._get(bucket, name, request, query)
            if request.method == "DELETE":
                return self._delete(bucket, name, query)
        if found := _OBJECTS.fullmatch(url.path):
            if request.method == "GET":
                return _json(self._list(unquote(found[1]), query))
        elif (found := _BUCKET.fullmatch(url.path)) and request.method == "GET":
            name = unquote(found[1])
            self._bucket(name)
            return _json({"kind": "storage#bucket", "id": name, "name": name, "location": "US"})
        raise StorageError(404, "Not Found")

    def _bucket(self, name: str) -> dict[str, Stored]:
        if name not in self.buckets:
            raise StorageError(404, "The specified bucket does not exist.")
        return self.buckets[name]

    def _upload(
        self, bucket: str, request: Request, query: Mapping[str, str]
    ) -> tuple[int, Headers, bytes]:
        objects = self._bucket(bucket)
        how = query.get("uploadType", "")
        kind, data, name = request.header("content-type"), request.body, query.get("name", "")
        conditions = dict(query)
        if how == "multipart":
            about, kind, data = _parts(request)
            name = name or str(about.get("name", ""))
        elif how == "resumable" and request.method == "POST":
            about = json.loads(request.body or b"{}")
            upload = secrets.token_hex(16)
            kind = request.header("x-upload-content-type") or "application/octet-stream"
            self._uploads[upload] = (name or str(about.get("name", "")), conditions, kind)
            where = f"{self.server.url}/upload/storage/v1/b/{bucket}/o"
            return 200, [("location", f"{where}?uploadType=resumable&upload_id={upload}")], b""
        elif how == "resumable" and request.method == "PUT":
            if query.get("upload_id") not in self._uploads:
                raise StorageError(404, "No such upload")
            name, conditions, kind = self._uploads.pop(query["upload_id"])
        elif how != "media" or request.method != "POST":
            raise StorageError(400, "uploadType must be media, multipart or resumable")
        if not name or len(name.encode()) > _LONGEST or "\n" in name or "\r" in name:
            raise StorageError(400, "The object name is not valid.")
        _check(conditions, objects.get(name))
        self._generation += 1
        stored = Stored(name, data, self._generation, kind, self.cloud.now().ToJsonString())
        objects[name] = stored
        self._mirror(bucket, name, data)
        return _json(self._about(bucket, stored))

    def _get(
        self, bucket: str, name: str, request: Request, query: Mapping[str, str]
    ) -> tuple[int, Headers, bytes]:
        stored = self._bucket(bucket).get(name)
        asked = query.get("generation")
        if stored is None or (asked is not None and asked != str(stored.generation)):
            raise StorageError(404, f"No such object: {bucket}/{name}")
        _check(query, stored)
        if query.get("alt") != "media":
            return _json(self._about(bucket, stored))
        size = len(stored.data)
        headers = [
            ("content-type", stored.kind or "application/octet-stream"),
            ("x-goog-generation", str(stored.generation)),
            ("x-goog-hash", f"md5={_md5(stored.data)}"),
        ]
        wanted = request.header("range")
        if not wanted:
            return 200, headers, stored.data
        first, end = _range(wanted, size)
        if first >= size:
            raise StorageError(416, "The requested range cannot be satisfied.")
        headers.append(("content-range", f"bytes {first}-{end - 1}/{size}"))
        return 206, headers, stored.data[first:end]

    def _delete(
        self, bucket: str, name: str, query: Mapping[str, str]
    ) -> tuple[int, Headers, bytes]:
        objects = self._bucket(bucket)
        if name not in objects:
            raise StorageError(404, f"No such object: {bucket}/{name}")
        _check(query, objects[name])
        del objects[name]
        self._mirror(bucket, name, None)
        return 204, [], b""

    def _list(self, bucket: str, query: Mapping[str, str]) -> dict[str, Any]:
        objects = self._bucket(bucket)
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = base64.urlsafe_b64decode(query.get("pageToken", "")).decode()
        most = min(int(query.get("maxResults", 1000)), 1000)
        first, end = query.get("startOffset", ""), query.get("endOffset", "")
        items: list[dict[str, Any]] = []
        folders: list[str] = []
        answer: dict[str, Any] = {"kind": "storage#objects"}
        last = ""
        for name in sorted(objects, key=str.encode):
            if not name.startswith(prefix) or name < first or (end and name >= end):
                continue
            head, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            shown = prefix + head + cut if cut else name
            if shown <= after or shown in folders:
                continue
            if len(items) + len(folders) == most:
                answer["nextPageToken"] = base64.urlsafe_b64encode(last.encode()).decode()
                break
            last = shown
            if cut:
                folders.append(shown)
            else:
                items.append(self._about(bucket, objects[name]))
        if items:
            answer["items"] = items
        if folders:
            answer["prefixes"] = folders
        return answer

    def _about(self, bucket: str, stored: Stored) -> dict[str, Any]:
        return {
            "kind": "storage#object",
            "id": f"{bucket}/{stored.name}/{stored.generation}",
            "name": stored.name,
            "bucket": bucket,
            "generation": str(stored.generation),
            "metageneration": "1",
            "contentType": stored.kind or "application/octet-stream",
            "size": str(len(stored.data)),
            "md5Hash": _md5(stored.data),
            "crc32c": base64.b64encode(_crc32c(stored.data)).decode(),
            "timeCreated": stored.created,
            "updated": stored.created,
            "storageClass": "STANDARD",
            "etag": base64.b64encode(str(stored.generation).encode()).decode(),
        }

    def _mirror(self, bucket: str, name: str, data: bytes | None) -> None:
        root = self.folder / bucket
        path = root / name
        if ".." in Path(name).parts or Path(name).is_absolute() or name.endswith("/"):
            return  # no name for a file
        if data is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _check(query: Mapping[str, str], stored: Stored | None) -> None:
    """Hold what is there against the preconditions.

    Raises:
        StorageError: they are not met.
    """
    now = 0 if stored is None else stored.generation
    wanted, unwanted = query.get("ifGenerationMatch"), query.get("ifGenerationNotMatch")
    if (wanted is not None and int(wanted) != now) or (
        unwanted is not None and int(unwanted) == now
    ):
        raise StorageError(412, "At least one of the pre-conditions you specified did not hold.")


def _parts(request: Request) -> tuple[dict[str, Any], str, bytes]:
    """Return what a multipart upload says of its object, and the object's type and data."""
    boundary = re.search(r"boundary=['\"]?([^'\";]+)", request.header("content-type"))
    if boundary is None:
        raise StorageError(400, "The multipart body has no boundary.")
    mark = b"--" + boundary[1].encode()
    body = request.body.rpartition(mark + b"--")[0]  # what is behind its end is nothing
    _, first, second = [*body.split(mark, 2), b"", b""][:3]
    _, about = _part(first)
    head, data = _part(second)
    kind = re.search(rb"(?im)^content-type:\s*(\S+)", head)
    return json.loads(about), kind[1].decode() if kind else "", data


def _part(part: bytes) -> tuple[bytes, bytes]:
    """Return headers and contents of one part."""
    end = re.search(rb"\r?\n\r?\n", part)
    if end is None:
        raise StorageError(400, "A part has no headers.")
    return part[: end.start()], part[end.end() :].removesuffix(b"\n").removesuffix(b"\r")


def _range(header: str, size: int) -> tuple[int, int]:
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if found is None or found[0] == "bytes=-":
        raise StorageError(400, "The range is not valid.")
    if not found[1]:
        return max(0, size - int(found[2])), size
    return int(found[1]), min(size, int(found[2]) + 1) if found[2] else size


def _json(document: dict[str, Any]) -> tuple[int, Headers, bytes]:
    kind = ("content-type", "application/json; charset=UTF-8")
    return 200, [kind], json.dumps(document).encode()


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _crc32c(data: bytes) -> bytes:
    number: int = google_crc32c.value(data)
    return number.to_bytes(4, "big")
