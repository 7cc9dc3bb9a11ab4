"""What a server's answers say when something went wrong, as the errors that commands know."""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

from outpost_core import errors
from outpost_core.errors import OutpostError, UnreachableError
from outpost_shared.harmless import clean, clean_lines

#: Characters of a message or a hint that are believed.
_LONGEST: Final = 8000
_CLASSES: Final[dict[str, type[OutpostError]]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, OutpostError)
}
#: Exit codes that an error can have.
_CODES: Final = range(1, 10)


class ServerError(OutpostError):
    """A server refused for a reason that has no class here.

    Args:
        message: what it said.
        hint: likewise.
        code: the exit code.
        name: what it calls the error.
    """

    def __init__(self, message: str, *, hint: str = "", code: int = 1, name: str = "") -> None:
        super().__init__(message, hint=hint)
        self.exit_code = code
        self.shown_as = name or "ServerError"


def document(body: bytes, shown: str) -> dict[str, Any]:
    """Return the JSON object of an answer.

    Args:
        body: its bytes.
        shown: whose answer it is.

    Raises:
        UnreachableError: it is none.
    """
    try:
        found = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise strange(shown, "what it answered is no JSON") from None
    if not isinstance(found, dict):
        raise strange(shown, "what it answered is no JSON object")
    return found


def _no_number(_: str) -> NoReturn:
    raise ValueError("not a number")


def strange(shown: str, why: str) -> UnreachableError:
    """Return the error about an answer that no server of ours gives."""
    return UnreachableError(
        f"{shown} does not answer as a server of Outpost does: {why}",
        hint="is the URL right, and is the outpost there of the same version? outpost serve"
        " --status, on the server, says where it listens",
    )


def refusal(status: int, body: bytes, shown: str) -> OutpostError:
    """Return the error that an answer says.

    Args:
        status: its HTTP status.
        body: its bytes.
        shown: whose answer it is.
    """
    try:
        said = document(body, shown).get("error")
    except UnreachableError:
        said = None
    if not isinstance(said, dict) or not isinstance(said.get("message"), str):
        return _bare(status, shown)
    message = clean_lines(said["message"][:_LONGEST])
    hint = said.get("hint")
    hint = clean_lines(hint[:_LONGEST]) if isinstance(hint, str) else ""
    name, code = said.get("type"), said.get("code")
    code = code if type(code) is int and code in _CODES else 1
    return error_of(name if isinstance(name, str) else "", code, message, hint)


def error_of(name: str, code: int, message: str, hint: str) -> OutpostError:
    """Return an error by what its document says of it.

    Args:
        name: of its class.
        code: the exit code that it had there.
        message: what and why.
        hint: the next step.
    """
    if name == "WorkerError":
        return errors.WorkerError(message, reason="", hint=hint)
    kind = _CLASSES.get(name)
    if kind is None or kind is OutpostError or kind.exit_code != code:
        return ServerError(message, hint=hint, code=code, name=clean(name)[:80])
    return kind(message, hint=hint)


def _bare(status: int, shown: str) -> OutpostError:
    if status in (502, 503, 504):
        return UnreachableError(
            f"{shown} cannot be asked now: what stands before it answers HTTP {status}",
            hint="does outpost serve run there?",
        )
    return strange(shown, f"HTTP {status}")
