"""Starts an agent behind the best fence that works here."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not `signal`: see process.py
import fcntl
import os

from outpost_worker.fence import calls, init, landlock, namespace, places
from outpost_worker.system import launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

    from outpost_worker.fence.places import Wanted

    Rules = Sequence[tuple[str, str]]

NAMESPACE = "namespace"
#: Namespaces, but for that of processes.
MOUNTS = "mounts"
LANDLOCK = "landlock"
WAYS = (NAMESPACE, MOUNTS, LANDLOCK)


class RefusedError(OSError):
    """This system does not let a fence be made that way."""


#: Words for what the forked child could not do, with the error that each becomes.
_KINDS = {b"fence": RefusedError, b"wrap": launch.WrapperError, b"exec": OSError}


class Fenced:
    """An agent that runs.

    Attributes:
        fence: which fence it has, in words; "" when it could not be started behind any.
        pid: its process.
        init: the first process of its namespace, above all others; 0 where it has none.
        told: descriptor on which that one tells how the agent ended, see `init`; -1.
        life: descriptor that keeps that one alive; only the supervisor may have it; -1.
        missing: why no better way worked, by way.
        way: the one of `WAYS` by which the fence was made.
    """

    __slots__ = ("fence", "init", "life", "missing", "pid", "told", "way")

    def __init__(self) -> None:
        self.fence = self.way = ""
        self.pid = self.init = 0
        self.told = self.life = -1
        self.missing: dict[str, str] = {}


class Command:
    """What is executed behind the fence.

    Args:
        argv: program and arguments.
        env: its whole environment.
        folder: where it runs.
        output: descriptor that becomes stdout and stderr.
        terminal: path of the terminal under `output`, or "".
        wrap: what stands before it, behind the fence as well.

    Raises:
        WrapperError: what stands before it cannot be executed.
        OSError: there is no such program.
    """

    __slots__ = ("argv", "env", "folder", "output", "terminal", "wrap")

    def __init__(
        self,
        argv: list[str],
        env: Mapping[str, str],
        folder: str,
        output: int,
        terminal: str = "",
        wrap: launch.Wrapper | None = None,
    ) -> None:
        launch.resolve(argv, env, folder, wrap)
        self.argv = argv
        self.env = env
        self.folder = folder
        self.output = output
        self.terminal = terminal
        self.wrap = wrap

    def spawn(self) -> int:
        """Start the agent as a child of this process, and return its number in here.

        Raises:
            OSError: it cannot be executed.
        """
        return launch.start(self.argv, self.env, self.folder, self.output, self.terminal, self.wrap)

    def execute(self) -> NoReturn:
        """Become the agent, in a session of its own.

        Raises:
            WrapperError: what stands before it cannot be executed.
            OSError: it cannot be executed.
        """
        _signal.set_wakeup_fd(-1)
        for number in launch.RESET:
            _signal.signal(number, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        os.setsid()
        # opened by the leader of a new session, a terminal becomes its controlling one
        flags = os.O_RDWR if self.terminal else os.O_RDONLY
        source = os.open(self.terminal or "/dev/null", flags | os.O_CLOEXEC)
        os.dup2(source, 0)
        os.dup2(self.output, 1)
        os.dup2(self.output, 2)
        os.chdir(self.folder)
        program, whole = launch.resolve(self.argv, self.env, self.folder, self.wrap)
        try:
            os.execve(program, whole, self.env)  # noqa: S606 - that is what it is for
        except OSError as error:
            raise launch.blame(error, self.wrap) from None


def start(command: Command, wanted: Wanted, only: Sequence[str] = WAYS) -> Fenced:
    """Start an agent behind the best fence that this system lets us make.

    Args:
        command: what is executed.
        wanted: what the fence is for.
        only: ways that may be tried.

    Returns:
        The agent; with `fence` "" nothing runs, and `missing` says why.

    Raises:
        OSError: the fence could be made, and the command not be executed.
    """
    missing: dict[str, str] = {}
    for way in (way for way in WAYS if way in only):
        try:
            made = _start(command, places.rules(wanted, exact=way != LANDLOCK), way)
        except RefusedError as error:
            where = f" at {error.filename}" if error.filename else ""
            missing[way] = f"{error.strerror}{where}"
        else:
            made.missing = missing
            made.way, made.fence = way, _words(way)
            return made
    none = Fenced()
    none.missing = missing
    return none


def why(fenced: Fenced) -> str:
    """Return in words why no better fence could be made."""
    return "; ".join(f"{way}: {reason}" for way, reason in fenced.missing.items())


def _words(way: str) -> str:
    if way == LANDLOCK:
        return f"{LANDLOCK} {landlock.version()}"
    return NAMESPACE if way == NAMESPACE else f"{NAMESPACE} without processes of its own"


def _start(command: Command, rules: Rules, way: str) -> Fenced:
    heard, end = os.pipe2(os.O_CLOEXEC)
    lifeline = os.pipe2(os.O_CLOEXEC)
    told = os.pipe2(os.O_CLOEXEC)
    made = Fenced()
    made.told, made.life = told[0], lifeline[1]
    try:
        user = os.geteuid(), os.getegid()
        child, inside = _fork(way)
        if child == 0:
            _child(command, rules, way, end, lifeline, told, user if inside else None)
        os.close(end)
        end = -1
        said = _all(heard)
        if inside and not said:
            made.init = child
        elif way == NAMESPACE or said:
            os.waitpid(child, 0)
        made.pid = child
        for line in said.splitlines():
            what, number, where = line.split(b" ", 2)
            if what == b"init":
                made.init = int(number)
            else:
                why, _, path = os.fsdecode(where).partition("\0")
                raise _KINDS[what](int(number), why, path)
        if made.init:
            # its number outside: whom the lifeline's other end was given to
            made.pid = fcntl.fcntl(lifeline[0], fcntl.F_GETOWN) or made.init
            return made
        os.close(made.told)
        os.close(made.life)
        made.told = made.life = -1
    except BaseException:
        os.close(made.told)
        os.close(made.life)
        if made.init:
            os.waitpid(made.init, 0)
        raise
    finally:
        for fd in (heard, end, lifeline[0], told[1]):
            if fd >= 0:
                os.close(fd)
    return made


def _fork(way: str) -> tuple[int, bool]:
    """Fork; return as `os.fork` does, and whether the child is in its namespaces already."""
    if way == NAMESPACE:
        try:
            return namespace.fork(), True
        except OSError:  # some filters of system calls know the old ones only
            pass
    return os.fork(), False


def _all(fd: int) -> bytes:
    said = b""
    while data := os.read(fd, 4096):
        said += data
    return said


def _child(
    command: Command,
    rules: Rules,
    way: str,
    end: int,
    lifeline: tuple[int, int],
    told: tuple[int, int],
    user: tuple[int, int] | None,
) -> NoReturn:
    """Make the fence in a forked child and execute the command; never returns.

    `user` says whose it is outside, when it is in its namespaces already, as their first process.
    What goes wrong is one line on `end`: a word of `_KINDS`, the number of the error, its text, NUL
    and its path. All went well when that is closed without such a line.
    """
    step = "fence"
    try:
        os.close(lifeline[1])
        if way == LANDLOCK:
            landlock.restrict(rules)
            if os.geteuid() == 0:  # with root's rights, it could look into every process
                calls.drop_capabilities()
        else:
            if user is None:
                namespace.enter(processes=way == NAMESPACE)
            else:
                namespace.settle(*user)
            command.terminal = namespace.cover(rules, command.terminal)
            if way == NAMESPACE:
                first = os.fork() if user is None else 0
                if first:
                    os.write(end, f"init {first} \n".encode())
                    os._exit(0)
                os.setsid()
                namespace.mount_proc()
            calls.forbid_new_rights()
            calls.drop_capabilities()
            if way == NAMESPACE:
                calls.prctl(calls.PR_SET_DUMPABLE, 0)  # the agent is not to look into this process
            landlock.scope()
        calls.leave_keyring()
        step = "exec"
        if way == NAMESPACE:
            agent = command.spawn()
            fcntl.fcntl(lifeline[0], fcntl.F_SETOWN, agent)
            init.serve(agent, lifeline[0], told[1])
        command.execute()
    except OSError as error:
        if isinstance(error, launch.WrapperError):
            step = "wrap"
        name = error.filename if isinstance(error.filename, str) else ""
        line = f"{step} {error.errno or 0} {error.strerror}\0{name}".replace("\n", " ")
        os.write(end, os.fsencode(line) + b"\n")
    except BaseException as error:  # noqa: BLE001 - nothing of the supervisor may continue here
        os.write(end, f"{step} 0 {type(error).__name__}: {error}".encode()[:500] + b"\n")
    finally:
        os._exit(127)
