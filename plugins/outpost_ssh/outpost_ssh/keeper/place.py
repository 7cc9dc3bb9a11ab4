"""Where the keeper of a connection is found, and what it is told of the connection."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outpost_shared import keeping
from outpost_ssh.options import SshOptions

if TYPE_CHECKING:
    from outpost_core.types import Json

#: `0` in this variable turns keepers off, for the one who sets it.
SWITCH: Final = "OUTPOST_KEEP"
#: What of an outpost's options a connection depends on; those of them that are paths.
_FIELDS: Final = (
    *("host", "user", "port", "ssh_key", "proxy_jump", "known_hosts", "host_key", "config"),
    *("python", "forward_agent", "connect_timeout", "keepalive", "keep"),
)
_PATHS: Final = frozenset({"ssh_key", "known_hosts", "config"})
#: What of the environment it depends on.
_ENVIRONMENT: Final = ("HOME", "USER", "LOGNAME", "SSH_AUTH_SOCK", "PATH")
#: What a keeper needs besides what every keeper gets. A proxy command that needs more finds it
#: missing; then no keeper can connect, and every command connects itself.
NEEDED: Final = (*_ENVIRONMENT, "KRB5CCNAME", SWITCH)


def describe(options: SshOptions, base: Path | None) -> dict[str, Json]:
    """Return all that a keeper has to know of a connection, as JSON; nothing in it is a secret.

    Args:
        options: the outpost's.
        base: the folder that relative paths are relative to.
    """
    said: dict[str, Json] = {}
    for name in _FIELDS:
        value = getattr(options, name)
        said[name] = str(value) if isinstance(value, Path) else value
    return {"options": said, "base": None if base is None else str(base.absolute())}


def understand(said: Mapping[str, Any]) -> tuple[SshOptions, Path | None]:
    """Return the options and the base folder of what `describe` said."""
    values: dict[str, Any] = {
        name: Path(value) if name in _PATHS and value is not None else value
        for name, value in said["options"].items()
    }
    return SshOptions(**values), None if said["base"] is None else Path(said["base"])


def socket_of(said: Mapping[str, Json]) -> Path | None:
    """Return the path of the keeper's socket; None where no keeper can be.

    Another configuration, agent, home or Python has another keeper.
    """
    if os.environ.get(SWITCH) == "0":
        return None
    about: dict[str, Json] = {
        "connection": dict(said),
        "environment": {name: os.environ.get(name) for name in _ENVIRONMENT},
        "python": sys.executable,
    }
    return keeping.socket_of(about)
