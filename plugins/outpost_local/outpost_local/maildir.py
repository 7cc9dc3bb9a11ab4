"""The file of messages: opened without following links, appended to whole, read around damage."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from outpost_core.types import Message
from outpost_shared import private
from outpost_shared.message import PRIORITIES
from outpost_worker.folder import files

FOLDER: Final = "mail"
FILE: Final = "inbox.jsonl"
#: The same file that `gt` locks.
LOCK: Final = f"{FILE}.lock"
_PIECE: Final = 1 << 20
#: Bytes that a file of messages may have; all of it is read each time.
MOST: Final = 256 << 20
_NUMBERS: Final = {"urgent": 0, "high": 1, "normal": 2, "low": 3, "backlog": 4}


def open_folder(base: os.PathLike[str], *, make: bool) -> int | None:
    """Open `<base>/mail`, which must not be a link; None when there is none.

    Raises:
        OSError: it is something else, or it cannot be made.
    """
    if make:
        private.make_missing(os.fspath(base))
    try:
        fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return open_under(fd, FOLDER, make=make)
    finally:
        os.close(fd)


def open_under(folder: int, name: str, *, make: bool) -> int | None:
    """Open a folder in an open one, which must not be a link; None when there is none.

    Raises:
        OSError: it is something else, or it cannot be made.
    """
    if make:
        try:
            os.mkdir(name, 0o700, dir_fd=folder)
            os.fsync(folder)
        except FileExistsError:
            pass
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        return None


def open_file(folder: int, name: str, *, make: bool = True) -> int:
    """Open a private, plain file in an open folder.

    Raises:
        OSError: it is a link or something else, or somebody else's.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    flags |= os.O_CREAT if make else 0
    fd = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1 or found.st_uid != os.geteuid():
            raise OSError(errno.EPERM, f"{name} is no plain file of its own")
        if found.st_size > MOST:
            raise OSError(errno.EFBIG, f"{name} has more than {MOST} bytes")
        if found.st_mode & 0o077:
            os.fchmod(fd, found.st_mode & 0o700)
    except BaseException:
        os.close(fd)
        raise
    return fd


def append(folder: int, message: Message) -> None:
    """Append a message unless its id is there. The caller holds the lock.

    A last line without an end, which a crash left, gets its end first.

    Raises:
        OSError: it could not be written; the file is as it was.
    """
    fd = open_file(folder, FILE)
    try:
        size, torn, there = _look(fd, message.id)
        line = b"\n" if torn else b""
        if not there:
            line += json.dumps(_shape(message), ensure_ascii=False).encode() + b"\n"
        os.lseek(fd, size, os.SEEK_SET)
        try:
            if line:
                files.write_all(fd, line)
            os.fsync(fd)
        except OSError:
            os.ftruncate(fd, size)
            raise
    finally:
        os.close(fd)
    os.fsync(folder)


def read(folder: int) -> tuple[list[Message], int]:
    """Return all messages, and how many lines are damaged.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        fd = open_file(folder, FILE, make=False)
    except FileNotFoundError:
        return [], 0
    found: list[Message] = []
    damaged = 0
    with open(fd, "rb") as file:  # noqa: PTH123 - an open descriptor
        for line in file:
            if not line.strip():
                continue
            message = parse(line)
            if message is None:
                damaged += 1
            else:
                found.append(message)
    return found, damaged


def parse(line: bytes) -> Message | None:
    """Return the message of a line, or None when it is damaged."""
    try:
        return message_of(json.loads(line))
    except (ValueError, RecursionError):
        return None


def message_of(said: object) -> Message | None:
    """Return the message that an object in Gas Town's form is, or None when it is none."""
    if not isinstance(said, Mapping) or not isinstance(said.get("to"), str):
        return None
    text: dict[str, str] = {
        key: _plain(said[key]) if isinstance(said.get(key), str) else ""
        for key in ("id", "from", "to", "subject", "body", "priority", "timestamp")
    }
    return Message(
        id=text["id"],
        to=text["to"],
        sender=text["from"],
        subject=text["subject"],
        body=text["body"],
        priority=_NUMBERS.get(text["priority"], 2),
        sent_at=_moment(text["timestamp"]),
        read=said.get("read") is True,
    )


def _shape(message: Message) -> dict[str, Any]:
    """Return a message as Gas Town writes it."""
    at = message.sent_at
    moment = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    return {
        "id": message.id,
        "from": message.sender,
        "to": message.to,
        "subject": message.subject,
        "body": message.body,
        "timestamp": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "read": False,
        "priority": PRIORITIES[message.priority],
        "type": "notification",
        "delivery": "queue",
    }


def _look(fd: int, id_: str) -> tuple[int, bool, bool]:
    """Return the size, whether the last line has no end, and whether a message is there."""
    wanted = json.dumps(id_).encode()
    size, rest, there = 0, b"", False
    os.lseek(fd, 0, os.SEEK_SET)
    while piece := os.read(fd, _PIECE):
        size += len(piece)
        *lines, rest = (rest + piece).split(b"\n")
        there = there or any(_is(line, wanted, id_) for line in lines)
    return size, bool(rest), there or _is(rest, wanted, id_)


def _is(line: bytes, wanted: bytes, id_: str) -> bool:
    if wanted not in line:
        return False
    message = parse(line)
    return message is not None and message.id == id_


def _plain(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _moment(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
