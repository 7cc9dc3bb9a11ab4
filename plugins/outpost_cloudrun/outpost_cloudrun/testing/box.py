"""The first process of a container that is no container: a family of processes.

It starts one program, adopts whatever of it becomes an orphan, freezes and kills the family as a
whole, and kills all of it when the emulator is gone, however that went: its standard input ends
then. Run as `python -m outpost_cloudrun.testing.box`; the first line of standard input is
`{"argv", "env", "folder", "log", "memory"}`, each further line one of `freeze`, `thaw`, `term`,
`hup`, `kill`. It prints one line when the program has ended: `{"code", "signal", "memory"}`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time

from outpost_shared import process

#: How often memory is measured, in seconds.
_MEASURE = 0.2


def main() -> None:
    """Run the program that standard input names."""
    process.become_subreaper()
    commands = _Commands(0)
    spec = json.loads(commands.line())
    alarm, writer = os.pipe()
    os.set_blocking(writer, False)
    os.set_inheritable(alarm, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    box = Box(spec)
    while not box.over:
        wait = _MEASURE if box.limit and not box.frozen else None
        ready = select.select([0, alarm], [], [], wait)[0]
        if alarm in ready:
            os.read(alarm, 4096)
        box.reap()
        if 0 in ready and not box.over:
            for word in commands.read():
                box.obey(word)
        if not ready:
            box.measure()
    box.kill()
    with contextlib.suppress(BrokenPipeError):  # nobody wants to know any more
        os.write(1, json.dumps(box.end).encode() + b"\n")


class Box:
    """The family.

    Args:
        spec: as on standard input.
    """

    def __init__(self, spec: dict[str, object]) -> None:
        self.limit = int(str(spec.get("memory") or 0))
        self.frozen = False
        self.over = False
        self.end: dict[str, object] = {"code": 0, "signal": 0, "memory": False}
        self._main = _start(spec)

    def obey(self, word: str) -> None:
        """Do what was said."""
        if word == "freeze":
            self.frozen = True
            self._stop_all()
        elif word == "thaw":
            self.frozen = False
            process.send_all(self._family(), signal.SIGCONT)
        elif word == "term":
            self.obey("thaw")
            if not self.over:
                os.kill(self._main, signal.SIGTERM)
        elif word == "hup":
            os.kill(self._main, signal.SIGHUP)
        elif word == "kill":
            self.kill()

    def reap(self) -> None:
        """Take in the dead; note how the program ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._main and not self.over:
                self.over = True
                if os.WIFSIGNALED(status):
                    self.end["signal"] = os.WTERMSIG(status)
                else:
                    self.end["code"] = os.WEXITSTATUS(status)

    def kill(self) -> None:
        """Kill everyone, until nobody is left."""
        while True:
            family = self._family()
            process.send_all(family, signal.SIGKILL)
            self.reap()
            if not family:
                return
            time.sleep(0.005)

    def measure(self) -> None:
        """Kill the family when it needs more memory than it may."""
        family = self._family()
        if sum(_memory(each.pid, exact=False) for each in family) > self.limit and (
            sum(_memory(each.pid, exact=True) for each in family) > self.limit
        ):
            self.end["memory"] = True
            self.kill()

    def _family(self) -> list[process.Proc]:
        return process.below([os.getpid()], process.everyone())

    def _stop_all(self) -> None:
        stopped: set[int] = set()
        while True:
            new = [each for each in self._family() if each.pid not in stopped]
            if not new:
                return
            process.send_all(new, signal.SIGSTOP)
            stopped.update(each.pid for each in new)


class _Commands:
    """Lines of standard input, read without a buffer that `select` does not see."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""

    def line(self) -> str:
        while b"\n" not in self._rest:
            more = os.read(self._fd, 1 << 16)
            if not more:
                raise SystemExit(0)
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def read(self) -> list[str]:
        more = os.read(self._fd, 1 << 16)
        if not more:  # the emulator is gone
            return ["kill"]
        *lines, self._rest = (self._rest + more).split(b"\n")
        return [line.decode() for line in lines]


def _start(spec: dict[str, object]) -> int:
    argv = [str(each) for each in spec["argv"]]  # type: ignore[attr-defined]
    env = {str(key): str(value) for key, value in spec["env"].items()}  # type: ignore[attr-defined]
    log = os.open(str(spec["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.chdir(str(spec["folder"]))
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.posix_spawnp(
            argv[0], argv, env, setsid=True,
            setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGCHLD],
            file_actions=[
                (os.POSIX_SPAWN_DUP2, null, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
        )  # fmt: skip
    except OSError as error:
        os.write(log, f"{argv[0]}: {error}\n".encode())
        os.write(1, json.dumps({"code": 127, "signal": 0, "memory": False}).encode() + b"\n")
        sys.exit(0)
    finally:
        os.close(log)
        os.close(null)


def _memory(pid: int, *, exact: bool) -> int:
    """Return what a process holds, in bytes; `exact` shares what it shares with others."""
    if not exact:
        fields = process.read(pid, "statm").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0
    for line in process.read(pid, "smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) << 10
    return _memory(pid, exact=False)


if __name__ == "__main__":
    main()
