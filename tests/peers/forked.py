"""Commands of the real program, each in a process of its own, without starting Python for each.

Most of the processor time of a short command is Python's start and what it imports, and the tests
run thousands of commands. So one program imports the command line once, and is a copy of itself
(`fork`) for each command: with that command's arguments, environment, folder, standard streams and
session, and with nothing that another command has left. That a command starts well from nothing is
shown by the tests that start it so (`tests/cli/test_cli_process.py`, the wheels, the demo).
"""

from __future__ import annotations

import atexit
import io
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, NoReturn

from outpost_shared import faults

#: What is imported before the first command is asked for.
_WARM: Final = """\
import gc, sys
sys.path[:] = [p for p in sys.path if p]
from peers import forked
from outpost_manager.cli import app, main
import outpost_manager.cli.session, outpost_manager.manager
from outpost_core.discovery import Plugins
Plugins.load()
gc.collect(); gc.freeze()
forked.serve(main)
"""
#: Bytes of a request at most.
_LARGEST: Final = 1 << 22


class Forked:
    """A command that runs; what of `subprocess.Popen` the tests use.

    Attributes:
        pid: of its process.
        returncode: as of `Popen`; None until it was waited for.
    """

    def __init__(self, connection: socket.socket, pid: int, argv: list[str]) -> None:
        self._connection = connection
        self.pid, self.args = pid, argv
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Args:
            timeout: seconds; None for as long as it takes.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                said = self._connection.recv(64)
            except TimeoutError:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None
            assert said, "the program that starts commands has ended"
            self.returncode = int(said)
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class _Server:
    """The program that is copied, and the way to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = {key: value for key, value in os.environ.items() if not key.startswith("OUTPOST_")}
        here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WARM, str(theirs.fileno())],
            env={**env, "PYTHONPATH": here}, pass_fds=[theirs.fileno()], cwd="/",
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self.socket, self.owner = ours, os.getpid()
        self.lock = threading.Lock()
        atexit.register(self.close)

    def close(self) -> None:
        """End it; commands that run are not ended."""
        if os.getpid() == self.owner:
            self.socket.close()
            self.process.wait()


_server: _Server | None = None
_starting = threading.Lock()


def start(
    words: list[str],
    *,
    env: Mapping[str, str],
    cwd: str | os.PathLike[str],
    stdin: int,
    stdout: int,
    stderr: int,
    session: bool = False,
) -> Forked:
    """Start a command.

    Args:
        words: the command line, without `outpost`.
        env: its environment.
        cwd: its folder.
        stdin: a file descriptor, as the other two.
        stdout: where its answer goes.
        stderr: where all else goes.
        session: it is the first of a session of its own.
    """
    global _server
    with _starting:
        if _server is None or _server.owner != os.getpid():
            _server = _Server()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asked = json.dumps([words, dict(env), os.fspath(cwd), session]).encode()
    with theirs, _server.lock:
        socket.send_fds(_server.socket, [asked], [stdin, stdout, stderr, theirs.fileno()])
    return Forked(ours, int(ours.recv(64)), ["outpost", *words])


def run(
    words: list[str], *, env: Mapping[str, str], cwd: str | os.PathLike[str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with nothing on standard input.

    Args:
        words: the command line, without `outpost`.
        env: its environment.
        cwd: its folder.
        timeout: seconds.

    Raises:
        subprocess.TimeoutExpired: it took longer, and was killed.
    """
    with open(os.devnull, "rb") as nothing:
        pipes = [os.pipe(), os.pipe()]
        command = start(
            words, env=env, cwd=cwd, stdin=nothing.fileno(), stdout=pipes[0][1], stderr=pipes[1][1]
        )
    said: list[str] = ["", ""]

    def read(number: int, fd: int) -> None:
        with open(fd, encoding="utf-8", errors="replace") as stream:
            said[number] = stream.read()

    threads = []
    for number, (out, into) in enumerate(pipes):
        os.close(into)
        threads.append(threading.Thread(target=read, args=(number, out)))
        threads[-1].start()
    try:
        code = command.wait(timeout)
        for thread in threads:  # as `subprocess.run`: until everybody has closed them
            thread.join(timeout)
            if thread.is_alive():
                raise subprocess.TimeoutExpired(command.args, timeout)
    except BaseException:
        command.kill()
        raise
    return subprocess.CompletedProcess(command.args, code, *said)


def serve(main: Callable[[], object]) -> None:
    """Be the program that is copied, until nobody asks any more.

    Args:
        main: what each copy runs.
    """
    assert threading.active_count() == 1, "a copy of one thread among several may wait for ever"
    asking = socket.socket(fileno=int(sys.argv[1]))
    running: dict[int, socket.socket] = {}
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    open_ = True
    while open_ or running:
        ready = select.select([asking, woken] if open_ else [woken], [], [])[0]
        if woken in ready:
            with suppress(BlockingIOError):
                os.read(woken, 4096)
        for pid in list(running):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                with running.pop(pid) as told, suppress(OSError):
                    told.send(str(os.waitstatus_to_exitcode(status)).encode())
        if asking not in ready:
            continue
        said, fds, *_ = socket.recv_fds(asking, _LARGEST, 4)
        if not said:
            open_ = False
            continue
        told = socket.socket(fileno=fds[3])
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (woken, wake, asking.detach(), *(one.detach() for one in running.values())):
                os.close(end)
            told.close()
            _become(json.loads(said), fds[:3], main)
        for fd in fds[:3]:
            os.close(fd)
        told.send(str(pid).encode())
        running[pid] = told


def _become(asked: Any, streams: list[int], main: Callable[[], object]) -> NoReturn:
    """Be the command that was asked for."""
    words, env, cwd, session = asked
    if session:
        os.setsid()
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if "OUTPOST_FAULT" in env:
        faults.arm(env["OUTPOST_FAULT"])
    sys.argv[:] = ["outpost", *words]
    sys.orig_argv[:] = [sys.executable, "-m", "outpost_manager", *words]
    random.seed()
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            open(fd, "wb", closefd=False),  # noqa: SIM115 - until the end
            encoding="utf-8", errors=errors, line_buffering=fd == 2 or os.isatty(fd),
        )
        for fd, errors in ((1, "strict"), (2, "backslashreplace"))
    )  # fmt: skip
    code = 1
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
