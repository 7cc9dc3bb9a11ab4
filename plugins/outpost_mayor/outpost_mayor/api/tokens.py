"""Tokens of the API: who may do what. Only hashes are kept; a token is shown once."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from outpost_core.errors import ConflictError, NotFoundError, OutpostError, UsageError
from outpost_core.nearest import suggest
from outpost_shared import faults, jsonfiles, plain, private

#: What a token may do, each what those before it may.
ROLES: Final = ("view", "work", "admin")
#: The folder in the state folder, and the file in it.
FOLDER: Final = "mayor"
FILE: Final = "tokens.json"
_LOCK: Final = "tokens.lock"
_PREFIX: Final = "outpost_"
_BYTES: Final = 32
#: Characters at the end of a token by which people know it again.
_SHOWN: Final = 4
_MOST: Final = 1000
_HASH: Final = re.compile("[0-9a-f]{64}")
_END: Final = re.compile("[A-Za-z0-9_-]{0,4}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Token:
    """What is kept of a token.

    Args:
        name: whose it is.
        role: one of `ROLES`.
        sha256: its hash, in hex.
        created_at: seconds since the epoch.
        last4: its last characters.
    """

    name: str
    role: str
    sha256: str
    created_at: float
    last4: str = ""


def folder_of(state: Path) -> Path:
    """Return the folder of the API in a state folder, made when it is missing; private.

    Raises:
        NotPrivateError: somebody else could change it.
        OSError: it cannot be made.
    """
    private.claim(str(state))
    folder = state / FOLDER
    private.make(str(folder))
    return folder


def read(state: Path) -> list[Token]:
    """Return the tokens, oldest first.

    Raises:
        OutpostError: the file is there and is none of ours; nobody can log in then.
        OSError: it cannot be read.
    """
    try:
        data = jsonfiles.content(str(state / FOLDER), FILE, jsonfiles.MOST)
        said = {} if data is None else jsonfiles.parse(FILE, data)
    except plain.Broken as error:
        raise _broken(state, str(error)) from None
    found = said.get("tokens", [])
    if not isinstance(found, list):
        raise _broken(state, "its tokens are no list")
    return [_checked(state, one) for one in found]


def add(state: Path, name: str, role: str) -> str:
    """Make a token; return it: it is not kept and cannot be shown again.

    Args:
        state: the state folder of the mayor.
        name: whose it is.
        role: one of `ROLES`.

    Raises:
        ConflictError: there is one of that name.
        UsageError: that is no name, or no role.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name[:80]!a} is no name of a token", hint="1 to 64 of: letters, digits, . _ @ -"
        )
    if role not in ROLES:
        raise UsageError(f"{role[:80]!a} is no role", hint=f"one of {', '.join(ROLES)}")
    made = _PREFIX + secrets.token_urlsafe(_BYTES)
    with _changing(state) as tokens:
        if any(one.name == name for one in tokens):
            raise ConflictError(
                f"there is a token with the name {name}",
                hint=f"outpost token remove {name} first, or take another name",
            )
        if len(tokens) >= _MOST:
            raise UsageError(f"there are {_MOST} tokens", hint="outpost token remove NAME")
        tokens.append(
            Token(
                name=name, role=role, sha256=_hash(made), created_at=time.time(),
                last4=made[-_SHOWN:],
            )
        )  # fmt: skip
    return made


def remove(state: Path, name: str) -> Token:
    """Take a token away; who has it is refused from now on.

    Raises:
        NotFoundError: there is none of that name.
    """
    with _changing(state) as tokens:
        for one in tokens:
            if one.name == name:
                tokens.remove(one)
                return one
        raise NotFoundError(
            f"there is no token with the name {name[:80]!a}",
            hint=suggest(name, [one.name for one in tokens]) or "outpost token list",
        )


class Tokens:
    """The tokens of a state folder, read again when their file changes.

    Args:
        state: the state folder.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._mark: object = None
        self._tokens: Sequence[Token] = ()

    def find(self, said: str) -> Token | None:
        """Return whose token that is; None for nobody's. Takes as long whoever it is.

        Raises:
            OutpostError: the file is none of ours.
            OSError: it cannot be read.
        """
        self._refresh()
        mine, found = _hash(said), None
        for one in self._tokens:
            if hmac.compare_digest(mine, one.sha256):
                found = one
        return found

    def _refresh(self) -> None:
        try:
            about = (self._state / FOLDER / FILE).stat()
            mark: object = (about.st_mtime_ns, about.st_size, about.st_ino)
        except FileNotFoundError:
            mark = "none"
        if mark != self._mark:
            self._tokens = read(self._state)
            self._mark = mark


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


@contextmanager
def _changing(state: Path) -> Iterator[list[Token]]:
    """Change the list of tokens: two who do so at once do it one after the other."""
    folder = folder_of(state)
    at = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(at, fcntl.LOCK_EX)
        tokens = read(state)
        before = [*tokens]
        yield tokens
        if tokens != before:
            value = {"tokens": [vars(one) for one in tokens]}
            jsonfiles.store(str(folder), FILE, value, sync=True)
            faults.point("token.kept")
    finally:
        os.close(at)


def _checked(state: Path, one: Any) -> Token:
    if not isinstance(one, dict):
        raise _broken(state, "one of its tokens is no object")
    name, role, digest = one.get("name"), one.get("role"), one.get("sha256")
    made, last = one.get("created_at"), one.get("last4", "")
    texts = isinstance(name, str) and isinstance(digest, str) and isinstance(last, str)
    if not texts or isinstance(made, bool) or not isinstance(made, int | float):
        raise _broken(state, "one of its tokens lacks something")
    found = Token(
        name=str(name), role=str(role), sha256=str(digest), created_at=float(made),
        last4=str(last),
    )  # fmt: skip
    right = _NAME.fullmatch(found.name) and _HASH.fullmatch(found.sha256)
    if not right or role not in ROLES or not _END.fullmatch(found.last4):
        raise _broken(state, "one of its tokens has what none can have")
    return found


def _broken(state: Path, why: str) -> OutpostError:
    return OutpostError(
        f"{state / FOLDER / FILE} is no file of tokens: {why}",
        hint="move it away, and make the tokens anew: outpost token add NAME --role ROLE",
    )
