"""Which found files the user has trusted: what `outpost trust` writes down, and asks again.

A file that was found by walking up from the current folder may come with a repository that
somebody else wrote. It counts once the user has said so, for its bytes: its path, what that leads
to, its owner and a hash are kept in a file of their own beside the user's configuration, where
whoever can write could change that configuration as well. The text is kept too, to show later what
was changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from outpost_core.errors import ConfigError, UsageError
from outpost_shared import access, faults, jsonfiles, private
from outpost_shared.paths import config_dir

FOLDER: Final = "trusted"
#: Bytes of the largest file that is trusted.
MOST: Final = 1024 * 1024
#: Bytes of the largest file whose text is kept: its record has to be no larger than a file may be.
_TEXT: Final = MOST // 8


class Trust(StrEnum):
    """Whether a found file may be used."""

    TRUSTED = "trusted"
    UNTRUSTED = "not trusted"
    CHANGED = "changed since it was trusted"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A found file as it was at one moment: what is trusted and what is used are these bytes.

    Args:
        path: its `identity`.
        real: the same without links.
        owner: the number of the user whose it is.
        data: all that is in it.
    """

    path: Path
    real: str
    owner: int
    data: bytes

    @property
    def sha256(self) -> str:
        """The hash of its bytes, in hexadecimal digits."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Record:
    """That a file was trusted.

    Args:
        path: its `identity`.
        real: where that led.
        owner: whose it was.
        sha256: the hash of its bytes.
        at: when, in seconds since 1970.
        text: what was in it; "" of a large one.
    """

    path: Path
    real: str
    owner: int
    sha256: str
    at: float
    text: str


def read_found(path: Path) -> Found:
    """Read a found file, once.

    Raises:
        NotPrivateError: somebody besides this user and root could change it.
        OSError: it cannot be read, or is no regular file, or too large.
    """
    real = private.check(str(path))
    # the path was looked at: nobody else can change it meanwhile, and links are not followed again
    fd = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as stream:
        about = private.check_open(fd, str(path))
        if not stat.S_ISREG(about.st_mode):
            raise OSError(f"{path} is no regular file")
        data = stream.read(MOST + 1)
    if len(data) > MOST:
        raise OSError(f"{path} is larger than {MOST // 1024} KiB")
    return Found(path=identity(path), real=real, owner=about.st_uid, data=data)


def identity(path: Path) -> Path:
    """Return the one path of a file `<town>/<folder>/<name>`, however one came to the town.

    Links from the town on stay in it: where one leads may change, and is compared by itself.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - links in its last two parts stay
    return path.parent.parent.resolve() / path.parent.name / path.name


def verdict(found: Found, environ: Mapping[str, str]) -> Trust:
    """Say whether the user has trusted a file as it is now."""
    record = recorded(found.path, environ)
    if record is None:
        return Trust.UNTRUSTED
    same = (found.real, found.owner, found.sha256) == (record.real, record.owner, record.sha256)
    return Trust.TRUSTED if same else Trust.CHANGED


def trust(found: Found, environ: Mapping[str, str]) -> Record:
    """Write down that the user trusts a file as it is.

    Raises:
        ConfigError: it cannot be written down.
    """
    record = Record(
        path=found.path,
        real=found.real,
        owner=found.owner,
        sha256=found.sha256,
        at=time.time(),
        text=found.data.decode("utf-8", "replace") if len(found.data) <= _TEXT else "",
    )
    folder = _folder(environ)
    if folder is None:
        raise UsageError(
            "nobody knows where your configuration folder is: HOME is not set",
            hint="export HOME=FOLDER, or name the file with --config",
        )
    body: dict[str, Any] = {
        "path": os.fsdecode(record.path),
        "real": record.real,
        "owner": record.owner,
        "sha256": record.sha256,
        "at": record.at,
        "text": record.text,
    }
    try:
        private.make_missing(str(folder.parent))
        private.check(str(folder.parent))
        private.make(str(folder))
        jsonfiles.store(str(folder), _name(found.path), body, sync=True)
        jsonfiles.sync_folder(str(folder))
    except OSError as error:
        raise _unwritten(folder, error) from None
    faults.point("config.trusted")
    return record


def revoke(path: Path, environ: Mapping[str, str]) -> Record | None:
    """Take the trust in a file back; return what was trusted, None when it was not.

    Raises:
        ConfigError: it cannot be taken back.
    """
    path = identity(path)
    record, folder = recorded(path, environ), _folder(environ)
    if record is None or folder is None:
        return None
    try:
        (folder / _name(path)).unlink(missing_ok=True)
        jsonfiles.sync_folder(str(folder))
    except OSError as error:
        raise _unwritten(folder, error) from None
    return record


def recorded(path: Path, environ: Mapping[str, str]) -> Record | None:
    """Return what was written down of a file; None when nothing was, or nobody can say."""
    folder = _folder(environ)
    path = identity(path)
    record = None if folder is None else _load(folder / _name(path))
    return record if record is not None and record.path == path else None


def records(environ: Mapping[str, str]) -> list[Record]:
    """Return all that was written down, by path."""
    folder = _folder(environ)
    if folder is None:
        return []
    try:
        found = [_load(file) for file in folder.iterdir() if file.name[0] != "."]
    except OSError:
        return []
    return sorted((one for one in found if one is not None), key=lambda one: one.path)


def _folder(environ: Mapping[str, str]) -> Path | None:
    base = config_dir(environ)
    return None if base is None else base / FOLDER


def _name(path: Path) -> str:
    return f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"


def _load(file: Path) -> Record | None:
    """Return one record; what somebody else could have written is none."""
    try:
        said = json.loads(read_found(file).data)
        return Record(
            path=Path(str(said["path"])),
            real=str(said["real"]),
            owner=int(said["owner"]),
            sha256=str(said["sha256"]),
            at=float(said["at"]),
            text=str(said["text"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _unwritten(folder: Path, error: OSError) -> ConfigError:
    why = error.why if isinstance(error, access.NotPrivateError) else error.strerror
    hint = error.hint if isinstance(error, access.NotPrivateError) else ""
    return ConfigError(
        f"what you trust cannot be written down there: {why or error}",
        file=str(error.filename or folder),
        hint=hint or "look at the permissions of that folder",
    )
