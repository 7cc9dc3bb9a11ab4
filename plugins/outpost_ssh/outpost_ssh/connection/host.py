"""A host as an outpost sees it: commands run there, over a connection made anew if it breaks."""

from __future__ import annotations

import asyncio
import secrets
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from outpost_core.errors import UnreachableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import asyncssh

    from outpost_core.backend import BuildContext
    from outpost_ssh.connection.hostconnection import HostConnection
    from outpost_ssh.connection.pool import ConnectionPool
    from outpost_ssh.options import SshOptions

#: The one command line of scripts: all that varies goes over standard input.
SHELL: Final = "exec /bin/sh -s"
#: No more of a script's output is read.
_MOST: Final = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Completed:
    """How a script ended.

    Args:
        code: its exit code; negative: the signal that ended it.
        stdout: what it wrote, without what the login shell wrote before it.
        stderr: what it and the login shell wrote to standard error.
    """

    code: int
    stdout: str
    stderr: str


class RemoteHost:
    """One outpost's hold of the connection to its host.

    The connection is made when it is first used, and again when it is used after a break. Those
    with the same destination share it; `aclose` gives this one's hold back.

    Args:
        name: the outpost, for messages.
        options: how the host is reached.
        base: the folder that relative paths are relative to.
    """

    def __init__(self, name: str, options: SshOptions, base: Path | None) -> None:
        self._name = name
        self._options = options
        self._base = base
        self._pool: ConnectionPool | None = None
        self._shared: HostConnection | None = None

    @property
    def peer(self) -> str:
        """The host for messages, as `steve@10.0.0.5:22` once it was connected to."""
        if self._shared is not None:
            return self._shared.peer
        user = self._options.user
        return f"{user}@{self._options.host}" if user else self._options.host

    @property
    def why(self) -> str:
        """Why the last connection ended; "" while there is none that did."""
        return "" if self._shared is None else self._shared.why

    async def connection(self) -> asyncssh.SSHClientConnection:
        """Return the connection, made now when there is none.

        Raises:
            UnreachableError: it cannot be made (`sent` is False), with the cause and the hint.
            UsageError: the options or the SSH configuration do not allow it.
        """
        return await self._held().connection()

    async def open(
        self,
        command: str,
        *,
        term: tuple[str, int, int] | None = None,
        modes: Mapping[int, int] | None = None,
    ) -> asyncssh.SSHClientProcess[bytes]:
        """Start a command there, with bytes as its standard input, output and error.

        It takes one of the few sessions of the connection until it is closed. When the host has
        no session free, it is asked again for as long as connecting may take.

        Args:
            command: constant text; the login shell reads it. Nothing that varies may be in it.
            term: a terminal for it: its type, columns and rows.
            modes: the terminal's modes, as RFC 4254 numbers them.

        Raises:
            UnreachableError: it was not started (`sent` is False).
            UsageError: the options or the SSH configuration do not allow a connection.
        """
        return await self._held().open(command, term, modes or {})

    async def script(self, text: str, *args: str, timeout: float) -> Completed:
        """Run constant text in a POSIX shell there, with an empty standard input.

        Args:
            text: the script; `$1` and so on are the arguments.
            args: anything but NUL; they are quoted, and not on any command line.
            timeout: seconds that it may take, without connecting.

        Raises:
            UnreachableError: it could not be started (`sent` is False), or did not end in time
                or while the connection stood (`sent` is True).
            UsageError: an argument has a NUL.
        """
        import asyncssh

        if any("\0" in arg for arg in args):
            raise UsageError("an argument of a script has a NUL character")
        mark = f"outpost-{secrets.token_hex(8)}"
        words = " ".join(shlex.quote(arg) for arg in args)
        # The shell reads the whole function before it runs it, so nothing in it can eat the rest.
        whole = (
            f"outpost_main() {{\n{text}\n}}\nset -- {words}\necho {mark}\n"
            'outpost_main "$@" </dev/null\nexit $?\n'
        )
        process = await self.open(SHELL)
        try:
            async with asyncio.timeout(timeout):
                process.stdin.write(whole.encode("utf-8", "surrogateescape"))
                process.stdin.write_eof()
                out, err = await asyncio.gather(_whole(process.stdout), _whole(process.stderr))
                await process.wait_closed()
        except TimeoutError:
            raise UnreachableError(
                f"{self.peer} did not end a script within {timeout:g} s"
            ) from None
        except (OSError, asyncssh.Error) as error:
            raise self._broke(error) from None
        finally:
            process.close()
        return self._completed(process, mark, out, err)

    def drop(self, why: str) -> None:
        """End the connection now, for all who share it; the next use connects.

        Args:
            why: for messages.
        """
        if self._shared is not None:
            self._shared.drop(why)

    async def aclose(self) -> None:
        """Give the connection back; the last one who does ends it."""
        shared, self._shared = self._shared, None
        if shared is not None and self._pool is not None:
            await self._pool.release(shared)

    def _held(self) -> HostConnection:
        from outpost_ssh.connection.clientconfig import Destination
        from outpost_ssh.connection.pool import pool

        now = pool()
        if self._shared is None or self._pool is not now:  # another event loop: that one is gone
            self._pool = now
            self._shared = now.hold(Destination.of(self._name, self._options, self._base))
        return self._shared

    def _completed(
        self, process: asyncssh.SSHClientProcess[bytes], mark: str, out: bytes, err: bytes
    ) -> Completed:
        _, began, stdout = out.decode("utf-8", "replace").partition(f"{mark}\n")
        stderr = err.decode("utf-8", "replace")
        code = process.returncode
        if code is None:
            raise self._broke(None)
        if not began:
            from outpost_ssh.connection.failures import plain

            said = plain(stderr or out.decode("utf-8", "replace")) or "nothing"
            raise UnreachableError(
                f"{self.peer} did not run a shell script; it said: {said}",
                hint="the login shell there must run `/bin/sh -s`; see ForceCommand and nologin",
            )
        return Completed(code=code, stdout=stdout, stderr=stderr)

    def _broke(self, error: BaseException | None) -> UnreachableError:
        from outpost_ssh.connection.failures import plain

        why = self.why or plain(error or "the host ended it")
        return UnreachableError(f"the connection to {self.peer} broke: {why}")


async def _whole(reader: asyncssh.SSHReader[bytes]) -> bytes:
    """Read to the end, or as much as is kept; the rest is read and forgotten."""
    kept = bytearray()
    while chunk := await reader.read(1 << 16):
        kept += chunk[: _MOST - len(kept)]
    return bytes(kept)


def remote_host(name: str, options: SshOptions, context: BuildContext) -> RemoteHost:
    """Return the host of an outpost. Opens nothing; needs no running event loop.

    Those with the same destination share one connection per event loop.

    Args:
        name: the outpost, for messages.
        options: how the host is reached.
        context: its `config_dir` is what relative paths are relative to.
    """
    return RemoteHost(name, options, context.config_dir)
