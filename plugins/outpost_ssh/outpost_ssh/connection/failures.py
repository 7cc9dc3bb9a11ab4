"""What went wrong on the way to a host, in words that name the cause and the hint.

Whatever comes from the other side is shown without control characters, and cut.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import asyncssh

from outpost_core.errors import OutpostError, UnreachableError, UsageError
from outpost_core.units import format_duration

if TYPE_CHECKING:
    from outpost_ssh.connection.hostkeys import HostKeys

#: No more of what the other side says than this is quoted.
_QUOTED: Final = 200
_TOO_MANY: Final = "too many authentication failures"
#: What an operating system says when packets cannot get there.
_NO_ROUTE: Final = frozenset(
    (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EPERM, errno.ENETDOWN,
     errno.EHOSTDOWN, errno.EINVAL, errno.EADDRNOTAVAIL)
)  # fmt: skip


def plain(text: object, limit: int = _QUOTED) -> str:
    """Return foreign text as one short line without control characters."""
    line = "".join(c if c.isprintable() else " " for c in str(text))
    line = " ".join(line.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


@dataclass(kw_only=True)
class Attempt:
    """What is known of one attempt to connect; filled in while it runs.

    Args:
        host: what is connected to.
        port: its port.
        user: the login name.
        timeout: seconds that it may take.
        keys: what the host may show.
        via: the host that it goes through, or "".
        command: it goes through this ProxyCommand.

    Attributes:
        stage: `dial`, `banner` or `login`: what it waits for.
        tries: how often the host was tried.
        banner: what the host said before the login.
        offered: what was offered to log in with, for messages.
        locked: keys that could not be used: file, public key, reason, hint.
        noise: what a ProxyCommand said.
    """

    host: str
    port: int
    user: str
    timeout: float
    keys: HostKeys
    via: str = ""
    command: str = ""
    stage: str = "dial"
    tries: int = 1
    banner: str = ""
    offered: list[str] = field(default_factory=list)
    locked: list[tuple[str, bytes, str, str]] = field(default_factory=list)
    noise: str = ""

    @property
    def peer(self) -> str:
        """The host as messages name it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}:{self.port}"

    @property
    def place(self) -> str:
        """The host and its port, without the login name."""
        return (
            self.peer.partition("@")[2] if "@" not in self.user else self.peer[len(self.user) + 1 :]
        )


def explain(error: BaseException, at: Attempt) -> OutpostError:
    """Return the error that a user gets for what went wrong before a connection stood.

    Args:
        error: what asyncssh or the operating system raised.
        at: what is known of the attempt.
    """
    if isinstance(error, OutpostError):
        return error
    said = _said(error, at)
    if said is None and isinstance(error, asyncssh.HostKeyNotVerifiable):
        return at.keys.error(at.peer, plain(error.reason))
    if said is None and isinstance(error, ValueError | asyncssh.KeyImportError):
        return UsageError(f"{at.peer}: {plain(error)}", hint="see the SSH client configuration")
    message, hint = said or (
        f"{at.peer} could not be connected to: {plain(error) or type(error).__name__}",
        f"ssh -v -p {at.port} {at.user}@{at.host} shows more",
    )
    if at.noise:
        message += f"; the ProxyCommand said: {plain(at.noise)}"
    return UnreachableError(message, hint=hint, sent=False)


def _said(error: BaseException, at: Attempt) -> tuple[str, str] | None:
    for kinds, tell in _TABLE:
        if isinstance(error, kinds):
            return tell(error, at)
    return None


def _late(at: Attempt) -> tuple[str, str]:
    took = format_duration(at.timeout)
    if at.stage == "dial":
        return (
            f"no answer from {at.place} within {took}",
            (
                "is the host up, and may this machine connect to it (firewall, VPN)?"
                " connect_timeout can be raised"
            ),
        )
    if at.stage == "banner":
        return (
            f"{at.place} took the connection but said nothing within {took}",
            "is this the port of sshd? a host that is overloaded or frozen does so too",
        )
    return (
        f"logging in to {at.peer} took longer than {took}",
        "the host may be overloaded, or ask a slow directory service; raise connect_timeout",
    )


def _name(error: BaseException, at: Attempt) -> tuple[str, str]:
    why = error.args[1] if len(error.args) > 1 else error
    return (
        f"the name {at.host} has no address: {plain(why)}",
        "check `host`, HostName in the SSH configuration, and this machine's DNS",
    )


def _system(error: BaseException, at: Attempt) -> tuple[str, str] | None:
    assert isinstance(error, OSError)
    if isinstance(error, ConnectionRefusedError):
        return (
            f"{at.place} refused the connection: nothing listens there",
            "is sshd running there, and on this port?",
        )
    if isinstance(error, TimeoutError):
        return _late(at)
    if isinstance(error, ConnectionError):
        return _closed(error, at)
    if error.errno in _NO_ROUTE:
        return (
            f"there is no way to {at.place}: {plain(error.strerror)}",
            "check the network, the VPN, and `host`",
        )
    return None


def _closed(_error: BaseException, at: Attempt) -> tuple[str, str]:
    times = f" ({at.tries} times within {format_duration(at.timeout)})" if at.tries > 1 else ""
    if at.command and at.stage == "banner":
        return (
            f"the ProxyCommand of {at.host} ended before the host answered",
            "run it by hand to see why",
        )
    if at.stage == "login":
        return (
            f"{at.place} closed the connection during the login{times}",
            "its own log says why (journalctl -u ssh); MaxStartups and fail2ban do so",
        )
    return (
        f"{at.place} closed the connection before it said who it is{times}",
        (
            "sshd does so when too many connect at once (MaxStartups) or when it bans this address;"
            " its own log says why"
        ),
    )


def _denied(error: BaseException, at: Attempt) -> tuple[str, str]:
    assert isinstance(error, asyncssh.DisconnectError)
    offered = ", ".join(at.offered) or "no key at all"
    message = f"{at.peer} did not let us in; offered: {offered}"
    if at.locked:
        message += "; not offered: " + "; ".join(f"{path}: {why}" for path, _, why, _ in at.locked)
    if at.banner:
        message += f"; it said: {plain(at.banner)}"
    if _TOO_MANY in error.reason.lower():
        return message + "; too many keys were tried", "name the right one: ssh_key"
    if at.locked:
        return message, at.locked[0][3]
    if not at.offered:
        return message, "give a key with ssh_key, or ssh-add one"
    return (
        message,
        (
            f"is {at.user} the right user, and is the key in ~{at.user}/.ssh/authorized_keys there?"
            f" ssh-copy-id -p {at.port} {at.user}@{at.host}"
        ),
    )


def _channel(error: BaseException, at: Attempt) -> tuple[str, str]:
    assert isinstance(error, asyncssh.ChannelOpenError)
    return (
        f"{at.via} could not connect to {at.place}: {plain(error.reason)}",
        (
            f"is {at.host} reachable from there, and does its sshd allow forwarding"
            " (AllowTcpForwarding)?"
        ),
    )


def _disconnected(error: BaseException, at: Attempt) -> tuple[str, str]:
    assert isinstance(error, asyncssh.DisconnectError)
    if _TOO_MANY in error.reason.lower():
        return _denied(error, at)
    return (
        f"{at.place} ended the connection: {plain(error.reason)}",
        f"ssh -v -p {at.port} {at.user}@{at.host} shows more",
    )


def _exchange(error: BaseException, at: Attempt) -> tuple[str, str]:
    assert isinstance(error, asyncssh.DisconnectError)
    return (
        f"{at.place} and this side have no way to encrypt in common: {plain(error.reason)}",
        (
            "the host's sshd is very old or very strict; see KexAlgorithms, Ciphers and"
            " HostKeyAlgorithms of both sides"
        ),
    )


def _foreign(error: BaseException, at: Attempt) -> tuple[str, str]:
    assert isinstance(error, asyncssh.DisconnectError)
    return (
        f"{at.place} does not speak SSH as it should: {plain(error.reason)}",
        "is this the port of sshd?",
    )


#: Kinds of failure and who tells them; the first that fits.
_TABLE: Final = (
    (socket.gaierror, _name),
    (OSError, _system),
    (asyncssh.HostKeyNotVerifiable, lambda _error, _at: None),
    (asyncssh.PermissionDenied, _denied),
    (asyncssh.ConnectionLost, _closed),
    (asyncssh.KeyExchangeFailed, _exchange),
    ((asyncssh.ProtocolError, asyncssh.ProtocolNotSupported), _disconnected),
    ((asyncssh.CompressionError, asyncssh.MACError), _foreign),
    (asyncssh.ChannelOpenError, _channel),
    (asyncssh.DisconnectError, _disconnected),
)
