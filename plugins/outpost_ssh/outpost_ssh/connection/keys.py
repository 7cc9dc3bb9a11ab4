"""Which keys are offered to a host, in which order, and why others are not.

As OpenSSH does it: first what the agent holds of the named keys, then the agent's others, then the
files. With `ssh_key`, or IdentitiesOnly, nothing but the named keys is offered. A key that others
can read is not used.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncssh

from outpost_core.errors import UsageError
from outpost_ssh.connection.failures import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outpost_ssh.connection.clientconfig import Destination

_USUAL: Final = ("id_ed25519", "id_ed25519_sk", "id_ecdsa", "id_ecdsa_sk", "id_rsa")
#: No longer key is read.
_MOST: Final = 1 << 20


@dataclass(kw_only=True)
class Identity:
    """The keys of one connection attempt.

    Args:
        only: nothing but the named keys is offered.
        agent: the socket of the agent, or "".

    Attributes:
        named: the public keys that were named, for what the agent holds of them.
        files: keys from files.
        certificates: certificates that were named.
        offered: what is offered, for messages.
        locked: what is not, each with the reason.
    """

    only: bool = False
    agent: str = ""
    named: list[bytes] = field(default_factory=list)
    files: list[asyncssh.SSHKeyPair] = field(default_factory=list)
    certificates: list[str] = field(default_factory=list)
    offered: list[str] = field(default_factory=list)
    locked: list[tuple[str, bytes, str, str]] = field(default_factory=list)

    def pairs(self, held: Sequence[asyncssh.SSHKeyPair]) -> list[asyncssh.SSHKeyPair]:
        """Return what to offer, best first.

        Args:
            held: what the agent holds.

        Raises:
            UsageError: a certificate that was named cannot be read.
        """
        mine = [pair for pair in held if pair.key_public_data in self.named]
        others = [] if self.only else [pair for pair in held if pair not in mine]
        in_agent = {pair.public_data for pair in (*mine, *others)}
        files = [pair for pair in self.files if pair.public_data not in in_agent]
        self.offered = [
            *(f"{_shown(pair)} of the agent" for pair in (*mine, *others)),
            *dict.fromkeys(_shown(pair) for pair in files),
        ]
        held_keys = {pair.key_public_data for pair in held}
        self.locked = [entry for entry in self.locked if entry[1] not in held_keys]
        try:
            certified = asyncssh.load_keypairs([*mine, *others], certlist=self.certificates)
        except (OSError, ValueError) as error:
            raise UsageError(f"CertificateFile cannot be used: {plain(error)}") from None
        return [*certified, *files]


def identity(destination: Destination, config: Any) -> Identity:
    """Return the keys for a destination; reads files.

    Args:
        destination: where to.
        config: what the client configuration says.

    Raises:
        UsageError: the key that was named as `ssh_key` cannot be used.
    """
    found = Identity(agent=_agent(config.get("IdentityAgent", ())))
    found.certificates = [
        str(path) for path in map(_expanded, config.get("CertificateFile", ())) if path.is_file()
    ]
    said = [_expanded(word) for word in config.get("IdentityFile", ())]
    key = None if destination.ssh_key is None else destination.path(destination.ssh_key)
    if key is not None and not destination.jump:
        found.only = True
        _add(found, key)
        _refuse(found, key)
        return found
    found.only = bool(config.get("IdentitiesOnly", False))
    usual = [Path("~/.ssh", name).expanduser() for name in _USUAL]
    for path in [*(said or usual), *([key] if key is not None else [])]:
        _add(found, path)
    return found


async def held(path: str) -> tuple[asyncssh.SSHAgentClient | None, list[asyncssh.SSHKeyPair]]:
    """Return what an agent holds, and the agent, to be closed after the login.

    Args:
        path: its socket; "" for none. An agent that does not answer holds nothing.
    """
    if not path:
        return None, []
    try:
        agent = await asyncssh.connect_agent(path)
    except (OSError, ValueError, asyncssh.Error):
        return None, []
    try:
        return agent, list(await agent.get_keys())
    except (OSError, ValueError, asyncssh.Error):
        agent.close()
        return None, []


def _agent(said: object) -> str:
    """Return the socket of the agent; `IdentityAgent` names one, a variable, or `none`."""
    if said is None:
        return ""
    if said in ((), "SSH_AUTH_SOCK"):
        return os.environ.get("SSH_AUTH_SOCK", "")
    word = str(said)
    if word.startswith("$"):
        return os.environ.get(word[1:].strip("{}"), "")
    return str(_expanded(word))


def _add(found: Identity, path: Path) -> None:
    """Take the key of a file, or note why not; a missing file is passed over."""
    try:
        about = path.stat()
        with path.open("rb") as opened:
            content = opened.read(_MOST)
    except FileNotFoundError:
        return
    except OSError as error:
        found.locked.append((str(path), b"", plain(error.strerror), f"ls -l {path}"))
        return
    public = _public(path)
    if public is not None:
        found.named.append(public)
    if b"PRIVATE KEY" not in content:
        if public is None:
            found.locked.append((str(path), b"", "it is not a private key", f"file {path}"))
        return
    if stat.S_ISREG(about.st_mode) and about.st_uid == os.getuid() and about.st_mode & 0o077:
        _lock(found, path, public, "others can read it", f"chmod 600 {path}")
        return
    try:
        pairs = asyncssh.load_keypairs(
            [str(path)], certlist=found.certificates, ignore_encrypted=True
        )
    except (OSError, ValueError) as error:
        _lock(found, path, public, f"it cannot be read: {plain(error)}", f"ssh-keygen -yf {path}")
        return
    if not pairs:
        why = "it needs a passphrase, and the agent does not hold it"
        _lock(found, path, public, why, f"ssh-add {path}")
    for pair in pairs:
        found.named.append(pair.key_public_data)
    found.files += pairs


def _lock(found: Identity, path: Path, public: bytes | None, why: str, hint: str) -> None:
    found.locked.append((str(path), public or b"", why, hint))


def _refuse(found: Identity, key: Path) -> None:
    """Refuse an `ssh_key` that is not there, or is no key; the agent may hold a locked one."""
    if found.files or (found.agent and found.named):
        return
    if found.locked:
        _, _, why, hint = found.locked[0]
        raise UsageError(f"the key {key} cannot be used: {why}", hint=hint)
    if found.named:
        raise UsageError(
            f"{key} is a public key, and there is no agent that could hold its private one",
            hint=f"name the private key: {key.with_suffix('')}",
        )
    raise UsageError(f"there is no key {key}", hint="see the option `ssh_key`")


def _public(path: Path) -> bytes | None:
    for place in (f"{path}.pub", str(path)):
        try:
            return bytes(asyncssh.read_public_key(place).public_data)
        except (OSError, ValueError):
            continue
    return None


def _expanded(word: object) -> Path:
    return Path(str(word)).expanduser()


def _shown(pair: asyncssh.SSHKeyPair) -> str:
    name = getattr(pair, "_filename", b"") or b""
    text = os.fsdecode(name) if name else plain(pair.get_comment() or pair.get_algorithm(), 60)
    return f"{text} (certificate)" if pair.has_cert else text
