"""The emulated bucket, tried by Google's own client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from emulkit import emulated
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from outpost_cloudrun.testing.emulator import Emulator


@pytest.fixture
def google(tmp_path: Path) -> Iterator[Emulator]:
    with emulated(tmp_path / "google") as running:
        yield running


@pytest.fixture
def bucket(google: Emulator) -> storage.Bucket:
    options = {"api_endpoint": google.storage.server.url}
    client = storage.Client("p", credentials=AnonymousCredentials(), client_options=options)
    return client.bucket("outpost")


def test_an_object_is_made_once(bucket: storage.Bucket, google: Emulator) -> None:
    blob = bucket.blob("claims/gt 1%.json")
    blob.upload_from_string(b"one\r\n--two\n", if_generation_match=0)
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("claims/gt 1%.json").upload_from_string(b"other", if_generation_match=0)
    first = bucket.get_blob("claims/gt 1%.json")
    assert first.download_as_bytes() == b"one\r\n--two\n"
    assert google.storage.read("outpost", "claims/gt 1%.json") == b"one\r\n--two\n"
    blob.upload_from_string(b"two", if_generation_match=first.generation)
    with pytest.raises(exceptions.PreconditionFailed):
        blob.upload_from_string(b"three", if_generation_match=first.generation)
    with pytest.raises(exceptions.NotFound):
        bucket.blob("claims/gt 1%.json", generation=first.generation).download_as_bytes()
    blob.reload()
    with pytest.raises(exceptions.PreconditionFailed):
        blob.delete(if_generation_match=first.generation)
    blob.delete(if_generation_match=blob.generation)
    assert bucket.get_blob("claims/gt 1%.json") is None


def test_parts_and_large_objects(bucket: storage.Bucket) -> None:
    data = bytes(range(256)) * 40_000  # over 8 MiB: a resumable upload
    blob = bucket.blob("log")
    blob.upload_from_string(data)
    assert blob.download_as_bytes(start=10, end=19) == data[10:20]
    assert blob.download_as_bytes(start=len(data) - 5) == data[-5:]
    with pytest.raises(exceptions.RequestRangeNotSatisfiable):
        blob.download_as_bytes(start=len(data))


def test_lists_have_prefixes_and_pages(bucket: storage.Bucket) -> None:
    for name in ("a/1", "a/2", "a/b/3", "a/b/4", "c"):
        bucket.blob(name).upload_from_string(b"")
    assert [each.name for each in bucket.list_blobs(prefix="a/")] == [
        "a/1",
        "a/2",
        "a/b/3",
        "a/b/4",
    ]
    listing = bucket.list_blobs(prefix="a/", delimiter="/")
    assert [each.name for each in listing] == ["a/1", "a/2"]
    assert listing.prefixes == {"a/b/"}
    pages = bucket.list_blobs(page_size=2).pages
    assert [[each.name for each in page] for page in pages] == [
        ["a/1", "a/2"],
        ["a/b/3", "a/b/4"],
        ["c"],
    ]
    offset = bucket.list_blobs(start_offset="a/b/4", end_offset="c")
    assert [each.name for each in offset] == ["a/b/4"]


def test_trouble(google: Emulator) -> None:
    url = f"{google.storage.server.url}/storage/v1/b/outpost/o"
    assert httpx.get(url.replace("outpost", "none")).status_code == 404
    google.knobs.bucket_status = 503
    assert httpx.get(url).json()["error"]["errors"][0]["reason"] == "backendError"
    google.knobs.bucket_status, google.knobs.bucket_away = 0, True
    with pytest.raises(httpx.HTTPError):
        httpx.get(url)
    google.knobs.bucket_away, google.knobs.access_tokens = False, True
    assert httpx.get(url).status_code == 401
    token = {"authorization": f"Bearer {google.tokens.access_token()}"}
    assert httpx.get(url, headers=token).status_code == 200
