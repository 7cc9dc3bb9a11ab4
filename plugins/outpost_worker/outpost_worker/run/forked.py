"""Heavy steps (git, reading an agent's output) in a forked child, so that the loop stays awake.

The child answers with JSON lines over a pipe: any number of `{"report": …}`, then one
`{"answer": …}` or `{"error": …}`.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not `signal`: see process.py
import os

from outpost_shared import faults, process
from outpost_shared.leanjson import dumps, loads
from outpost_worker.folder import files
from outpost_worker.system.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

    from outpost_worker.system.loop import Loop

    Report = Callable[[str], None]

#: Signals that a supervisor handles, and its child lets do what they do by default.
_DEFAULT = (
    _signal.SIGTERM,
    _signal.SIGINT,
    _signal.SIGCHLD,
    _signal.SIGWINCH,
)


class Stage:
    """One heavy step at work.

    Args:
        loop: where its answer is waited for.
        folder: the worker's folder, for tracebacks of defects.
        call: does the step; gets a function to report with, returns plain JSON.
        env: the whole environment of the child.
        report: called in the supervisor with what the step reports.
        close: descriptors that the child must not keep.

    Attributes:
        pid: its process.
        answer: what it said at last; empty while it has not, and when it died.
        ended: it was told to end.
    """

    def __init__(
        self,
        loop: Loop,
        folder: str,
        call: Callable[[Report], dict[str, Any]],
        *,
        env: Mapping[str, str],
        report: Report,
        close: tuple[int, ...],
    ) -> None:
        self._loop = loop
        self._report = report
        self._text = b""
        self._fd, end = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _child(folder, call, env, end, (self._fd, *close), parent)
        os.close(end)
        self.start = process.start_time(self.pid)
        self.status: int | None = None
        self.answer: dict[str, Any] = {}
        self.ended = False
        self._loop.add(self._fd, READ, self._readable)

    @property
    def done(self) -> bool:
        """Whether it has ended and was reaped, and all that it said was read."""
        return self.status is not None and self._fd < 0

    def terminate(self) -> None:
        """End what it waits for, so that it can still say what it has done; else itself."""
        self.ended = True
        below = process.below([self.pid], process.everyone())
        if not process.send_all(below, _signal.SIGTERM):
            process.send(self.pid, self.start, _signal.SIGTERM)

    def kill(self) -> None:
        """End it and all its descendants."""
        below = process.below([self.pid], process.everyone())
        process.send(self.pid, self.start, _signal.SIGKILL)
        process.send_all(below, _signal.SIGKILL)

    def _readable(self) -> None:
        data = os.read(self._fd, 65536)
        self._text += data
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            message = loads(line.decode("ascii"))
            if "report" in message:
                self._report(message["report"])
            else:
                self.answer = message
        if not data:
            self._loop.remove(self._fd)
            os.close(self._fd)
            self._fd = -1


def _child(
    folder: str,
    call: Callable[[Report], dict[str, Any]],
    env: Mapping[str, str],
    pipe: int,
    close: tuple[int, ...],
    parent: int,
) -> NoReturn:
    code = 1
    try:
        _signal.set_wakeup_fd(-1)
        for number in _DEFAULT:
            _signal.signal(number, _signal.SIG_DFL)
        os.setsid()  # Ctrl-C at the supervisor's terminal is the supervisor's business
        process.die_with_parent()
        if os.getppid() != parent:
            os._exit(1)
        faults.together.append(parent)
        for fd in close:  # above all the lock, which falls with the supervisor alone
            os.close(fd)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.environ.clear()
        os.environ.update(env)
        answer = attempt(folder, lambda: call(lambda text: _say(pipe, {"report": text})))
        _say(pipe, answer)
        code = 0
    finally:
        os._exit(code)


def _say(pipe: int, message: dict[str, Any]) -> None:
    files.write_all(pipe, dumps(message).encode("ascii") + b"\n")


def attempt(folder: str, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return `{"answer": …}`, or `{"error": {"message", "reason"}}` for what it raised.

    A defect leaves its traceback in the folder's `debug.log`.
    """
    from outpost_core.errors import WorkerError
    from outpost_worker.folder.outcome import reason_of

    try:
        return {"answer": call()}
    except WorkerError as error:
        return {"error": {"message": str(error), "reason": error.reason}}
    except Exception as error:  # noqa: BLE001 - whatever it is, it becomes the result
        reason = reason_of(error, "internal") if isinstance(error, OSError) else "internal"
        note_defect(folder, error)
        return {"error": {"message": f"{type(error).__name__}: {error}", "reason": reason}}


def note_defect(folder: str, error: BaseException) -> None:
    """Append the traceback of a defect to the folder's `debug.log`; a full disk is fine."""
    try:
        import traceback

        fd = files.open_own(os.path.join(folder, files.DEBUG), os.O_WRONLY | os.O_APPEND)
        try:
            files.write_all(fd, "".join(traceback.format_exception(error)).encode())
        finally:
            os.close(fd)
    except (OSError, ImportError):
        pass
