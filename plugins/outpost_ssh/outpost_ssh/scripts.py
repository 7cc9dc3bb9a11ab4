"""Shell scripts of the set-up on the far machine, for what must work where Python is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from outpost_local.setup.runner import Ran

if TYPE_CHECKING:
    from outpost_ssh.connection.host import RemoteHost


class FarShell:
    """Runs scripts on the far machine.

    Args:
        host: the connection.
    """

    def __init__(self, host: RemoteHost) -> None:
        self._host = host

    async def run(self, text: str, args: Sequence[str], timeout: float) -> Ran:
        """Run a script; its parameters travel in its text, and in no command line.

        Raises:
            UnreachableError: the connection broke, or it did not end in time.
        """
        done = await self._host.script(text, *args, timeout=timeout)
        return Ran(code=done.code, out=done.stdout, err=done.stderr)
