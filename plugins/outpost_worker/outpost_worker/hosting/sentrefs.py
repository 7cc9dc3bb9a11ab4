"""What goes between two machines about a repository: its refs, and names that are safe here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from outpost_core.errors import UsageError
from outpost_core.types import Json
from outpost_shared.leanjson import loads

#: Refs that follow the other machine's, also when they go away there.
OWN = ("refs/heads/", "refs/tags/", "refs/outpost/")
#: Longest first line of what is sent: about 400,000 refs.
LONGEST_HEAD = 64 << 20
_OID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", re.ASCII)


def local_path(rig: str | None) -> str | None:
    """Return the path of a rig that is on the machine of who ordered; None for another rig."""
    if rig is None:
        return None
    if rig.startswith("file:///"):
        rig = rig.removeprefix("file://")
        if "%" in rig:  # as git reads it
            from urllib.parse import unquote

            rig = unquote(rig, errors="surrogateescape")
    return rig if rig.startswith("/") else None


def key_of(controller: str, path: str) -> str:
    """Return the name of a repository's copy: told by its own name, unique by whose it is.

    Args:
        controller: identity of the program's state on the other machine.
        path: where the repository is there.
    """
    told = f"{controller}\0{path}".encode("utf-8", "surrogateescape")
    name = path.rstrip("/").rpartition("/")[2].removesuffix(".git")
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)[:40]
    return f"{name.lstrip('.-') or 'rig'}-{hashlib.sha256(told).hexdigest()[:32]}"


def check_oid(text: object) -> str:
    """Return `text` when it is the whole hash of an object.

    Raises:
        UsageError: it is not.
    """
    if isinstance(text, str) and _OID.fullmatch(text):
        return text
    raise UsageError(f"{ascii(text)[:80]} is not the hash of an object")


@dataclass(frozen=True, kw_only=True)
class SentRefs:
    """A repository's refs as they are sent.

    Args:
        format: `sha1` or `sha256`.
        head: `ref: refs/heads/…`, or the commit of a detached HEAD, or "".
        refs: every ref that is shown, with its object.
        shallow: commits whose parents are not there.
    """

    format: str
    head: str
    refs: Mapping[str, str]
    shallow: Sequence[str] = ()

    @classmethod
    def parse(cls, line: bytes) -> SentRefs:
        """Read the first line of what was sent.

        Raises:
            UsageError: it is no such line.
        """
        try:
            told = loads(line.decode("ascii"))
            refs, head = told["refs"], told["head"]
            if told["format"] not in ("sha1", "sha256") or not isinstance(refs, dict):
                raise ValueError("its format or its refs")
            for name, value in refs.items():
                if not name.startswith("refs/") or any(c <= " " or c == "\x7f" for c in name):
                    raise ValueError(f"the ref {name[:80]!a}")
                check_oid(value)
            if not head.startswith("ref: refs/heads/") and head:
                check_oid(head)
            shallow = [check_oid(value) for value in told["shallow"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"a repository was sent that cannot be read: {error}") from error
        return cls(format=told["format"], head=head, refs=refs, shallow=shallow)

    @property
    def objects(self) -> list[str]:
        """Every object that is named, once."""
        more = [self.head] if _OID.fullmatch(self.head) else []
        return [*dict.fromkeys([*self.refs.values(), *more])]


def told(value: Mapping[str, Json], name: str, kind: type) -> object:
    """Return one parameter of a request.

    Raises:
        UsageError: it is missing or of another type.
    """
    found = value.get(name)
    if type(found) is not kind:
        raise UsageError(f"{name!r} is missing or not of the type {kind.__name__}")
    return found
