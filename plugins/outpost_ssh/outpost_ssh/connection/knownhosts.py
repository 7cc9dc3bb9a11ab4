"""Files of known hosts: which of their lines speak of a host, and what they say."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import asyncssh

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_MARKERS: Final = ("", "@cert-authority", "@revoked")
#: A file of known hosts that is larger than this is none.
_MOST: Final = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a file of known hosts.

    Args:
        marker: "", "@cert-authority" or "@revoked".
        key: the key that it names.
        file: where it is written.
        line: 1-based.
    """

    marker: str
    key: asyncssh.SSHKey
    file: Path
    line: int

    @property
    def place(self) -> str:
        """Where it is written, as `FILE:LINE`."""
        return f"{self.file}:{self.line}"


def find(files: Iterable[Path], name: str) -> Iterator[Entry]:
    """Yield the lines that speak of a host.

    Lines that cannot be read are passed over, as OpenSSH does, and so are files.

    Args:
        files: the files.
        name: the host's name as the files have it: `vm1`, or `[vm1]:2222`.
    """
    for file in files:
        for number, line in enumerate(_lines(file), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            marker = words.pop(0) if words[0].startswith("@") else ""
            if len(words) < 3 or marker not in _MARKERS or not speaks_of(words[0], name):
                continue
            try:
                key = asyncssh.import_public_key(f"{words[1]} {words[2]}")
            except (asyncssh.KeyImportError, ValueError):
                continue
            yield Entry(marker=marker, key=key, file=file, line=number)


def speaks_of(patterns: str, name: str) -> bool:
    """Tell whether the first word of a line means a host.

    Args:
        patterns: names and patterns with commas between, or one hashed name.
        name: the host.
    """
    name = name.lower()
    if patterns.startswith("|"):
        return _hashed(patterns, name)
    found = False
    for pattern in patterns.lower().split(","):
        wanted = pattern.removeprefix("!")
        if _matches(wanted, name):
            if wanted != pattern:
                return False
            found = True
    return found


def _matches(pattern: str, name: str) -> bool:
    """Tell whether a name has the shape of a pattern with `*` and `?`.

    Only the last `*` is ever tried again, so that no line of a file takes longer than its length
    times that of the name.
    """
    at = 0
    star, begun = -1, 0  # the place of the last `*`, and where in the name what follows it begins
    place = 0
    while place < len(name):
        if at < len(pattern) and pattern[at] == "*":
            star, begun = at, place
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", name[place]):
            at += 1
            place += 1
        elif star >= 0:
            begun += 1
            at, place = star + 1, begun
        else:
            return False
    return not pattern[at:].strip("*")


def _hashed(word: str, name: str) -> bool:
    parts = word.split("|")
    if len(parts) != 4 or parts[1] != "1":
        return False
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in parts[2:])
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), hashlib.sha1), digest)


def _lines(file: Path) -> list[str]:
    try:
        with file.open("rb") as opened:
            return opened.read(_MOST).decode("utf-8", "replace").split("\n")
    except OSError:
        return []
