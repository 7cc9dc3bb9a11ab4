"""The tmux server that gives workers a terminal: private socket, no configuration file.

What is in tmux is never the truth about a worker; it is where its terminal can be seen. So every
call here may fail without harm to the work.

Agents print what they like into it, and strangers tell agents what to print. So the server keeps
nothing of whoever started it, and passes on nothing but text: `_HARDENED`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from outpost_core.errors import OutpostError
from outpost_shared import programs, terminfo
from outpost_shared.backoff import Backoff
from outpost_worker.system import sockets

#: What agents print must not get to the terminal of a person who watches, or into a command.
#: With `-q`, an option that an older tmux does not know is left out.
_HARDENED: Final = (
    ("-s", "set-clipboard", "off"),  # OSC 52: neither written nor read
    ("-gw", "allow-passthrough", "off"),  # what is wrapped to get past tmux
    ("-gw", "allow-rename", "off"),
    ("-gw", "allow-set-title", "off"),
    ("-gw", "automatic-rename", "off"),
    ("-g", "set-titles", "off"),
    ("-g", "status-right", "%H:%M"),  # by default it shows the title that the agent set
    ("-gw", "pane-border-format", "#{pane_index}"),  # so does this
    ("-g", "default-command", ""),
    ("-g", "update-environment", ""),  # who attaches leaves nothing of their environment
)
#: tmux takes about 16 kB in one message: arguments with their zero bytes, and a header.
_MESSAGE: Final = 14_000
#: Seconds for a server that lost its last session to go away.
_GOES_AWAY: Final = 2.0
#: What tmux says when it went away between our connecting and its answer.
_GOING: Final = ("server exited", "lost server", "no server running", "error connecting")
#: A terminal's size until somebody attaches: wide enough for an agent's tables.
_SIZE: Final = ("-x", "160", "-y", "48")


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


class Answer(NamedTuple):
    """What tmux said: its exit code, and the lines that it printed."""

    code: int
    lines: list[str]


class Tmux:
    """One private tmux server.

    Args:
        root: the state root; each has its own server.

    Attributes:
        socket: path of its socket, in a folder that only its owner can enter.
    """

    def __init__(self, root: Path) -> None:
        self.socket = sockets.path(str(root))

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

        Raises:
            TmuxError: there is no tmux, or the place of its socket is not ours alone.
        """
        if wrong := sockets.claim(os.path.dirname(self.socket)):
            raise _unsafe(wrong)
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

    def why_not(self) -> str:
        """Return why no session can be started here; "" when nothing is known against it."""
        try:
            program()
        except TmuxError as error:
            return error.message
        wrong = sockets.claim(os.path.dirname(self.socket))
        return _unsafe(wrong).message if wrong else ""

    def sessions(self) -> frozenset[str]:
        """Return the names of all sessions; none when there is no server."""
        answer = self._cmd("list-sessions", "-F", "#{session_name}")
        return frozenset(answer.lines) if answer.code == 0 else frozenset()

    def has(self, worker: str) -> bool:
        """Return whether the worker has a terminal there."""
        target = f"={session_name(worker)}"
        return self._cmd("has-session", "-t", target).code == 0

    def capture(self, worker: str, lines: int) -> str | None:
        """Return the last `lines` lines of the worker's terminal; None when it has none."""
        answer = self._cmd(
            *("capture-pane", "-p", "-J", "-t", f"={session_name(worker)}:", "-S", f"-{lines}")
        )
        if answer.code != 0:
            return None
        return "\n".join(answer.lines[-lines:]) + "\n" if answer.lines else ""

    def attach_argv(self, worker: str, *, read_only: bool) -> list[str]:
        """Return the command that shows the worker on the caller's terminal."""
        self._check()
        return [
            *(program(), "-S", self.socket, "-f", os.devnull, "attach-session"),
            *(["-r"] if read_only else []),
            *("-t", f"={session_name(worker)}"),
            # what only shows something is over when nobody looks any more
            *((";", "set-option", "destroy-unattached", "on") if read_only else ()),
        ]

    def _run(self, commands: Sequence[Sequence[str]]) -> str | None:
        """Run commands in one tmux process; return what went wrong, or None.

        Not through libtmux, which runs tmux with our whole environment: where this starts the
        server, that stays readable as long as the server lives.
        """
        argv = [program(), "-S", self.socket, "-f", os.devnull, *_harden()]
        for command in commands:
            argv += [*map(escape, command), ";"]
        error = ""
        for _ in Backoff(0.005, 0.4, within=_GOES_AWAY).tries():
            try:
                answer = subprocess.run(
                    argv[:-1],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env=programs.own_env(os.environ),
                    cwd="/",
                    check=False,
                )
            except OSError as failed:
                return f"tmux cannot be run: {failed.strerror}"
            if answer.returncode == 0:
                return None
            error = " ".join(answer.stderr.decode("utf-8", "backslashreplace").split())
            error = error or f"tmux exited with {answer.returncode}"
            if not error.startswith(_GOING):
                break
        return error

    def _check(self) -> None:
        """Make sure that no stranger's server is asked: it may tell its clients to run commands.

        Raises:
            TmuxError: others can enter the place of the socket.
        """
        place = os.path.dirname(self.socket)
        try:
            wrong = sockets.trouble(place)
        except OSError:
            return  # no folder, no server
        if wrong:
            raise _unsafe(f"{place} {wrong}")

    def _cmd(self, *words: str) -> Answer:
        """Run one tmux command.

        tmux looks up the kind of a terminal even where it shows nothing there, and does nothing
        at all where it does not know it.

        Raises:
            TmuxError: there is no tmux, or the place of its socket is not ours alone.
        """
        self._check()
        return self.asked(*words)

    def asked(self, *words: str) -> Answer:
        """Run one tmux command, once it is known that the socket is ours.

        Raises:
            TmuxError: there is no tmux.
        """
        env = programs.own_env(os.environ)
        if term := terminfo.known(os.environ):
            env["TERM"] = term
        try:
            done = subprocess.run(
                [program(), "-S", self.socket, "-f", os.devnull, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=env,
                cwd="/",
                check=False,
            )
        except OSError as error:
            raise TmuxError(f"tmux cannot be run: {error.strerror}") from error
        lines = done.stdout.decode("utf-8", "backslashreplace").split("\n")
        while lines and not lines[-1]:
            lines.pop()
        return Answer(done.returncode, lines)


def program() -> str:
    """Return the path of tmux.

    Raises:
        TmuxError: it is not installed.
    """
    found = shutil.which("tmux")
    if found is None:
        raise TmuxError(
            "tmux is not installed", hint="sudo apt install tmux, or configure `mode: process`"
        )
    return found


def _batches(commands: Mapping[str, Sequence[str]]) -> list[list[str]]:
    batches: list[list[str]] = []
    room = 0
    for worker, command in commands.items():
        need = _size(command) + 2
        if not batches or need > room:
            batches.append([])
            room = _MESSAGE - _size(_harden())
        batches[-1].append(worker)
        room -= need
    return batches


def _size(command: Sequence[str]) -> int:
    return sum(len(os.fsencode(part)) + 2 for part in command)


def _harden() -> list[str]:
    """Return the commands that go before all others, each ended by a `;`."""
    return [word for option in _HARDENED for word in ("set-option", "-q", *option, ";")]


def _unsafe(wrong: str) -> TmuxError:
    return TmuxError(
        f"the place of tmux's socket is not safe: {wrong}",
        hint="look whose it is, and remove it; or configure `mode: process`",
    )
