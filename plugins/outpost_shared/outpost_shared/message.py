"""What mail may say: addresses, subjects, bodies and priorities, checked the same on both sides."""

from __future__ import annotations

import re
import unicodedata
from json import dumps
from typing import TYPE_CHECKING, Final

from outpost_core.errors import UsageError

if TYPE_CHECKING:
    from outpost_core.types import Message

#: Bytes of UTF-8 that a body may have, characters of a subject and of an address.
MAX_BODY: Final = 256 * 1024
MAX_SUBJECT: Final = 500
MAX_ADDRESS: Final = 200

#: Characters that a body may have as JSON: lines between programs are bounded.
_MAX_WIRE: Final = 3 * MAX_BODY + 1024

#: Gas Town's words for priorities, by number; it has no word for 4 and says `low`.
PRIORITIES: Final = ("urgent", "high", "normal", "low", "low")

#: `overseer`, `mayor/`, `gastown/polecat`, `@witnesses`, `list:oncall`, `*/witness`.
_ADDRESS = re.compile(r"[A-Za-z0-9@*](?:[A-Za-z0-9@*._+-]|[/:](?![/:]))*", re.ASCII)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
#: Line and paragraph separators, and what changes the direction of text.
_UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
#: Parts of an address that Gas Town leaves out: `gastown/polecats/Toast` is `gastown/Toast`.
_ROLES = frozenset({"crew", "polecats"})
_TOWN = frozenset({"mayor", "deacon"})


def check(message: Message) -> Message:
    """Return `message` when it can be delivered as it is.

    Raises:
        UsageError: an address, the subject, the body, the priority or the id is not as it must be.
    """
    check_address(message.to)
    check_address(message.sender, "sender")
    _check_subject(message.subject)
    _check_body(message.body)
    if type(message.priority) is not int or not 0 <= message.priority <= 4:
        raise UsageError(f"priority {message.priority!a} of the mail is not one of P0 to P4")
    if len(message.via) > MAX_ADDRESS or not message.via.isprintable():
        raise UsageError(f"{message.via[:80]!a} does not say who puts a mail there")
    if message.id and not _ID.fullmatch(message.id):
        raise UsageError(f"{message.id[:80]!a} is not the id of a mail")
    return message


def check_address(address: str, what: str = "address") -> str:
    """Return `address` when it can be one.

    Args:
        address: `gastown/polecat`, `mayor/`, `overseer`, `list:oncall` …
        what: what it is called in the error.

    Raises:
        UsageError: it can not.
    """
    if not address:
        raise UsageError(f"the {what} of the mail is empty", hint="such as gastown/polecat, mayor/")
    if len(address) > MAX_ADDRESS or ".." in address or not _ADDRESS.fullmatch(address):
        raise UsageError(
            f"{address[:80]!a} is not an {what} for mail" if what == "address" else
            f"{address[:80]!a} is not a {what} of mail",
            hint="such as gastown/polecat, gastown/witness, mayor/ or overseer: letters, digits,"
            " '.', '_', '-', parted by '/'",
        )  # fmt: skip
    return address


def _check_subject(subject: str) -> None:
    if not subject.strip():
        raise UsageError("the subject of the mail is empty", hint="-s SUBJECT")
    for char in subject:
        if unicodedata.category(char) in _UNSEEN or char in _TURNS:
            raise UsageError(
                f"the subject of the mail holds the character {char!a}",
                hint="a subject is one line of text; the rest belongs into the body",
            )
    if len(subject) > MAX_SUBJECT:
        raise UsageError(
            f"the subject of the mail has {len(subject)} characters, at most {MAX_SUBJECT} are"
            " allowed",
            hint="put the text into the body",
        )


def _check_body(body: str) -> None:
    try:
        size = len(body.encode())
    except UnicodeEncodeError as error:
        raise UsageError(
            f"the body of the mail is not Unicode text (character {error.start + 1})",
            hint="mail is text in UTF-8",
        ) from None
    if "\0" in body:
        raise UsageError(
            f"the body of the mail holds a NUL (character {body.index(chr(0)) + 1})",
            hint="mail is text; put files where the receiver can fetch them",
        )
    if size > MAX_BODY:
        raise UsageError(
            f"the body of the mail has {size} bytes, at most {MAX_BODY} are allowed",
            hint="put it into a file that the receiver can fetch, and mail its place",
        )
    if size * 6 > _MAX_WIRE and len(dumps(body)) > _MAX_WIRE:
        raise UsageError(
            "the body of the mail is mostly control characters",
            hint="mail is text; put files where the receiver can fetch them",
        )


def identity(address: str) -> str:
    """Return an address in the one form that Gas Town compares: `mayor/`, `gastown/Toast`."""
    plain = address.removesuffix("/")
    if plain in _TOWN:
        return f"{plain}/"
    parts = plain.split("/")
    if len(parts) == 3 and parts[1] in _ROLES:
        return f"{parts[0]}/{parts[2]}"
    return plain


def is_for(to: str, who: str) -> bool:
    """Whether mail to an address is for someone: their own, or of their whole rig (`gastown/`)."""
    mine, theirs = identity(who), identity(to)
    return mine == theirs or (to.endswith("/") and mine.startswith(f"{theirs}/"))
