"""Where a server is: the forms of its URL, and which of them are safe to use."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from outpost_core.errors import UsageError
from outpost_shared.harmless import clean

if TYPE_CHECKING:
    from urllib.parse import SplitResult

#: Names the server where `--server` does not.
VARIABLE: Final = "OUTPOST_SERVER"
#: The token itself, and the file that holds it.
TOKEN: Final = "OUTPOST_TOKEN"  # noqa: S105 - a variable's name
TOKEN_FILE: Final = "OUTPOST_TOKEN_FILE"  # noqa: S105 - likewise
_FORMS: Final = "https://HOST, http://127.0.0.1:PORT or unix:/PATH/api.sock"
_MOST: Final = 4096
_LONGEST_TOKEN: Final = 512


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server is.

    Args:
        base: the URL that requests begin with.
        socket: path of its Unix socket; "" where it is asked over a network.
        local: nobody but this machine sees what is sent.
        shown: what messages call it.
    """

    base: str
    socket: str = ""
    local: bool
    shown: str


def address(text: str) -> Address:
    """Return the address that a URL says.

    Args:
        text: `https://host[:port]`, `http://127.0.0.1:port` or `unix:/path`.

    Raises:
        UsageError: it is none, or what is sent there could be read on its way.
    """
    if len(text) > _MOST:
        raise _wrong("it is too long")
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        path = os.path.expanduser(path)  # noqa: PTH111 - a Path would take `//` away
        if not path.startswith("/") or "\0" in path:
            raise _wrong("the path of a socket begins with /")
        return Address(base="http://localhost", socket=path, local=True, shown=f"unix:{path}")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise _wrong(str(error)) from None
    host = parts.hostname or ""
    _check(parts, host, text)
    local = is_loopback(host)
    if parts.scheme == "http" and not local:
        raise UsageError(
            f"{clean(text)[:200]} is not used: a token would travel there for everybody to read",
            hint=f"say https://{clean(host)}, or go by ssh: ssh -N -L 8765:127.0.0.1:PORT"
            f" {clean(host)}, then --server http://127.0.0.1:8765",
        )
    named = f"[{host}]" if ":" in host else host
    at = f"{parts.scheme}://{named}" + (f":{port}" if port is not None else "")
    return Address(base=at, local=local, shown=at)


def _check(parts: SplitResult, host: str, text: str) -> None:
    if parts.username is not None or parts.password is not None:
        # never shown: it may be a token
        raise UsageError(
            "the URL of --server has a user or a password in it, which others could read",
            hint=f"put the token into {TOKEN_FILE} or {TOKEN}",
        )
    if parts.scheme not in ("http", "https"):
        raise _wrong(f"{clean(text)[:200]!r} has no scheme that is known")
    if not host or any(char.isspace() or not char.isprintable() for char in text):
        raise _wrong(f"{clean(text)[:200]!r} names no host")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise _wrong("nothing stands behind host and port")


def _wrong(why: str) -> UsageError:
    return UsageError(f"--server: that is no URL of a server: {why}", hint=f"say {_FORMS}")


def login(text: str, host: str = "") -> str:
    """Return how to come to a command line on the machine of a server, for a hint.

    Args:
        text: its URL.
        host: what the mayor there says that its machine is called; "" where it was not asked.
    """
    try:
        at = address(text)
    except UsageError:
        return "log in on the server"
    if at.socket:
        return "that is this machine"
    named = urlsplit(at.base).hostname or ""
    # behind loopback there may be ssh -L: only the mayor knows where
    named = host if at.local else named
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,250}", named, re.ASCII):
        return "log in where the mayor runs"
    return f"ssh {named}"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine and no other."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def token(environ: Mapping[str, str]) -> str:
    """Return the token that the environment names; "" for none.

    Args:
        environ: the environment; `OUTPOST_TOKEN` wins over `OUTPOST_TOKEN_FILE`.

    Raises:
        UsageError: the file cannot be read, others can read it, or what it says is no token.
    """
    if said := environ.get(TOKEN, "").strip():
        return _checked(said, TOKEN)
    name = environ.get(TOKEN_FILE, "")
    if not name:
        return ""
    path = Path(name).expanduser()
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            if about.st_mode & 0o077 or about.st_uid not in (os.getuid(), 0):
                raise UsageError(
                    f"others can read or change {path}, which holds a token",
                    hint=f"chmod 600 {path}",
                )
            text = file.read(_MOST).decode("ascii", "replace")
    except OSError as error:
        raise UsageError(
            f"{TOKEN_FILE}: {path} cannot be read: {error.strerror}",
            hint="outpost token add NAME --role ROLE, on the server, makes a token",
        ) from None
    return _checked(text.strip(), f"{TOKEN_FILE} ({path})")


def _checked(said: str, where: str) -> str:
    if not said or len(said) > _LONGEST_TOKEN or not all("!" <= char <= "~" for char in said):
        raise UsageError(f"what {where} says is no token", hint="a token is one word of one line")
    return said
