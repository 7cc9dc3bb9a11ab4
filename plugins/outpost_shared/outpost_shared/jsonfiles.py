"""Small private JSON files, read and replaced whole, through no link."""

from __future__ import annotations

import os

from outpost_shared import plain
from outpost_shared.leanjson import dumps, loads
from outpost_shared.plain import Broken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Bytes that such a file may have.
MOST = 8 << 20


def load(folder: str, name: str) -> dict[str, Any] | None:
    """Return the JSON object in `folder/name`; None when it is missing, not whole or broken.

    Raises:
        OSError: nobody can say, since this process or its disk is in trouble.
    """
    try:
        data = content(folder, name, MOST)
        return None if data is None else parse(name, data)
    except Broken:
        return None


def content(folder: str, name: str, most: int) -> bytes | None:
    """Return what is in `folder/name`; None when there is none.

    Args:
        folder: where it is.
        name: of the file.
        most: bytes that it may have.

    Raises:
        Broken: it is no plain file of ours, or too large.
        OSError: nobody can say, since this process or its disk is in trouble.
    """
    try:
        at = plain.folder(folder)
    except FileNotFoundError:
        return None
    try:
        return plain.content(at, name, most)
    finally:
        os.close(at)


def parse(name: str, data: bytes) -> dict[str, Any]:
    """Return the JSON object that a file's content is.

    Raises:
        Broken: it is none.
    """
    try:
        value = loads(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        raise Broken(name, "is not JSON") from None
    if not isinstance(value, dict):
        raise Broken(name, "is not a JSON object")
    return value


def store(folder: str, name: str, value: dict[str, Any], *, sync: bool = False) -> None:
    """Write a JSON object to `folder/name` so that readers see the old or the new one, whole.

    Args:
        folder: where it is.
        name: of the file.
        value: what to write.
        sync: reach the disk before the new one shows.

    Raises:
        OSError: it could not be written; the old one stays.
    """
    at = plain.folder(folder)
    try:
        plain.replace(at, name, dumps(value).encode("ascii"), sync=sync)
    finally:
        os.close(at)


def sync_folder(path: str) -> None:
    """Bring the names in a folder to the disk.

    Raises:
        OSError: the disk said no.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
