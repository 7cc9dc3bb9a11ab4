"""The warm process: loads what supervisors need, forks one for each request, ends when idle.

A request is one packet of worker ids, a line each, on a socket that only this user reaches; the
answer is one packet of those whose supervisors were forked. Killed anywhere it leaves nothing:
whoever asked has no answer and starts the supervisor as before, and one that was forked all the
same is the same worker by its claim.

A supervisor that was forked is what a fresh one would be: a session of its own, nothing open but
/dev/null, default signals, and its own command line, by which it is known.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not `signal`: see process.py
import _socket
import fcntl
import gc
import os
import select
import sys

from outpost_shared import faults
from outpost_worker.fence import places
from outpost_worker.folder import files
from outpost_worker.system import sockets
from outpost_worker.warm import place
from outpost_worker.warm.commandline import CommandLine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

#: Seconds without a request after which the process ends.
IDLE = 3.0
#: Bytes of the longest packet.
PACKET = 16 * 1024
#: Connections at once; who comes beyond waits for his turn, or helps himself.
_MOST = 32
#: A number that no descriptor of ours reaches.
_BEYOND = 256
#: The file of which each name has one byte to lock.
_LOCK = "warm"
#: Longest name of a worker's folder.
_LONGEST = 128


def serve(root: str, name: str) -> int:
    """Fork supervisors for the workers under a state root until nobody asks any more.

    Args:
        root: the state root; only workers in it are started.
        name: what `place.name` says of whoever starts this process.

    Returns:
        0 after it has served, 2 when it is not the one that was meant, or there is one already.
    """
    version = place.version()
    if not (place.is_name(name) and name[1:].startswith(version)):
        return 2
    line = CommandLine()
    line.show(line.words)  # if it cannot be done, then now
    os.chdir("/")
    _load()
    if place.version() != version:  # replaced under our hands
        return 2
    path = place.path(root, name)
    if sockets.claim(os.path.dirname(path)):
        return 2
    if not _is_ours(path):
        return 2
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # the kernel collects them
    try:
        Server(root, path, line).run()
    finally:
        _drop(path)
    return 0


def _is_ours(path: str) -> bool:
    """Take a socket's place for this process, as long as it lives; remove what dead ones left."""
    folder, name = os.path.split(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(os.path.join(folder, _LOCK), flags, 0o600)  # its forks do not inherit the locks
    if not _takes(lock, name):
        return False
    for other in os.listdir(folder):
        if place.is_name(other) and _takes(lock, other):
            _drop(os.path.join(folder, other))
    return True


def _takes(lock: int, name: str) -> bool:
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place.number(name))
    except OSError:
        return False
    return True


def _drop(path: str) -> None:
    try:  # noqa: SIM105 - contextlib would have to be imported
        os.unlink(path)
    except OSError:
        pass


def _load() -> None:
    """Load what a supervisor may come to need, but for what is rare."""
    import pwd

    from outpost_agents import account, registry  # noqa: F401
    from outpost_worker.agents import following  # noqa: F401
    from outpost_worker.fence import start  # noqa: F401
    from outpost_worker.folder import masking  # noqa: F401
    from outpost_worker.run import helpers, supervise  # noqa: F401
    from outpost_worker.work import checkpoint, deliver, repair, workspace  # noqa: F401

    try:  # noqa: SIM105 - contextlib would have to be imported
        pwd.getpwuid(os.getuid())  # which loads what the system looks names up with
    except KeyError:
        pass
    gc.collect()
    gc.freeze()  # else each fork would copy what is never looked at again


class Server:
    """Forks supervisors for whoever asks.

    Args:
        root: the state root.
        path: where to listen; nobody else does.
        line: the command line of this process.
    """

    def __init__(self, root: str, path: str, line: CommandLine) -> None:
        self._workers = os.path.join(root, files.WORKERS)
        self._line = line
        self._before = line.words[: line.words.index(b"warm")]
        _drop(path)  # of one that was killed
        self._listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self._listener.setblocking(False)
        self._listener.bind(path)
        self._listener.listen(_MOST)
        self._callers: dict[int, _socket.socket] = {}
        self._poll = select.poll()
        self._poll.register(self._listener.fileno(), select.POLLIN)

    def run(self) -> None:
        """Serve until nobody has asked for `IDLE` seconds."""
        faults.point("warm.listening")
        while ready := self._poll.poll(int(IDLE * 1000)):
            for fd, _ in ready:
                if fd == self._listener.fileno():
                    self._accept()
                else:
                    self._hear(fd)

    def _accept(self) -> None:
        try:
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - as `socket` does
        except OSError:
            return
        caller = _socket.socket(fileno=fd)
        if len(self._callers) >= _MOST or place.peer(caller) != os.geteuid():
            caller.close()
            return
        caller.setblocking(False)
        self._callers[fd] = caller
        self._poll.register(fd, select.POLLIN)

    def _hear(self, fd: int) -> None:
        caller = self._callers[fd]
        try:
            asked = caller.recv(PACKET)
        except OSError:
            asked = b""
        if asked:
            faults.point("warm.asked")
            workers = asked.split(b"\n")
            self._foresee(workers[0])
            begun = [worker for worker in workers if self._fork(worker)]
            faults.point("warm.forked")
            try:
                caller.send(b"\n".join(begun) or b"\n")
                return
            except OSError:
                pass
        self._poll.unregister(fd)
        del self._callers[fd]
        caller.close()

    def _folder(self, worker: bytes) -> str:
        """Return the folder of a worker under our root; "" for what is none."""
        if not 0 < len(worker) < _LONGEST or b"/" in worker or worker.startswith(b"."):
            return ""
        return os.path.join(self._workers, os.fsdecode(worker))

    def _foresee(self, worker: bytes) -> None:
        """Find what the fences of these workers have in common, once for all of them.

        What `launch.json` says need not be true: a fence is made by what was sealed, and uses what
        was found only for the same environment.
        """
        try:
            launched = files.load(self._folder(worker), files.LAUNCH) or {}
            if (launched.get("fence") or {}).get("mode") != "off":
                places.remember(launched.get("env") or {})
        except Exception:  # noqa: BLE001, S110 - then each finds it for itself
            pass

    def _fork(self, worker: bytes) -> bool:
        """Start the supervisor of a worker under our root; returns whether it was."""
        folder = self._folder(worker)
        if not folder:
            return False
        words = [*self._before, b"run", os.fsencode(folder)]
        if not self._line.fits(words) or not os.path.isdir(folder):
            return False
        try:
            pid = os.fork()
        except OSError:
            return False
        if pid == 0:
            self._become(folder, words)
        return True

    def _become(self, folder: str, words: list[bytes]) -> NoReturn:
        code = 1
        try:
            os.setsid()
            os.closerange(3, _BEYOND)
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
            self._line.show(words)
            sys.argv[1:] = ["run", folder]
            from outpost_worker.run.supervise import run

            code = run(folder)
        finally:
            os._exit(code)
