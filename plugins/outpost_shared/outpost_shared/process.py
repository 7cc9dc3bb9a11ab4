"""Processes: who they are, whose they are, and how to signal exactly the one that is meant.

A pid alone names nothing for long: it is reused. Together with the start time of its process and
the boot of its machine it does, so these three are what is recorded and compared.

On a system without `/proc` nothing can be found out: every process counts as gone. So no worker
is started there; who asks about other processes there asks `identity`.
"""

from __future__ import annotations

# not `signal`: its enums cost 3.7 ms of every worker's start
import _signal  # type: ignore[import-not-found]
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
#: How our programs are called in command lines; the last two in versions whose workers may live.
_PROGRAMS = (
    b"/outpost_worker/boot.py",
    b"/outpost_worker/__main__.py",
    b"/outpost_core/worker/boot.py",
    b"/outpost_core/worker/__main__.py",
)


class Proc:
    """One line of the process table."""

    __slots__ = ("parent", "pid", "session", "start")

    def __init__(self, pid: int, parent: int, session: int, start: int) -> None:
        self.pid = pid
        self.parent = parent
        self.session = session
        self.start = start


def look(pid: int) -> Proc | None:
    """Return what the system says of a living process; None for a dead one or a zombie."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(fd, 4096)
    except OSError:
        return None
    finally:
        os.close(fd)
    # the name in parentheses may itself hold spaces and parentheses
    fields = text[text.rfind(b")") + 2 :].split()
    if len(fields) < 20 or fields[0] in (b"Z", b"X"):
        return None
    return Proc(pid, int(fields[1]), int(fields[3]), int(fields[19]))


def start_time(pid: int) -> int:
    """Return when a process began, in clock ticks since boot; 0 when it does not live."""
    proc = look(pid)
    return proc.start if proc else 0


def moment(start: int) -> float | None:
    """Return when a process began, in seconds since the epoch; None when nobody can say.

    Args:
        start: clock ticks since boot.
    """
    import time

    try:
        ticks = os.sysconf("SC_CLK_TCK")
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + start / ticks
    except (OSError, ValueError, AttributeError):
        return None


def boot_id() -> str:
    """Return the identity of this boot of the machine; "" where there is none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb", buffering=0) as file:
            return file.read().decode("ascii").strip()
    except OSError:
        return ""


def lives(pid: int, start: int, boot: str) -> bool:
    """Whether the process that was recorded so is still the one under that pid."""
    return boot == boot_id() and start != 0 and start_time(pid) == start


def runs(pid: int, verb: str, folder: str) -> bool:
    """Whether a process is one of ours that does `verb` for a worker: its command line says so.

    A process has the command line that it was started with, so nobody can make another one look
    like this; only a process of the agent's own can.

    Args:
        pid: the process.
        verb: as of `python -m outpost_worker`.
        folder: the worker's folder.
    """
    return is_folder(runs_for(pid, verb), folder)


def runs_for(pid: int, verb: str) -> str:
    """Return the folder, as it was named, for which a process of ours does `verb`; "" for none."""
    # one that was forked has zero bytes behind its words: see `outpost_worker.warm.commandline`
    argv = read(pid, "cmdline").rstrip(b"\0").split(b"\0")
    if len(argv) < 4 or argv[-2] != verb.encode() or not argv[-3].endswith(_PROGRAMS):
        return ""
    if not argv[0].rpartition(b"/")[2].startswith((b"python", b"pypy")):
        return ""  # it starts one: the tmux server has the command line of whoever was first
    return os.fsdecode(argv[-1])


def is_folder(named: str, folder: str) -> bool:
    """Whether a worker's folder was meant, as a command line named it."""
    if not os.path.isabs(named):  # relative to where that process began
        return named != "" and os.path.basename(named) == os.path.basename(folder)
    return named == folder or os.path.realpath(named) == os.path.realpath(folder)


def of_user(pid: int) -> bool:
    """Whether a process is this user's, or nobody can be told whose since it hides itself."""
    try:
        return os.stat(f"/proc/{pid}").st_uid in (os.geteuid(), 0)
    except OSError:
        return False


def read(pid: int, name: str) -> bytes:
    """Return a file of `/proc/<pid>`; empty when there is none, or none for us."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""


def everyone() -> dict[int, Proc]:
    """Return all living processes that can be seen."""
    try:
        names = os.listdir("/proc")
    except OSError:
        return {}
    found = {}
    for name in names:
        if name.isdigit():
            proc = look(int(name))
            if proc:
                found[proc.pid] = proc
    return found


def below(roots: Collection[int], table: dict[int, Proc], skip: Collection[int] = ()) -> list[Proc]:
    """Return all descendants of `roots`, without the subtrees under (and with) `skip`."""
    children: dict[int, list[Proc]] = {}
    for proc in table.values():
        children.setdefault(proc.parent, []).append(proc)
    found: list[Proc] = []
    seen = set(skip)
    todo = list(roots)
    while todo:
        for proc in children.get(todo.pop(), ()):
            if proc.pid not in seen:
                seen.add(proc.pid)
                found.append(proc)
                todo.append(proc.pid)
    return found


def send(pid: int, start: int, number: int) -> bool:
    """Send a signal to the process with that pid *and* start time.

    Returns:
        False when that process is gone (then nobody was signalled), or is not ours to signal.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except (OSError, AttributeError):  # an old kernel: the check and the signal are two steps
        return start_time(pid) == start and _kill(pid, number)
    try:
        if start_time(pid) != start:
            return False
        _signal.pidfd_send_signal(handle, number)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def send_all(procs: Iterable[Proc], number: int) -> int:
    """Send a signal to all of `procs` and return how many got it."""
    return sum(send(proc.pid, proc.start, number) for proc in procs)


def become_subreaper() -> bool:
    """Make orphans among our descendants our own children, so that no daemon gets away.

    Returns:
        Whether the system does that.
    """
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> bool:
    """Be killed when the parent dies; returns whether the system does that."""
    return _prctl(_PR_SET_PDEATHSIG, _signal.SIGKILL)


def _kill(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except OSError:
        return False
    return True


def _prctl(option: int, value: int) -> bool:
    # `_ctypes` is what `ctypes` itself calls; without its Python half it costs 0.5 ms, not 2.5
    try:
        import _ctypes

        address = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]
        return bool(_ctypes.call_function(address, (option, value, 0, 0, 0)) == 0)
    except (ImportError, AttributeError, TypeError):
        pass
    except OSError:  # no prctl: not Linux
        return False
    import ctypes

    return bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)
