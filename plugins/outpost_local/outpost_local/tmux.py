"""The tmux server that gives workers a terminal: private socket, no configuration file.

What is in tmux is never the truth about a worker; it is where its terminal can be seen. So every
call here may fail without harm to the work.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from outpost_core import terminfo
from outpost_core.errors import OutpostError

if TYPE_CHECKING:
    from libtmux import Server
    from libtmux.common import tmux_cmd

#: tmux takes about 16 kB in one message: arguments with their zero bytes, and a header.
_MESSAGE: Final = 14_000
#: How much of that may go into removing the caller's variables from the server.
_SCRUB: Final = 4_000
#: Seconds between tries while a server that lost its last session is going away.
_PAUSES: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
#: What tmux says when it went away between our connecting and its answer.
_GOING: Final = ("server exited", "lost server", "no server running", "error connecting")
#: A terminal's size until somebody attaches: wide enough for an agent's tables.
_SIZE: Final = ("-x", "160", "-y", "48")


#: Held while `TERM` is another one.
_TERM: Final = threading.Lock()


class TmuxError(OutpostError):
    """tmux did not do what it was asked."""


def session_name(worker: str) -> str:
    """Return the session of a worker: its id with `+` for `.`.

    tmux turns `.` and `:` into `_`, so that `a.b` and `a_b` would be the same; no id has a `+`.
    """
    return worker.replace(".", "+")


def escape(argument: str) -> str:
    """Return `argument` so that tmux takes it as it is: a `;` at its end would end the command."""
    return f"{argument[:-1]}\\;" if argument.endswith(";") else argument


class Tmux:
    """One private tmux server.

    Args:
        root: the state root; each has its own server.
        keep: names of the variables that the server may take from our environment.
    """

    def __init__(self, root: Path, keep: frozenset[str]) -> None:
        place = os.fsencode(os.path.realpath(root))
        self.socket = f"outpost-{hashlib.sha256(place).hexdigest()[:12]}"
        self._keep = keep
        self._server: Server | None = None

    def start(
        self,
        sessions: Mapping[str, Sequence[str]],
        env: Mapping[str, str],
        begun: Callable[[str], bool],
    ) -> dict[str, str]:
        """Start a session per worker, in as few tmux processes as possible.

        Args:
            sessions: worker id → argv. Starting one that has a session already is no error.
            env: further variables for each session.
            begun: whether a worker has begun its work, so that it needs no session any more.

        Returns:
            What tmux said, by worker id, for those that could not be started.
        """
        variables = [part for name in env for part in ("-e", f"{name}={env[name]}")]
        commands = {
            worker: [
                *("new-session", "-d", "-s", session_name(worker), "-n", "worker", "-c", "/"),
                *(*_SIZE, *variables, "--", *argv),
            ]
            for worker, argv in sessions.items()
        }
        failed: dict[str, str] = {}
        for batch in _batches(commands):
            if self._run([commands[worker] for worker in batch]) is None:
                continue
            # An error ends the rest of its batch, and does not say whose it was.
            there = self.sessions()
            for worker in batch:
                if session_name(worker) in there or begun(worker):
                    continue
                error = self._run([commands[worker]])
                if error is not None and "duplicate session" not in error:
                    failed[worker] = error
        return failed

    def sessions(self) -> frozenset[str]:
        """Return the names of all sessions; none when there is no server."""
        answer = self._cmd("list-sessions", "-F", "#{session_name}")
        return frozenset(answer.stdout) if answer.returncode == 0 else frozenset()

    def has(self, worker: str) -> bool:
        """Return whether the worker has a terminal there."""
        target = f"={session_name(worker)}"
        return bool(self._cmd("has-session", "-t", target).returncode == 0)

    def capture(self, worker: str, lines: int) -> str | None:
        """Return the last `lines` lines of the worker's terminal; None when it has none."""
        answer = self._cmd(
            *("capture-pane", "-p", "-J", "-t", f"={session_name(worker)}:", "-S", f"-{lines}")
        )
        if answer.returncode != 0:
            return None
        text: list[str] = list(answer.stdout)
        return "\n".join(text[-lines:]) + "\n" if text else ""

    def attach_argv(self, worker: str, *, read_only: bool) -> list[str]:
        """Return the command that shows the worker on the caller's terminal."""
        return [
            *(program(), "-L", self.socket, "-f", os.devnull, "attach-session"),
            *(["-r"] if read_only else []),
            *("-t", f"={session_name(worker)}"),
        ]

    def _run(self, commands: Sequence[Sequence[str]]) -> str | None:
        """Run commands in one tmux process; return what went wrong, or None."""
        argv = _scrub(self._keep)
        for command in commands:
            argv += [*map(escape, command), ";"]
        error = ""
        for pause in (0.0, *_PAUSES):
            time.sleep(pause)
            answer = self._cmd(argv[0], *argv[1:-1])
            if answer.returncode == 0:
                return None
            error = " ".join(answer.stderr) or f"tmux exited with {answer.returncode}"
            if not error.startswith(_GOING):
                break
        return error

    def _cmd(self, *words: str) -> tmux_cmd:
        """Run one tmux command; libtmux gives it our environment, and our terminal to look at.

        tmux looks up the kind of that terminal even where it shows nothing there, and does
        nothing at all where it does not know it.
        """
        server = self._server_or_new()
        said, known = os.environ.get("TERM"), terminfo.known(os.environ)
        if said in (None, known):
            return server.cmd(*words)
        with _TERM:
            os.environ["TERM"] = known
            try:
                return server.cmd(*words)
            finally:
                os.environ["TERM"] = str(said)

    def _server_or_new(self) -> Server:
        program()
        if self._server is None:
            try:
                from libtmux import Server
            except ImportError as error:
                raise TmuxError(
                    f"libtmux cannot be imported: {error}", mend="pip install libtmux"
                ) from error
            self._server = Server(socket_name=self.socket, config_file=os.devnull)
        return self._server


def program() -> str:
    """Return the path of tmux.

    Raises:
        TmuxError: it is not installed.
    """
    found = shutil.which("tmux")
    if found is None:
        raise TmuxError(
            "tmux is not installed", mend="sudo apt install tmux, or configure `mode: process`"
        )
    return found


def _batches(commands: Mapping[str, Sequence[str]]) -> list[list[str]]:
    batches: list[list[str]] = []
    room = 0
    for worker, command in commands.items():
        need = sum(len(os.fsencode(part)) + 2 for part in command) + 2
        if not batches or need > room:
            batches.append([])
            room = _MESSAGE - _SCRUB
        batches[-1].append(worker)
        room -= need
    return batches


def _scrub(keep: frozenset[str]) -> list[str]:
    """Return commands that take the caller's other variables out of the server's environment.

    The server lives on with the environment of whoever started it, and gives it to every later
    session: credentials of one caller would be visible in all of them.
    """
    argv: list[str] = []
    room = _SCRUB
    for name in sorted(os.environ, key=lambda name: (not name.startswith("OUTPOST_"), name)):
        room -= len(name) + 25
        if name not in keep and name.isidentifier() and room > 0:
            argv += ["set-environment", "-gu", name, ";"]
    return argv
