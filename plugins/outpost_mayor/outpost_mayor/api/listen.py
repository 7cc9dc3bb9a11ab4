"""Where the API is found: a private socket always, an address of the network where one asks for it.

The sockets are bound before anything of the mayor starts, so that a mistake is said at once.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError, UsageError
from outpost_mayor.api import tokens
from outpost_shared import keeping, plain
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_manager.config.api import Address

#: The socket in the folder of the API, and the file that says where it is when that is too long.
SOCKET: Final = "api.sock"
POINTER: Final = "api.path"
#: Longest path of a socket on every system.
_LONGEST: Final = 100
_BACKLOG: Final = 128
_log = Logger("api")


@dataclass(kw_only=True)
class Doors:
    """The sockets of the API.

    Args:
        state: the state folder of the mayor.
        unix: path of the private socket.
        local: that socket.
        at: where else it listens.
        remote: the sockets of that.
        tls: how those speak TLS.
        ended: is set when the mayor ends: what would go on for ever ends then.
    """

    state: Path
    unix: Path
    local: socket.socket
    at: Address | None = None
    remote: list[socket.socket] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def urls(self) -> list[str]:
        """Where clients find it."""
        found = [f"unix:{self.unix}"]
        for each in self.remote:
            assert self.at is not None
            host, port = each.getsockname()[:2]
            shown = self.at.host if self.at.cert is not None else host
            found.append(f"{self.at.scheme}://{f'[{shown}]' if ':' in shown else shown}:{port}")
        return found

    def close(self) -> None:
        """Let go of the sockets."""
        with suppress(OSError):
            self.unix.unlink()
        for each in (self.local, *self.remote):
            each.close()


@asynccontextmanager
async def opened(state: Path, at: Address | None) -> AsyncIterator[Doors]:
    """Hold the sockets of the API while the block is entered.

    The caller holds the lease of the state folder.

    Args:
        state: the state folder.
        at: where it listens besides its private socket.

    Raises:
        OutpostError: one cannot be bound, or the certificate cannot be used.
    """
    tls = None if at is None or at.cert is None else _tls(at)
    doors = Doors(state=state, unix=Path(), local=socket.socket(socket.AF_UNIX), at=at, tls=tls)
    doors.local.close()
    remote = [] if at is None else _bound(at)
    try:
        doors.unix, doors.local = _local(state)
    except BaseException:
        for each in remote:
            each.close()
        raise
    doors.remote = remote
    try:
        yield doors
    finally:
        doors.close()


def where(state: Path) -> Path:
    """Return the path of the private socket of a state folder, whether or not it is there."""
    usual = state / tokens.FOLDER / SOCKET
    if len(os.fsencode(usual)) <= _LONGEST:
        return usual
    return keeping.socket_of({"api": str(state.resolve())}) or usual


def _local(state: Path) -> tuple[Path, socket.socket]:
    folder = tokens.folder_of(state)
    path = where(state)
    try:
        made = keeping.listen(path)
    except OSError as error:
        raise OutpostError(
            f"the API cannot listen at {path}: {error.strerror or error}",
            hint="let --state (or XDG_RUNTIME_DIR) name a private folder of yours with a short"
            " path",
        ) from None
    made.setblocking(False)
    made.listen(_BACKLOG)
    pointer = folder / POINTER
    if path.parent == folder:
        pointer.unlink(missing_ok=True)
    else:
        _log.info("the path of %s is too long for a socket: it is %s", folder / SOCKET, path)
        at = plain.folder(str(folder))
        try:
            plain.replace(at, POINTER, os.fsencode(path) + b"\n")
        finally:
            os.close(at)
    return path, made


def _bound(at: Address) -> list[socket.socket]:
    """Return listening sockets at an address of the network, one for each family of addresses."""
    try:
        found = socket.getaddrinfo(
            at.host, at.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise OutpostError(
            f"the API cannot listen at {at.host}: {said}", hint="say an address of this machine"
        ) from None
    made: list[socket.socket] = []
    port = at.port
    try:
        for family, kind, _, _, where_ in dict.fromkeys(found):
            one = socket.socket(family, kind)
            made.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((where_[0], port, *where_[2:]))
            one.setblocking(False)
            one.listen(_BACKLOG)
            port = one.getsockname()[1]
    except OSError as error:
        for one in made:
            one.close()
        hint = "say another port" if error.errno == errno.EADDRINUSE else ""
        if error.errno == errno.EACCES:
            hint = "ports below 1024 are root's: say another one"
        raise OutpostError(
            f"the API cannot listen at {at.host}:{port}: {error.strerror}",
            hint=hint or "say an address of this machine",
        ) from None
    return made


def _tls(at: Address) -> ssl.SSLContext:
    assert at.cert is not None
    assert at.key is not None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    for name, path in (("certificate", at.cert), ("key", at.key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise UsageError(f"the {name} {path} cannot be read: {error.strerror}") from None
    try:
        # a key that asks for a passphrase would have the mayor wait for a terminal
        made.load_cert_chain(at.cert, at.key, password=lambda: b"")
    except (ssl.SSLError, OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise UsageError(
            f"{at.cert} and {at.key} cannot be used for TLS: {why}",
            hint="a certificate and its key in PEM, the key without a passphrase",
        ) from None
    return made
