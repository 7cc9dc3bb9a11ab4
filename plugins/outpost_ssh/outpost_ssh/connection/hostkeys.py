"""Which key a host must show, and what is said when it shows another.

Verification is never off. What is accepted is either the one pinned `host_key`, or what the files
of known hosts say of the host's name. A host is looked up by the name it was asked for, as OpenSSH
does, and not by the address that the name led to.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import asyncssh
from asyncssh.public_key import get_default_certificate_algs, get_default_public_key_algs

from outpost_core.errors import UnreachableError, UsageError
from outpost_ssh.connection.knownhosts import Entry, find

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_PORT: Final = 22
#: Trusted keys, trusted authorities, revoked keys; then the same of X.509, which is not used.
Trusted: TypeAlias = tuple[
    list[Any], list[Any], list[Any], list[Any], list[Any], list[Any], list[Any]
]


def known_as(host: str, port: int) -> str:
    """Return the name of a host in a file of known hosts."""
    return host if port == _PORT else f"[{host}]:{port}"


class UnknownHostKeyError(UnreachableError):
    """The host showed a key, and nothing is known about it.

    Args:
        message: see `OutpostError`.
        hint: see `OutpostError`.
        key: the key that was shown, as `ssh-ed25519 AAAA…`.
        fingerprint: what people compare.
    """

    def __init__(self, message: str, *, hint: str, key: str, fingerprint: str) -> None:
        super().__init__(message, hint=hint, sent=False)
        self.key = key
        self.fingerprint = fingerprint


@dataclass(kw_only=True)
class HostKeys:
    """What one host may show. One object a connection attempt; it keeps what was shown.

    Args:
        host: the name to look up: the alias for keys (HostKeyAlias) or else the host's name.
        port: the port; keys are kept by port unless it is 22, or an alias is looked up.
        alias: `host` is an alias for keys.
        pinned: the only accepted key, as text.
        files: files of known hosts, the user's own first; missing ones do not matter.
        outpost: the name of the outpost, for the hint.
        jump: the host is only gone through, so its key cannot be pinned.

    Attributes:
        shown: the key that the host showed, when it was not accepted.
        authority: the authority that signed the host's certificate, when it is not known.
    """

    host: str
    port: int = _PORT
    alias: bool = False
    pinned: str | None = None
    files: Sequence[Path] = ()
    outpost: str = ""
    jump: bool = False
    shown: asyncssh.SSHKey | None = None
    authority: asyncssh.SSHKey | None = None

    def __call__(self, _host: str, _addr: str, _port: int | None) -> Trusted:
        """Return what is trusted and what is revoked, as asyncssh asks for it."""
        if self.pinned is not None:
            return [read_key(self.pinned)], [], [], [], [], [], []
        found = self.entries()
        keys, authorities, revoked = (
            _keys(found, marker) for marker in ("", "@cert-authority", "@revoked")
        )
        return keys, authorities, revoked, [], [], [], []

    def entries(self) -> list[Entry]:
        """Return the lines of the files of known hosts that speak of the host."""
        found = list(find(self.files, self._name))
        if self._name == self.host:
            return found
        bare = list(find(self.files, self.host))
        if any(entry.marker != "@revoked" for entry in found):
            return found + [entry for entry in bare if entry.marker == "@revoked"]
        return found + bare  # as OpenSSH: a key may be known without a port

    def algorithms(self) -> list[str]:
        """Return the kinds of key to ask the host for: known ones, then all others.

        The others are asked for too, so that a host which shows another kind is told from one
        that cannot be talked with.
        """
        keys, authorities, *_ = self("", "", None)
        usual = list(get_default_public_key_algs())
        known = [name for key in keys for name in key.sig_algorithms if name in usual]
        # A certificate of an authority that is not known would hide a plain key that is.
        certificates = list(get_default_certificate_algs()) if authorities else []
        return [name.decode("ascii") for name in dict.fromkeys([*certificates, *known, *usual])]

    def error(self, peer: str, reason: str) -> UnreachableError:
        """Return what is wrong with the key that the host showed.

        Args:
            peer: the host, for the message.
            reason: what asyncssh said.
        """
        entries = self.entries() if self.pinned is None else []
        keys, authorities, *_ = self("", "", None)
        shown = self.shown or self.authority
        if "revoked" in reason:
            message = (
                f"{peer} showed a host key that must not be trusted any more:"
                f" {_places(e for e in entries if e.marker == '@revoked')} marks it as @revoked"
            )
            hint = "do not connect; ask whoever runs the host for its new key"
        elif shown is None:
            message = f"the host key of {peer} could not be verified: {reason}"
            hint = f"ssh -v {shlex.quote(self.host)} shows more"
        elif keys:
            return self._changed(peer, shown, keys, [e for e in entries if not e.marker])
        elif authorities:
            message = (
                f"{peer} showed the host key {fingerprint(shown)}, which is not signed by the"
                f" authority of {_places(e for e in entries if e.marker == '@cert-authority')}"
            )
            hint = self._accept()
        else:
            message = f"the host key of {peer} is not known here: {fingerprint(shown)}"
            hint = self._accept()
            if not self.jump and self.shown is not None:
                return UnknownHostKeyError(
                    message, hint=hint, key=key_text(shown), fingerprint=fingerprint(shown)
                )
        return UnreachableError(message, hint=hint, sent=False)

    @property
    def _name(self) -> str:
        return self.host if self.alias else known_as(self.host, self.port)

    def _changed(
        self,
        peer: str,
        shown: asyncssh.SSHKey,
        keys: Sequence[asyncssh.SSHKey],
        entries: Sequence[Entry],
    ) -> UnreachableError:
        known = ", ".join(dict.fromkeys(fingerprint(key) for key in keys))
        name = self.outpost or "NAME"
        if self.pinned is not None:
            where = "pinned as host_key"
            hint = f"pin the new key as host_key of {name}: {key_text(shown)}"
        else:
            where = f"known from {_places(entries)}"
            names = [n for n in (self._name, self.host) if any(find(self.files, n))]
            files = list(dict.fromkeys(entry.file for entry in entries))
            removals = [
                f"ssh-keygen -R {shlex.quote(names[0])} -f {shlex.quote(str(file))}"
                for file in files
            ]
            hint = (
                "; ".join(removals) + "; then connect once with ssh, or pin the new key as"
                f" host_key of {name}: {key_text(shown)}"
            )
        return UnreachableError(
            f"the host key of {peer} has changed: the machine was reinstalled, or something in"
            f" between pretends to be it; nothing was sent\n"
            f"  shown now: {fingerprint(shown)}\n"
            f"  {where}: {known}",
            hint=f"ask whoever runs the host; only if its key was changed on purpose: {hint}",
            sent=False,
        )

    def _accept(self) -> str:
        pin = f", or: outpost add ssh {self.outpost or 'NAME'} … --trust-on-first-use"
        return (
            "compare it with what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` says there;"
            f" then connect once with ssh{'' if self.jump else pin}"
        )


def read_key(text: str) -> asyncssh.SSHKey:
    """Read a public key, as `ssh-ed25519 AAAA…`.

    Raises:
        UsageError: it is none.
    """
    try:
        return asyncssh.import_public_key(" ".join(text.split()[:2]))
    except (asyncssh.KeyImportError, ValueError) as error:
        raise UsageError(f"host_key is not a public key: {error}") from None


def key_text(key: asyncssh.SSHKey) -> str:
    """Return a public key as `ssh-ed25519 AAAA…`, for the option `host_key`."""
    kind, data, *_ = key.export_public_key("openssh").decode("ascii").split()
    return f"{kind} {data}"


def fingerprint(key: asyncssh.SSHKey) -> str:
    """Return what people compare: kind and SHA-256 of a key, as `ssh-keygen -l` shows them."""
    kind = key.get_algorithm().removeprefix("ssh-").removeprefix("sk-ssh-").upper()
    return f"{key.get_fingerprint('sha256')} ({kind.partition('-')[0]})"


def _keys(entries: Iterable[Entry], marker: str) -> list[asyncssh.SSHKey]:
    return [entry.key for entry in entries if entry.marker == marker]


def _places(entries: Iterable[Entry]) -> str:
    return ", ".join(entry.place for entry in entries) or "the configuration"
