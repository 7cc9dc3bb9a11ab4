"""The first process of a lab: starts its parts, starts them again, kills them when told.

It listens on a socket, a request and an answer a line, as JSON; a connection that asked to `hold`
keeps a leased lab alive. Where the lab has namespaces it is their process 1, and nothing in them
outlives it; else its parts are told by the kernel to end with it.
"""

import contextlib
import ctypes
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from kubelab import cluster, parts
from kubelab.plan import COVERED, ON_DEMAND, SERVICES, Plan

#: Seconds until a leased lab that nobody holds ends: at its start, and after its last holder.
FIRST_HOLD: Final = 60.0
LAST_HOLD: Final = 1.0
_RESTART: Final = 0.3
#: How often a part may end by itself before the lab is ready: some do not wait for the others.
_TRIES: Final = 10
_OUTPUT: Final = 1 << 20
_SUBREAPER: Final = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
#: What the kubelet wants of the kernel, and would set for the whole machine: it is shown them.
_TUNABLES: Final = {
    "vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10",
    "kernel/panic_on_oops": "1", "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}  # fmt: skip


class Keeper:
    """The processes of one lab."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._changed = threading.Condition()
        self._pids: dict[str, int] = {}
        self._wanted: dict[str, float] = {}  # part → not to be started before
        self._runs: dict[int, int | None] = {}  # pid → how it has ended
        self._restarts: dict[str, int] = {}
        self._holders = 0
        self._ready = False
        self._failed = ""

    def run(self) -> None:
        """Keep the lab until it is to end."""
        threading.Thread(target=self._reap, daemon=True).start()
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._begin, daemon=True).start()
        deadline = time.monotonic() + FIRST_HOLD
        with self._changed:
            while True:
                self._start_wanted()
                self._changed.wait(0.1)
                now = time.monotonic()
                if self._holders or not self._plan.leased:
                    deadline = now + LAST_HOLD if self._holders else now + FIRST_HOLD
                elif now > deadline:
                    return

    def _start_wanted(self) -> None:
        """Start what is wanted and does not run.

        This thread alone does that: where the kernel ends children with their parent, it means
        the thread that started them.
        """
        for part in (*self._plan.parts, *ON_DEMAND):
            if part not in self._pids and self._wanted.get(part, math.inf) <= time.monotonic():
                self._pids[part] = self._spawn(part)
                self._changed.notify_all()

    def _begin(self) -> None:
        try:
            for part in self._plan.parts:
                if part != "kubelet":
                    self.start(part)
            cluster.prepare(self._plan, lambda *words: self._run(words), self.start)
            with self._changed:
                self._ready = True
        except Exception as error:
            self._failed = f"{type(error).__name__}: {error}"

    def start(self, part: str) -> None:
        """Start a part, and start it again whenever it ends by itself."""
        with self._changed:
            self._wanted[part] = 0.0
            self._changed.notify_all()
            while part in self._wanted and part not in self._pids:
                self._changed.wait()

    def kill(self, part: str, number: int = signal.SIGKILL) -> None:
        """End a part, and leave it ended; returns once it is gone."""
        with self._changed:
            self._wanted.pop(part, None)
            pid = self._pids.get(part)
            if pid is None:
                return
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, number)
            while self._pids.get(part) == pid:
                self._changed.wait()

    def signal(self, part: str, number: int) -> None:
        """Send a part a signal."""
        with self._changed:
            os.kill(self._pids[part], number)

    def lose_node(self) -> None:
        """End all that belongs to the node, as when its power fails: kubelet, containers, all.

        That is whatever runs in the namespaces and is no other part: without them, it would be all
        that runs on the machine.
        """
        if not self._plan.has_node or os.getpid() != 1:
            raise LookupError("this lab has no real node")
        with self._changed:
            for part in ("kubelet", "containerd"):
                self._wanted.pop(part, None)
            node = ("kubelet", "containerd")
            keep = {os.getpid(), *(pid for part, pid in self._pids.items() if part not in node)}
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit() and int(entry.name) not in keep:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(entry.name), signal.SIGKILL)
            while {"kubelet", "containerd"} & self._pids.keys():
                self._changed.wait()

    def status(self) -> dict[str, Any]:
        """Return how the lab is."""
        with self._changed:
            return {
                "ready": self._ready, "failed": self._failed, "holders": self._holders,
                "parts": {part: self._pids.get(part, 0) for part in self._plan.parts},
                "restarts": dict(self._restarts),
            }  # fmt: skip

    def _spawn(self, part: str) -> int:
        argv = parts.argv(self._plan, part)
        if not self._plan.number:
            argv = ["setpriv", "--pdeathsig", "KILL", *argv]
        return _spawn(argv, parts.environ(self._plan), self._plan.folder / f"{part}.log")

    def _run(self, words: tuple[str, ...] | list[str]) -> tuple[int, str]:
        """Run a program within the lab; returns its exit code and what it printed."""
        output = self._plan.folder / f"run-{threading.get_ident()}.log"
        output.unlink(missing_ok=True)
        with self._changed:
            pid = _spawn(list(words), parts.environ(self._plan), output)
            self._runs[pid] = None
            while (status := self._runs[pid]) is None:
                self._changed.wait()
            del self._runs[pid]
        printed = output.read_bytes()[-_OUTPUT:].decode(errors="replace")
        output.unlink()
        return os.waitstatus_to_exitcode(status), printed

    def _reap(self) -> None:
        """Bury the dead: the parts, which start again where they are wanted, and orphans."""
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                time.sleep(0.05)
                continue
            with self._changed:
                dead = [part for part, one in self._pids.items() if one == pid]
                for part in dead:
                    del self._pids[part]
                    if part in self._wanted:
                        self._restarts[part] = self._restarts.get(part, 0) + 1
                        if not self._ready and self._restarts[part] == _TRIES:
                            self._failed = f"{part} ends again and again; see its log"
                        self._wanted[part] = time.monotonic() + _RESTART
                if pid in self._runs:
                    self._runs[pid] = status
                self._changed.notify_all()

    def _listen(self) -> None:
        aside = f"{self._plan.control}.new"
        server = socket.socket(socket.AF_UNIX)
        server.bind(aside)
        Path(aside).chmod(0o600)
        server.listen(64)
        Path(aside).rename(self._plan.control)
        while True:
            connection, _ = server.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        held = False
        with (
            contextlib.suppress(OSError, ValueError),
            connection,
            connection.makefile("rw") as file,
        ):
            for line in file:
                asked = json.loads(line)
                if asked["do"] == "hold" and not held:
                    held = True
                    with self._changed:
                        self._holders += 1
                try:
                    answer = {"ok": self._do(asked)}
                except Exception as error:
                    answer = {"error": f"{type(error).__name__}: {error}"}
                file.write(json.dumps(answer) + "\n")
                file.flush()
        if held:
            with self._changed:
                self._holders -= 1
                self._changed.notify_all()

    def _do(self, asked: Mapping[str, Any]) -> Any:
        does: dict[str, Callable[[], Any]] = {
            "hold": self.status,
            "status": self.status,
            "start": lambda: self.start(asked["part"]),
            "kill": lambda: self.kill(asked["part"], asked.get("signal", signal.SIGKILL)),
            "signal": lambda: self.signal(asked["part"], asked["signal"]),
            "lose_node": self.lose_node,
            "run": lambda: self._run(asked["argv"]),
            "compact": lambda: cluster.compact(self._plan),
            "down": lambda: os.kill(os.getpid(), signal.SIGTERM),
        }
        return does[asked["do"]]()


def _spawn(argv: list[str], env: Mapping[str, str], output: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawnp(
        argv[0], argv, env, setsid=True, setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGTERM, signal.SIGINT],
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, output, flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )  # fmt: skip


def _settle_in(plan: Plan) -> None:
    """Make the namespaces a machine: its addresses, and mounts that others do not see."""

    def run(*argv: str) -> None:
        subprocess.run(argv, check=True)

    run("ip", "link", "set", "lo", "up")
    run("ip", "addr", "add", f"{SERVICES}.1/32", "dev", "lo")
    run("ip", "addr", "add", f"{plan.address}/24", "dev", "eth0")
    run("ip", "link", "set", "eth0", "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    run("mount", "--make-rshared", "/")  # a kubelet's volumes have to reach the containers
    _cover(plan, run)
    for name, value in _TUNABLES.items():
        shown = plan.folder / name.replace("/", "-")
        shown.write_text(value + "\n")
        if Path("/proc/sys", name).exists():
            run("mount", "--bind", str(shown), f"/proc/sys/{name}")


def _cover(plan: Plan, run: Callable[..., None]) -> None:
    """Let what the parts write to fixed places of the machine's be seen in the lab alone."""
    memory = plan.folder / "covers"
    memory.mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(memory))
    for place in COVERED:
        upper, work = (memory / f"{place.strip('/').replace('/', '-')}-{name}" for name in "uw")
        upper.mkdir()
        work.mkdir()
        layers = f"lowerdir={place},upperdir={upper},workdir={work}"
        run("mount", "-t", "overlay", "overlay", "-o", layers, place)


def main() -> None:
    """Wait for the word that the network is there, and keep the lab in the folder named."""
    sys.stdin.readline()
    plan = Plan.load(Path(sys.argv[1]))
    # process 1 is not killed by a signal that it does not handle
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if plan.number:
        _settle_in(plan)
    else:
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    Keeper(plan).run()
    os._exit(0)  # the kernel ends the others


if __name__ == "__main__":
    main()
