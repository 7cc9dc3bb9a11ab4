"""What can be configured about an SSH outpost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outpost_core.backend import OutpostOptions, option

#: What an SSH outpost can at most do.
CAPABILITIES: Final = frozenset(
    (
        *("clean", "attach", "nudge", "peek", "mail", "inbox", "doctor", "bootstrap"),
        *("interactive", "checkpoint", "rig", "local_rig", "secrets"),
    )
)


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
        "host to go through, as [USER@]HOST[:PORT]", default=None, metavar="HOST"
    )
    known_hosts: Path | None = option(
        "file of known host keys; else what `config` says, else ~/.ssh/known_hosts",
        default=None, metavar="FILE",
    )  # fmt: skip
    host_key: str | None = option(
        "the host's only accepted public key, as `ssh-ed25519 AAAA…`", default=None, metavar="KEY"
    )
    config: Path | None = option(
        "OpenSSH client configuration; else ~/.ssh/config where it is there",
        default=None, metavar="FILE",
    )  # fmt: skip
    python: str = option("the far Python, 3.11 or newer", default="python3", metavar="COMMAND")
    forward_agent: bool = option("let workers there use this machine's SSH agent", default=False)
    connect_timeout: float = option(
        "time that connecting may take", default=10.0, unit="duration", min=0.1
    )
    keepalive: float = option(
        "time between questions whether the host is there; three unanswered ones drop the line",
        default=15.0, unit="duration", min=0.1,
    )  # fmt: skip
    town_path: Path | None = option(
        "the Gas Town workspace there; agents get it as GT_ROOT and GT_TOWN_ROOT",
        default=None, metavar="FOLDER",
    )  # fmt: skip
    town_url: str | None = option(
        "where `outpost bootstrap` clones the town from", default=None, metavar="URL"
    )
    state_path: Path | None = option(
        "where workers live there, if not under ~/.local/state/outpost",
        default=None, metavar="FOLDER",
    )  # fmt: skip
    agent_path: tuple[str, ...] = option(
        "folders there that are searched for agents before those of PATH",
        default=(), metavar="FOLDER",
    )  # fmt: skip
    pass_env: tuple[str, ...] = option(
        "names of environment variables of the far login that every agent gets",
        default=(), metavar="NAME",
    )  # fmt: skip
    memory_floor: int | None = option(
        "refuse to start a worker when less memory is available there",
        default=None, min=0, unit="bytes", metavar="SIZE",
    )  # fmt: skip
    disk_floor: int = option(
        "refuse to start a worker when less disk space is free there",
        default=256 * 1024 * 1024, min=0, unit="bytes", metavar="SIZE",
    )  # fmt: skip
