"""What the OpenSSH client configuration says of a host, and where that leads.

asyncssh reads the files; here is what it leaves to its callers or does unlike OpenSSH: which files
count, that `UserKnownHostsFile none` does not switch verification off, hosts to go through, and
that a configuration which others can write is refused.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncssh
from asyncssh.config import ConfigParseError

from outpost_core.errors import UsageError
from outpost_ssh.connection.failures import plain
from outpost_ssh.options import CONNECT_TIMEOUT, Hop, SshOptions, check_host, check_user, hops

if TYPE_CHECKING:
    from collections.abc import Sequence

SYSTEM_CONFIG: Final = Path("/etc/ssh/ssh_config")
_SYSTEM_HOSTS: Final = (Path("/etc/ssh/ssh_known_hosts"), Path("/etc/ssh/ssh_known_hosts2"))
_USER_HOSTS: Final = (Path("~/.ssh/known_hosts"), Path("~/.ssh/known_hosts2"))


@dataclass(frozen=True, kw_only=True)
class Destination:
    """What makes two outposts share a connection: where it goes and how.

    Args:
        host: as the user wrote it: a name, an address or an alias.
        user: login name, when it was said.
        port: port, when it was said.
        ssh_key: the private key, when it was said.
        proxy_jump: hosts to go through, when they were said.
        known_hosts: the file of known hosts, when it was said.
        host_key: the pinned host key.
        config: the client configuration, when it was said.
        forward_agent: sessions may use this machine's agent.
        connect_timeout: seconds for connecting; None: what the configuration says, else
            `CONNECT_TIMEOUT`.
        keepalive: seconds between questions whether the host is there.
        base: the folder that relative paths are relative to.
        jump: it is only gone through; `ssh_key` is then one more key, not the only one.
        passed: hosts that are reached through this one, to see a loop.
        outpost: for messages.
    """

    host: str
    user: str | None = None
    port: int | None = None
    ssh_key: Path | None = None
    proxy_jump: str | None = None
    known_hosts: Path | None = None
    host_key: str | None = None
    config: Path | None = None
    forward_agent: bool = False
    connect_timeout: float | None = None
    keepalive: float = 15.0
    base: Path | None = None
    jump: bool = False
    passed: tuple[str, ...] = field(default=(), compare=False)
    outpost: str = field(default="", compare=False)

    @classmethod
    def of(cls, name: str, options: SshOptions, base: Path | None) -> Destination:
        """Return the destination of an outpost."""
        return cls(
            host=options.host,
            user=options.user,
            port=options.port,
            ssh_key=options.ssh_key,
            proxy_jump=options.proxy_jump,
            known_hosts=options.known_hosts,
            host_key=options.host_key,
            config=options.config,
            forward_agent=options.forward_agent,
            connect_timeout=options.connect_timeout,
            keepalive=options.keepalive,
            base=base,
            outpost=name,
        )

    def through(self, way: Sequence[Hop]) -> Destination:
        """Return the last of the hosts that this one is reached through.

        Raises:
            UsageError: it is reached through itself.
        """
        last, before = way[-1], way[:-1]
        passed = (*self.passed, str(Hop(host=self.host, user=self.user, port=self.port)))
        if str(last) in passed:
            raise UsageError(
                f"{last} is to be reached through itself",
                hint="look at ProxyJump in the SSH configuration;"
                f" `Host !{last.host} *` leaves it out",
            )
        return replace(
            self,
            host=last.host,
            user=last.user,
            port=last.port,
            proxy_jump=",".join(map(str, before)) or None,
            host_key=None,
            forward_agent=False,
            jump=True,
            passed=passed,
        )

    def path(self, path: Path) -> Path:
        """Return a path of the configuration as an absolute one."""
        return (self.base or Path()) / path.expanduser()


@dataclass(kw_only=True)
class Resolved:
    """A destination with everything that the configuration says of it.

    Args:
        host: the name or address to connect to.
        port: the port.
        user: the login name.
        alias: the name that the host's key is known by, when it is another.
        way: hosts to go through; the nearest first.
        proxy_command: a command of a shell that connects, or None.
        known_hosts: files of known hosts.
        timeout: seconds for connecting.
        family: the address family to use, as `socket` numbers them.
        local: the address to connect from, or None.
        prepared: what asyncssh made of the configuration.
    """

    host: str
    port: int
    user: str
    alias: str | None
    way: tuple[Hop, ...]
    proxy_command: str | None
    known_hosts: tuple[Path, ...]
    timeout: float
    family: int
    local: tuple[str, int] | None
    prepared: asyncssh.SSHClientConnectionOptions


def resolve(destination: Destination) -> Resolved:
    """Read the configuration of a destination.

    Blocks: it reads files and runs what `Match exec` says.

    Raises:
        UsageError: the configuration cannot be read, or says something hostile.
    """
    prepared = _prepared(destination)
    config = prepared.config
    host = check_host(str(prepared.host), "HostName")
    user = check_user(prepared.username, "User")
    said = config.get("ProxyJump") if destination.proxy_jump is None else destination.proxy_jump
    way = hops(str(said) if said else None)
    command = None if way or destination.proxy_jump is not None else config.get("ProxyCommand")
    timeout = destination.connect_timeout or config.get("ConnectTimeout") or CONNECT_TIMEOUT
    return Resolved(
        host=host,
        port=prepared.port,
        user=user,
        alias=prepared.host_key_alias,
        way=way,
        proxy_command=str(command) if command else None,
        known_hosts=_known_hosts(destination, prepared),
        timeout=float(str(timeout)),
        family=prepared.family,
        local=prepared.local_addr,
        prepared=prepared,
    )


def _prepared(destination: Destination) -> asyncssh.SSHClientConnectionOptions:
    files = [str(path) for path in _config_files(destination)]
    given: dict[str, Any] = {}
    if destination.user is not None:
        given["username"] = destination.user
    if destination.port is not None:
        given["port"] = destination.port
    try:
        prepared = asyncssh.SSHClientConnectionOptions(
            config=files,
            host=destination.host,
            client_keys=None,  # chosen below
            known_hosts=b"",  # nothing is trusted but what HostKeys says
            x509_trusted_certs=None,
            **given,
        )
    except (ConfigParseError, ValueError, OSError) as error:
        raise UsageError(
            f"the SSH configuration cannot be used for {destination.host}: {plain(error)}",
            hint=f"see {' and '.join(files) or 'the options of the outpost'}",
        ) from None
    if prepared.config.get("CanonicalizeHostname") or prepared.config.has_match_final():
        raise UsageError(
            f"the SSH configuration for {destination.host} uses CanonicalizeHostname or"
            " `Match final`, which is not supported here",
            hint="write the full name as `host`, and another file as `config`",
        )
    return prepared


def _config_files(destination: Destination) -> list[Path]:
    if destination.config is not None:
        path = destination.path(destination.config)
        if not path.is_file() and str(path) != "/dev/null":
            raise UsageError(
                f"there is no SSH configuration {path}", hint="see the option `config`"
            )
        _refuse_writable(path)
        return [path] if path.is_file() else []
    own = Path("~/.ssh/config").expanduser()
    found = [path for path in (own, SYSTEM_CONFIG) if os.access(path, os.R_OK)]
    if own in found:
        _refuse_writable(own)
    return found


def _refuse_writable(path: Path) -> None:
    """Refuse a configuration that others can write: it may name commands to run."""
    try:
        about = path.stat()
    except OSError:
        return
    if stat.S_ISREG(about.st_mode) and (
        about.st_mode & 0o022 or about.st_uid not in (0, os.getuid())
    ):
        raise UsageError(
            f"others can write {path}, which may name commands to run",
            hint=f"chmod go-w {path}, and own it",
        )


def _known_hosts(
    destination: Destination, prepared: asyncssh.SSHClientConnectionOptions
) -> tuple[Path, ...]:
    if destination.known_hosts is not None:
        return (destination.path(destination.known_hosts),)
    own = prepared.config.get("UserKnownHostsFile")
    system = prepared.config.get("GlobalKnownHostsFile")
    files: list[Path] = []
    for said, usual in ((own, _USER_HOSTS), (system, _SYSTEM_HOSTS)):
        files += usual if said is None else (Path(str(word)) for word in _words(said))
    return tuple(path.expanduser() for path in files)


def _words(said: object) -> list[str]:
    return [str(word) for word in said] if isinstance(said, list) else [str(said)]
