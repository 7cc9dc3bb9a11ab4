"""Run git without surprises: no shell, no prompt, no hook, no background maintenance.

Processes are started by `posix_spawn`, since importing `subprocess` costs as much as two git
commands. Each gets its own session, so that ssh and credential helpers find no terminal to
prompt on, and so that all of it can be ended at once.
"""

from __future__ import annotations

import errno
import os
import select
import time
from _thread import _local

from outpost_core.errors import WorkerError
from outpost_core.names import redact, split_rig
from outpost_shared import programs

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from outpost_worker.folder.folders import Folder

#: Seconds that a command which talks to a remote may take (`OUTPOST_GIT_TIMEOUT`).
NETWORK_TIMEOUT = float(os.environ.get("OUTPOST_GIT_TIMEOUT", "1800"))
#: Seconds between attempts to reach a remote; their number bounds the attempts
#: (`OUTPOST_GIT_RETRY`, comma-separated).
RETRY_DELAYS = tuple(
    float(part) for part in os.environ.get("OUTPOST_GIT_RETRY", "1,3,9,20").split(",") if part
)
#: The code of a program that is not there, as in a shell.
MISSING = 127
#: The descriptor under which a command gets the folder that it works in.
FOLDER = 3
#: The end of the path of a login, see `credentials.py`, which few workers need.
_LOGIN = "/login.json"
_KILL = 9
_ERROR_BYTES = 65536
#: Bytes of the longest file that is read as text.
_LONGEST = 256 << 20

#: Settings of every git command of ours. Hooks and file-system monitors are programs that the
#: user or the repository chose for people, not for us; signing may ask for a pass phrase.
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    # an agent's index may say which folders hold nothing new
    "core.untrackedCache=false",
    "core.safecrlf=false",
    # with it, git would not stage what lies outside of the part that was chosen
    "core.sparseCheckout=false",
    "core.askPass=",
    "gc.auto=0",
    "maintenance.auto=false",
    "protocol.ext.allow=never",
    "commit.gpgSign=false",
    "push.gpgSign=false",
    "push.followTags=false",
    "submodule.recurse=false",
    "user.useConfigOnly=true",
    "fetch.unpackLimit=1",
    # what these files say of commits and of where objects are, they say unchecked
    "core.commitGraph=false",
    "core.multiPackIndex=false",
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=120",
)
#: The commands that talk to a remote.
_REMOTE = frozenset(("fetch", "push", "ls-remote", "lfs", "clone"))

#: What a remote says when asking again will not help.
_PERMANENT = (
    "Authentication failed",
    "could not read Username",
    "could not read Password",
    "Permission denied",
    "does not appear to be a git repository",
    "epository not found",
    "not a git repository",
    "dubious ownership",
    "Host key verification failed",
    "returned error: 40",
    "not our ref",
    "unadvertised object",
    "repository corruption on the remote side",
    "couldn't find remote ref",
    "protocol.ext.allow",
    "transport 'ext' not allowed",
    "transport 'file' not allowed",
)

#: Lines that say why git failed begin so; those of ssh say more than git's own words below them.
_CAUSES = ("fatal:", "error:", "remote:", "!", "ssh:", "Host key verification failed")
_DENIED = "Permission denied ("

#: What a remote says to a push while another one moves the same branch.
_RACES = ("reference already exists", "but expected", ".lock': File exists")


class Done:
    """How a command ended: `code` (negative for a signal), `out` in bytes, `err` as text."""

    __slots__ = ("code", "err", "out")

    def __init__(self, code: int, out: bytes, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def text(self) -> str:
        """What was printed, without the last newline; undecodable bytes survive a round trip."""
        return os.fsdecode(self.out).rstrip("\n")

    @property
    def transient(self) -> bool:
        """Whether trying again may help: not when a push was refused for what it is."""
        refused = self.out.startswith(b"!") or b"\n!" in self.out
        if refused and any(mark in self.err for mark in _RACES):
            return True
        failed = self.code not in (0, MISSING)
        return failed and not refused and not any(mark in self.err for mark in _PERMANENT)


def run(
    argv: list[str],
    env: Mapping[str, str],
    *,
    timeout: float = NETWORK_TIMEOUT,
    stdin: str = os.devnull,
    started: Callable[[int], None] | None = None,
    folder: int = -1,
) -> Done:
    """Run one command to its end.

    Args:
        argv: program and arguments.
        env: the whole environment.
        timeout: seconds until its process group is killed; the code is then -9 and `err` says so.
        stdin: path of the file that it reads.
        started: called with its pid, which is also its process group and session.
        folder: a descriptor that it gets as `FOLDER`; -1 for none.
    """
    actions = [(os.POSIX_SPAWN_DUP2, folder, FOLDER)] if folder >= 0 else []
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    try:
        pid = os.posix_spawn(
            programs.find(argv[0], env, "/"),
            argv,
            env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, stdin, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, out_write, 1),
                (os.POSIX_SPAWN_DUP2, err_write, 2),
                *actions,
            ],
            setsid=True,
        )
    except OSError as error:
        for fd in (out_read, out_write, err_read, err_write):
            os.close(fd)
        missing = error.errno == errno.ENOENT
        said = "is not installed" if missing else f"cannot be started: {error.strerror}"
        return Done(MISSING if missing else 126, b"", f"fatal: {argv[0]} {said}")
    os.close(out_write)
    os.close(err_write)
    try:
        if started:
            started(pid)
        return _collect(pid, out_read, err_read, timeout)
    except BaseException:
        os.killpg(pid, _KILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(out_read)
        os.close(err_read)


def _collect(pid: int, out_read: int, err_read: int, timeout: float) -> Done:
    """Read both pipes until the process has ended.

    Its end counts, not the end of the pipes: an ssh master that stays behind keeps them open.
    """
    deadline = time.monotonic() + timeout
    chunks: dict[int, list[bytes]] = {out_read: [], err_read: []}
    poll = select.poll()
    for fd in chunks:
        os.set_blocking(fd, False)
        poll.register(fd, select.POLLIN)
    unread = len(chunks)
    late = False
    ended = 0
    while not ended:
        for fd, _ in poll.poll(100):
            if not _drain(fd, chunks[fd]):
                poll.unregister(fd)
                unread -= 1
        ended, status = os.waitpid(pid, os.WNOHANG if unread else 0)
        if not (ended or late) and time.monotonic() > deadline:
            late = True
            os.killpg(pid, _KILL)
    for fd, parts in chunks.items():
        _drain(fd, parts)
    err = os.fsdecode(b"".join(chunks[err_read])[-_ERROR_BYTES:])
    if late:
        err += f"\nno end within {timeout:g} s"
    return Done(os.waitstatus_to_exitcode(status), b"".join(chunks[out_read]), err)


def _drain(fd: int, parts: list[bytes]) -> bool:
    """Read what is there; False at the end of the pipe."""
    while True:
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return True
        if not data:
            return False
        parts.append(data)


class _Base(_local):
    """What the environment of git is made from in one thread; None for that of the process."""

    value: Mapping[str, str] | None = None


_base = _Base()


def surroundings() -> Mapping[str, str]:
    """Return the environment from which that of our git commands is made, in this thread."""
    return os.environ if _base.value is None else _base.value


class within:  # noqa: N801 - used as a function
    """Let git commands of this thread run in another environment than that of the process.

    Args:
        environ: the environment, whole.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._before: Mapping[str, str] | None = None

    def __enter__(self) -> None:
        self._before, _base.value = _base.value, self._environ

    def __exit__(self, *_: object) -> None:
        _base.value = self._before


class Git:
    """git on one repository.

    Args:
        git_dir: the repository; given to git as it is, so that no repository around it is found.
            `NOWHERE` for none: enough to ask a remote, by the user's configuration alone.
        work: its working tree, or "" for a bare one; held open where it could be swapped for
            another one meanwhile.
        credentials: path of a login (`credentials.py`) or of a git-credential-store file, or ""
            to ask the user's helpers.
        rig: the rig; in a repository with a working tree it is the remote `outpost`, whatever
            the agent did to `origin`. Its password is taken out of errors and never in argv.
        objects: where its objects are, when that is not in it.

    Attributes:
        logs_in: it has a login.
    """

    def __init__(
        self,
        git_dir: str,
        work: str | Folder = "",
        *,
        credentials: str = "",
        rig: str = "",
        objects: str = "",
    ) -> None:
        self.git_dir = git_dir
        self.top = None if isinstance(work, str) else work
        self.work = work if isinstance(work, str) else work.path
        self.url = split_rig(rig)[0]
        self._rig = rig
        places = {"GIT_DIR": git_dir}
        if self.work:
            # a path would be looked up again: the descriptor is of the folder that was checked
            places["GIT_WORK_TREE"] = "." if self.top else self.work
        if objects:
            places["GIT_OBJECT_DIRECTORY"] = objects
        self._env = programs.git_env(surroundings(), remote=False) | places
        self._remote_env = programs.git_env(surroundings()) | places
        place = f"/proc/self/fd/{FOLDER}" if self.top else self.work
        self._argv = ["git", "-C", place or ("/" if git_dir == programs.NOWHERE else git_dir)]
        for setting in _SETTINGS:
            self._argv += ["-c", setting]
        if work and rig:
            self._argv += ["-c", f"remote.outpost.url={self.url}"]
            self._argv += ["-c", "remote.outpost.fetch=+refs/heads/*:refs/remotes/origin/*"]
        self.logs_in = credentials.endswith(_LOGIN)
        if self.logs_in:
            from outpost_worker.repository import credentials as logins

            told, more = logins.settings(credentials)
            for setting in told:
                self._argv += ["-c", setting]
            self._remote_env |= more
        elif credentials:
            helper = "store --file=" + shell_quote(credentials)
            self._argv += ["-c", "credential.helper=", "-c", "credential.helper=" + helper]

    def run(
        self,
        *args: str,
        env: Mapping[str, str] | None = None,
        stdin: str = os.devnull,
        timeout: float = NETWORK_TIMEOUT,
        started: Callable[[int], None] | None = None,
    ) -> Done:
        """Run `git ARGS` and return how it ended, whatever that is."""
        whole = self._remote_env if _talks(args) else self._env
        whole = {**whole, **env} if env else whole
        folder = self.top.fd if self.top else -1
        argv = [*self._argv, *args]
        return run(argv, whole, stdin=stdin, timeout=timeout, started=started, folder=folder)

    def talk(self, *args: str) -> tuple[int, int, int]:
        """Start `git ARGS` to talk to; returns its pid, its input and its output.

        Raises:
            WorkerError: it cannot be started.
        """
        ours, its = os.pipe(), os.pipe()
        actions = [
            (os.POSIX_SPAWN_DUP2, ours[0], 0),
            (os.POSIX_SPAWN_DUP2, its[1], 1),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ]
        argv = [*self._argv, *args]
        try:
            program = programs.find("git", self._env, "/")
            pid = os.posix_spawn(program, argv, self._env, file_actions=actions, setsid=True)
        except OSError as error:
            os.close(ours[1])
            os.close(its[0])
            raise WorkerError(
                f"git cannot be started: {error.strerror}", reason="workspace_failed"
            ) from error
        finally:
            os.close(ours[0])
            os.close(its[1])
        return pid, ours[1], its[0]

    def must(
        self,
        *args: str,
        doing: str,
        reason: str,
        env: Mapping[str, str] | None = None,
        stdin: str = os.devnull,
    ) -> Done:
        """Run `git ARGS`, which has to succeed.

        Args:
            args: the command.
            doing: what it is for, after "could not".
            reason: the reason code when it fails.
            env: more environment.
            stdin: path of the file that it reads.

        Raises:
            WorkerError: it failed.
        """
        done = self.run(*args, env=env, stdin=stdin)
        if done.code:
            raise self.error(done, doing, reason)
        return done

    def error(self, done: Done, doing: str, reason: str) -> WorkerError:
        """Return the error to raise for a command that failed: git's own words, no password."""
        if "No space left on device" in done.err:
            reason = "disk_full"
        return WorkerError(f"could not {doing}: {self.words(done)}", reason=reason)

    def words(self, done: Done) -> str:
        """Return the lines of git's errors that say the cause, at most 600 characters."""
        lines = [line.strip() for line in done.err.splitlines() if line.strip()]
        marked = [line for line in lines if line.startswith(_CAUSES) or _DENIED in line]
        text = "; ".join((marked or lines)[-6:]) or f"git ended with {done.code}"
        return redact(text, self._rig)[-600:]


def _talks(args: tuple[str, ...]) -> bool:
    """Whether a command talks to a remote; settings (`-c name=value`) may stand before it."""
    words = iter(args)
    for word in words:
        if word != "-c":
            return word in _REMOTE
        next(words, "")
    return False


def persistently(call: Callable[[], Done], report: Callable[[str], None], doing: str) -> Done:
    """Run `call` until it succeeds, fails for good, or `RETRY_DELAYS` are used up."""
    for delay in RETRY_DELAYS:
        done = call()
        if not done.transient:
            return done
        report(f"{doing}: no answer, trying again in {delay:g} s")
        time.sleep(delay)
    return call()


def shell_quote(text: str) -> str:
    """Return `text` as one word of a shell: git runs credential helpers through one."""
    return "'" + text.replace("'", "'\\''") + "'"


def write(path: str, text: str, mode: int = 0o600) -> None:
    """Write a file at once: a reader sees the old text or the new one."""
    staged = f"{path}.{os.urandom(6).hex()}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(staged, flags, mode)
    with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    os.rename(staged, path)


def read(path: str) -> str:
    """Return the text of a file, or "" when there is none, or nothing that ends.

    What is no plain file (a FIFO, a device) says nothing, and nobody waits for it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with open(fd, encoding="utf-8", errors="surrogateescape") as file:
            about = os.fstat(fd)
            if about.st_mode & 0o170000 != 0o100000 or about.st_size > _LONGEST:
                return ""
            return file.read(_LONGEST)
    except OSError:
        return ""
