"""What can be configured about an SSH outpost."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outpost_core.backend import OutpostOptions, option
from outpost_core.errors import UsageError
from outpost_core.units import format_duration
from outpost_local.options import Fence, Mode, check_fence

#: What an SSH outpost can at most do.
CAPABILITIES: Final = frozenset(
    (
        *("clean", "attach", "nudge", "peek", "mail", "inbox", "facts", "doctor", "bootstrap"),
        *("changes", "scale"),
        *("interactive", "checkpoint", "rig", "local_rig", "secrets"),
    )
)

#: Seconds for connecting when nothing says how many; less than `answer_timeout`, so that of a
#: host that is not there the cause is told, and not only that it did not answer.
CONNECT_TIMEOUT: Final = 8.0

#: A name, an address (IPv6 with its zone too), or an alias. It reaches a shell in ProxyCommand.
_HOST: Final = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:%-]{0,254}", re.ASCII)
#: A login name; `DOMAIN\user` and `user@realm` are names too.
_USER: Final = re.compile(r"[A-Za-z0-9_.](?:[A-Za-z0-9_.@+\\-]{0,126}[A-Za-z0-9_.@+-])?", re.ASCII)
_HOP: Final = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^@\s]+)@)?(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^:@\[\]\s]+))"
    r"(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII,
)
#: It goes into the one command line that is sent to sshd, so nothing that a shell reads is in it.
_PYTHON: Final = re.compile(r"(?:~/)?[A-Za-z0-9_./+][A-Za-z0-9_./+-]{0,254}", re.ASCII)
_KEY: Final = re.compile(
    r"(?P<type>[a-z0-9@.-]{3,64})[ \t]+(?P<data>[A-Za-z0-9+/]+={0,2})", re.ASCII
)


@dataclass(frozen=True, kw_only=True)
class Hop:
    """One host to go through.

    Args:
        host: its name, address or alias.
        user: login name there; None: what the client configuration says.
        port: port of its sshd; None: what the client configuration says.
    """

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (
            (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port else "")
        )


def check_host(host: str, what: str = "host") -> str:
    """Return a host's name as it was given, when it can be one.

    Raises:
        UsageError: it has characters that no host name has, or begins with a dash.
    """
    if _HOST.fullmatch(host):
        return host
    hint = (
        "a name, an address, or an alias of the SSH configuration; letters, digits and _.:%- only"
    )
    if re.fullmatch(r"[A-Za-z0-9_.+-]+@[A-Za-z0-9_.:-]+", host, re.ASCII):
        hint = f"write the login name by itself: user: {host.partition('@')[0]}"
    raise UsageError(f"{what} {host[:80]!a} is not the name of a host", hint=hint)


def check_user(user: str, what: str = "user") -> str:
    """Return a login name as it was given, when it can be one.

    Raises:
        UsageError: it has characters that no login name has, or begins with a dash.
    """
    if _USER.fullmatch(user):
        return user
    raise UsageError(
        f"{what} {user[:80]!a} is not a login name", hint="letters, digits and _.@+- only"
    )


def hops(text: str | None) -> tuple[Hop, ...]:
    """Read `[USER@]HOST[:PORT]`, several of them with commas between; the nearest is the first.

    Args:
        text: what was written; `none`, as OpenSSH has it, and None give no hop.

    Raises:
        UsageError: it is something else.
    """
    if text is None or text.lower() == "none":
        return ()
    found = []
    for word in text.split(","):
        match = _HOP.fullmatch(word)
        if match is None or not 0 < int(match["port"] or 22) <= 65535:
            raise UsageError(
                f"proxy_jump {word[:80]!a} is not a host to go through",
                hint="write [USER@]HOST[:PORT], several with commas between",
            )
        host = check_host(match["v6"] or match["host"], "proxy_jump")
        user = None if match["user"] is None else check_user(match["user"], "proxy_jump")
        found.append(Hop(host=host, user=user, port=int(match["port"]) if match["port"] else None))
    return tuple(found)


def _check_python(python: str) -> None:
    if not _PYTHON.fullmatch(python):
        raise UsageError(
            f"python {python[:80]!a} is not a command",
            hint="a name such as python3.12, or a path without spaces",
        )


def _check_key(key: str) -> None:
    hint = "it is the first two words of /etc/ssh/ssh_host_ed25519_key.pub there"
    match = _KEY.match(key)
    if "\n" in key or match is None:
        raise UsageError("host_key is not a public key such as `ssh-ed25519 AAAA…`", hint=hint)
    try:
        data = base64.b64decode(match["data"], validate=True)
    except binascii.Error:
        data = b""
    named = match["type"].encode()
    if data[: len(named) + 4] != len(named).to_bytes(4, "big") + named or len(data) < 40:
        raise UsageError(f"host_key is not a whole {match['type']} key", hint=hint)


@dataclass(frozen=True, kw_only=True)
class SshOptions(OutpostOptions):
    """Options of the type `ssh`."""

    host: str = option("address or name of the host, or an alias of `config`", metavar="HOST")
    user: str | None = option("login name; else what `config` says", default=None, metavar="USER")
    port: int | None = option("port of sshd; else what `config` says, else 22",
                              default=None, min=1, max=65535)  # fmt: skip
    ssh_key: Path | None = option(
        "private key; else what `config` says, the agent's keys and the usual files",
        default=None, metavar="FILE",
    )  # fmt: skip
    proxy_jump: str | None = option(
        "host to go through, as [USER@]HOST[:PORT]; several with commas between",
        default=None,
        metavar="HOST",
    )
    known_hosts: Path | None = option(
        "file of known host keys; else what `config` says, else ~/.ssh/known_hosts",
        default=None, metavar="FILE",
    )  # fmt: skip
    host_key: str | None = option(
        "the host's only accepted public key, as `ssh-ed25519 AAAA…`", default=None, metavar="KEY"
    )
    config: Path | None = option(
        "OpenSSH client configuration, not outposts.yaml; else ~/.ssh/config where it is there",
        default=None, metavar="FILE",
    )  # fmt: skip
    python: str = option("the far Python, 3.11 or newer", default="python3", metavar="COMMAND")
    forward_agent: bool = option("let workers there use this machine's SSH agent", default=False)
    connect_timeout: float | None = option(
        "time that connecting may take; else ConnectTimeout of the SSH configuration, else 8s",
        default=None, unit="duration", min=0.1,
    )  # fmt: skip
    keepalive: float = option(
        "time between questions whether the host is there; three unanswered ones end the"
        " connection",
        default=15.0, unit="duration", min=0.1,
    )  # fmt: skip
    keep: float = option(
        "time that the connection is kept for the next command; 0: each command connects anew",
        default=600.0, unit="duration", min=0,
    )  # fmt: skip
    town_path: str | None = option(
        "the Gas Town workspace there; agents get it as GT_ROOT and GT_TOWN_ROOT",
        default=None, metavar="FOLDER",
    )  # fmt: skip
    town_url: str | None = option(
        "where `outpost bootstrap` clones the town from", default=None, metavar="URL"
    )
    mode: Mode = option(
        "tmux: for interactive workers and attach; process: no attach; auto: tmux if it is there",
        default=Mode.AUTO,
    )
    state_path: str | None = option(
        "where workers live there, if not under ~/.local/state/outpost",
        default=None, metavar="FOLDER",
    )  # fmt: skip
    agent_path: tuple[str, ...] = option(
        "folders there that are searched for agents before those of PATH",
        default=(), metavar="FOLDER",
    )  # fmt: skip
    fence: Fence = option(
        "auto: agents are fenced off by what the host has for it; required: a worker without a"
        " fence is refused; off: agents may do all that the login may",
        default=Fence.AUTO,
    )
    fence_write: tuple[str, ...] = option(
        "further files and folders there that agents may write", default=(), metavar="PATH"
    )
    fence_hide: tuple[str, ...] = option(
        "further files and folders there that agents cannot see into", default=(), metavar="PATH"
    )
    fence_show: tuple[str, ...] = option(
        "files and folders there that are hidden otherwise, and that agents may read",
        default=(), metavar="PATH",
    )  # fmt: skip
    pass_env: tuple[str, ...] = option(
        "names of environment variables of the far login that every agent gets",
        default=(), metavar="NAME",
    )  # fmt: skip
    start_command: tuple[str, ...] = option(
        "program and arguments that start its machine, run here without a shell; with it and"
        " stop_command the outpost can be brought up and down (`scaling`)",
        default=(), metavar="WORD",
    )  # fmt: skip
    stop_command: tuple[str, ...] = option(
        "the same to stop it; it is never run while a worker is there", default=(), metavar="WORD"
    )
    state_command: tuple[str, ...] = option(
        "the same that prints `running` (in any case) while it is up; without it, it is up when it"
        " answers over SSH",
        default=(), metavar="WORD",
    )  # fmt: skip
    boot_patience: float = option(
        "time that these commands, and the machine after them, may take", default=300.0,
        unit="duration", min=1,
    )  # fmt: skip
    memory_floor: int | None = option(
        "refuse to start a worker when less memory is available there",
        default=None, min=0, unit="bytes", metavar="SIZE",
    )  # fmt: skip
    disk_floor: int = option(
        "refuse to start a worker when less disk space is free there",
        default=256 * 1024 * 1024, min=0, unit="bytes", metavar="SIZE",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, and what could mean something else to a shell.

        Raises:
            UsageError: a value is hostile or mistaken; the configuration adds its line.
        """
        check_host(self.host)
        if self.user is not None:
            check_user(self.user)
        hops(self.proxy_jump)
        check_fence(self)
        _check_python(self.python)
        if self.host_key is not None:
            _check_key(self.host_key)
        if bool(self.start_command) != bool(self.stop_command) or (
            self.state_command and not self.start_command
        ):
            has = "start_command" if self.start_command else "stop_command"
            has = "state_command" if self.state_command and not self.start_command else has
            raise UsageError(
                f"{has} needs its counterpart",
                hint="give both start_command and stop_command, or neither",
            )
        for word in ("start_command", "stop_command", "state_command"):
            argv = getattr(self, word)
            if argv and not argv[0]:
                raise UsageError(f"{word} has no program")
        if self.town_url is not None and (
            self.town_url.startswith("-") or not self.town_url.isprintable()
        ):
            raise UsageError(f"town_url {self.town_url[:80]!a} is not the address of a repository")

    @property
    def patience(self) -> float:
        """Seconds for what a host has to answer to at once: `connect_timeout`, else 8."""
        return self.connect_timeout or CONNECT_TIMEOUT

    def warnings(self, answer_timeout: float) -> Mapping[str, str]:
        """Warn of a host that is given up before it can be said why it does not answer."""
        if self.patience < answer_timeout:
            return {}
        connect = format_duration(self.patience)
        answer = format_duration(answer_timeout)
        return {
            "connect_timeout": f"connecting may take {connect}, and answer_timeout ends all waiting"
            f" after {answer}: of a host that is not there it is told only that it did not answer,"
            " and not why; make connect_timeout less, or answer_timeout more"
        }
