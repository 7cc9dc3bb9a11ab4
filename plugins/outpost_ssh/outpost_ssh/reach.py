"""What the set-up and the doctor of a far machine need of its outpost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outpost_core.backend import BuildContext
    from outpost_core.types import Finding, Json
    from outpost_exec.stdio.client import Client
    from outpost_ssh.connection.host import RemoteHost
    from outpost_ssh.options import SshOptions


class Reach(Protocol):
    """An outpost at the other end of a connection."""

    name: str
    options: SshOptions
    context: BuildContext

    def host(self) -> RemoteHost:
        """Return the connection to the host; opens nothing."""

    async def call(self, method: str) -> Json:
        """Ask the far server."""

    async def client(self) -> Client:
        """Return who speaks to the far server."""

    async def outpost_doctor(self, rig: str | None) -> Sequence[Finding]:
        """Look at everything a worker needs there."""
