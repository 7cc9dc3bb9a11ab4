"""The pod's program as a process of this machine: its order, its disk, and who execs into it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from outpost_core import wire
from outpost_core.backend import BuildContext
from outpost_core.names import checkpoint_ref
from outpost_core.types import Agent, Delivery, Issue, Limits, Order
from outpost_exec.options import ExecOptions
from outpost_exec.outpost import ExecOutpost
from outpost_testing.gitrig import GitRig

#: Seconds until what has to come is taken for missing.
PATIENCE = 60.0
OWNER = "0123456789abcdef"
UID = "6f1c2d3e-0000-4000-8000-0123456789ab"
CAPABILITIES = ("rig", "checkpoint", "secrets", "interactive", "clean", "facts")


class Pod:
    """One pod, whose program begins with `start`.

    Args:
        folder: `order`, `disk`, `home`, `termination` and what it prints are in it.
        order: its order.
        uid: the pod's UID.
        credentials: what git logs in with.
        env: further variables.
    """

    def __init__(
        self, folder: Path, order: Order, uid: str = UID, credentials: str = "", **env: str
    ) -> None:
        self.folder, self.order, self.worker = folder, order, order.worker
        self.root = folder / "disk" / "state"
        self.log = folder / "stdout"
        self.errors = folder / "stderr"
        for name in ("order", "disk", "home"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "termination").write_bytes(b"")
        write_order(folder / "order", order, credentials)
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        self.env = {
            **kept,
            "HOME": str(folder / "home"),
            "OUTPOST_ROOT": str(self.root),
            "OUTPOST_ORDER_DIR": str(folder / "order"),
            "OUTPOST_GIT_DIR": str(folder / "git"),
            "OUTPOST_TERMINATION_LOG": str(folder / "termination"),
            "OUTPOST_K8S_POD": "outpost-pod-x7k2p",
            "OUTPOST_K8S_UID": uid,
            "OUTPOST_LOOK": "0.2",
            "OUTPOST_SECRETS": "",
            **env,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **env: str) -> Pod:
        """Start its program, as its container does."""
        with self.log.open("wb") as log, self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "outpost_k8s.far", "run"], env={**self.env, **env},
                stdin=subprocess.DEVNULL, stdout=log, stderr=errors,
            )  # fmt: skip
        return self

    def wait(self, seconds: float = 2 * PATIENCE) -> int:
        """Wait for the end of its program; returns its exit code."""
        assert self.process is not None
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.said()) from None

    def run(self, **env: str) -> dict[str, Any]:
        """Run its program to its end; returns the termination message."""
        self.start(**env).wait()
        return self.message()

    def signal(self, number: int = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def message(self) -> dict[str, Any]:
        """The termination message."""
        said = (self.folder / "termination").read_bytes()
        assert said, self.said()
        assert len(said) <= 4096
        message: dict[str, Any] = json.loads(said)
        return message

    def state(self) -> dict[str, Any]:
        """What `run` says that it is at."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            state: dict[str, Any] = json.loads((self.root / "pod" / "state.json").read_text())
            return state
        return {}

    def until(self, phase: str) -> None:
        """Wait until `run` is at something."""
        until(lambda: self.state().get("phase") == phase, self.said)

    def said(self) -> str:
        """All that could say what went wrong."""
        own = self.root / "run.log"
        told = [self.errors.read_text(errors="replace") if self.errors.exists() else ""]
        told += [own.read_text(errors="replace") if own.exists() else "", str(self.state())]
        return "\n".join(told)

    def kill(self) -> None:
        """As when the container is killed: all that runs in it is gone at once."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait(PATIENCE)
        end_all(self.root)

    @contextlib.asynccontextmanager
    async def asked(
        self, capabilities: tuple[str, ...] = CAPABILITIES
    ) -> AsyncIterator[ExecOutpost]:
        """Have the pod as who execs into it has it."""
        variables = [f"{name}={value}" for name, value in self.env.items()]
        options = ExecOptions(
            command=("env", "-i", *variables, sys.executable, "-m", "outpost_k8s.far", "serve"),
            capabilities=capabilities,
            start_timeout=PATIENCE,
        )
        context = BuildContext(state_dir=self.folder / "near", config_dir=self.folder)
        made = ExecOutpost("pod", options, context)
        try:
            yield made
        finally:
            await made.outpost_close()


@contextlib.contextmanager
def pod(folder: Path, order: Order, **more: Any) -> Iterator[Pod]:
    """Have a pod; nothing of it runs afterwards."""
    made = Pod(folder, order, **more)
    try:
        yield made
    finally:
        made.kill()


def write_order(folder: Path, order: Order, credentials: str = "") -> None:
    """Write what the Secret of a Job holds."""
    (folder / "order.json").write_text(wire.dumps(order))
    (folder / "secrets.json").write_text(json.dumps({n: order.secrets[n] for n in order.secrets}))
    (folder / "git-credentials").write_text(credentials)


def order(issue: str, script: str, rig: str | None = None, **more: Any) -> Order:
    """An order whose agent is a shell script."""
    limits = {name: more.pop(name) for name in [*more] if name in Limits.__dataclass_fields__}
    delivery = None
    if rig is not None:
        delivery = Delivery(branch=f"outpost/{issue}", message=f"{issue}: a title")
    made = Order(
        issue=Issue(id=issue),
        agent=Agent(argv=("/bin/sh", "-c", script)),
        rig=rig,
        delivery=delivery,
        limits=Limits(**limits),
        owner=OWNER,
    )
    return replace(made, **more)


def work(rig: GitRig, script: str, issue: str = "k-1", **more: Any) -> Order:
    """An order that writes a line into `ran` each time that its agent begins."""
    return order(issue, f"echo begun >> {rig.folder}/ran; {script}", f"file://{rig.path}", **more)


def runs(rig: GitRig) -> int:
    """How often an agent began."""
    ran = rig.folder / "ran"
    return len(ran.read_text().splitlines()) if ran.exists() else 0


def commit(text: str) -> str:
    """Shell that commits one file."""
    who = "git -c user.name=a -c user.email=a@a"
    return f"echo {text} > {text}.txt; git add -A; {who} commit -qm x"


def record_of(rig: GitRig, worker: str = "k-1.1") -> dict[str, Any]:
    """What the record of a worker on its rig says; empty for none."""
    ref = f"refs/outpost/{OWNER}/records/{worker}"
    said = rig.git("-C", str(rig.path), "log", "-1", "--format=%b", ref, ok=False)
    return json.loads(said) if said.startswith("{") else {}


def rescued_ref(worker: str = "k-1.1") -> str:
    """The ref of a worker's checkpoint."""
    return checkpoint_ref(worker, OWNER)


def end_all(root: Path) -> None:
    """Kill all that belongs to a state folder."""
    deadline = time.monotonic() + PATIENCE
    while found := processes(root):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def processes(root: Path) -> list[int]:
    """The processes that belong to a state folder, by their command line or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            about = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            if str(root).encode() in about and pid != os.getpid():
                found.append(pid)
    return found


def until(what: Callable[[], object], said: Callable[[], str] = str) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, said()
        time.sleep(0.05)
