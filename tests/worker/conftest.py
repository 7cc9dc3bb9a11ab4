from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import farcode
import pytest
from fencekit import NOBODY
from peers import MissingError

from outpost_core.types import Agent, Issue, Limits, Order, Result, State, WorkerStatus
from outpost_shared import process
from outpost_worker.folder import publish, seal, status
from outpost_worker.recovery import recover

PATIENCE = 60.0


class Far:
    """A root with workers, as a backend would use it, and the supervisors that run there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.started: list[subprocess.Popen[bytes]] = []
        self.folders: list[Path] = []
        self._count = 0

    def order(self, *argv: str, limits: Mapping[str, Any] | None = None, **more: Any) -> Order:
        self._count += 1
        issue = more.pop("issue", Issue(id=f"t-{self._count}"))
        agent = Agent(
            argv=argv,
            interactive=more.pop("interactive", False),
            output=more.pop("output", "plain"),
        )
        return Order(issue=issue, agent=agent, limits=Limits(**(limits or {})), **more)

    def shell(self, script: str, **more: Any) -> Order:
        return self.order("/bin/sh", "-c", script, **more)

    def publish(
        self,
        order: Order,
        env: Mapping[str, str] | None = None,
        fence: Mapping[str, Any] | None = None,
        wrap: Sequence[str] = (),
        own_files: bool = False,
    ) -> Path:
        """Publish an order; without a fence, pids that a script writes are those of this side."""
        env = env or {"PATH": os.environ["PATH"]}
        more: dict[str, Any] = {"argv": [*wrap]} | ({"own_files": True} if own_files else {})
        folder, _ = publish.publish(self.root, order, env, fence=fence, wrap=more if wrap else None)
        self.folders.append(folder)
        return folder

    def seal(self, folder: Path, name: str, value: Mapping[str, Any]) -> None:
        """Let a worker have been published with another order or launch."""
        (folder / name).write_text(json.dumps(value))
        order, launch = ((folder / one).read_bytes() for one in ("order.json", "launch.json"))
        said = json.loads(order)
        seal.make(
            str(self.root), folder.name, said["seal"], said["digest"], order, launch, sync=False
        )

    def unseal(self) -> None:
        """Let all workers be of a version that made no seals."""
        shutil.rmtree(self.root / seal.SEALED)
        for folder in (self.root / "workers").iterdir():
            said = json.loads((folder / "order.json").read_text())
            del said["seal"]
            (folder / "order.json").write_text(json.dumps(said))

    def start(
        self, folder: Path, *, fault: str = "", patch: str = "", verb: str = "run", **more: Any
    ) -> subprocess.Popen[bytes]:
        """Start a verb as a process of its own.

        `patch` is Python that runs before, with `supervise` at hand, to shorten long waits.
        """
        argv = publish.command(folder, verb)
        if patch:
            code = f"import sys; sys.path += {farcode.ROOTS!r};"
            code += f"from outpost_worker.run import supervise; {patch};"
            code += f"supervise.run({str(folder)!r})"
            argv = [*argv[:3], "-c", code, *argv[-3:]]
        env = {"PATH": os.environ["PATH"], "OUTPOST_FAULT": fault}
        for name in ("stdin", "stdout", "stderr"):
            more.setdefault(name, subprocess.DEVNULL)
        done = subprocess.Popen(argv, env=env, start_new_session=True, **more)
        self.started.append(done)
        return done

    def run(
        self,
        order: Order,
        fence: Mapping[str, Any] | None = None,
        wrap: Sequence[str] = (),
        own_files: bool = False,
        **more: Any,
    ) -> tuple[Path, Result]:
        folder = self.publish(order, fence=fence, wrap=wrap, own_files=own_files)
        self.start(folder, **more).wait(PATIENCE)
        return folder, self.result(folder)

    def status(self, folder: Path) -> WorkerStatus:
        return status.read(folder)

    def result(self, folder: Path) -> Result:
        found = status.read(folder).result
        assert found is not None
        return found

    def wait(self, what: Callable[[], Any]) -> Any:
        """Wait until `what()` is true and return it."""
        end = time.monotonic() + PATIENCE
        while not (value := what()):
            assert time.monotonic() < end, "it never came true"
            time.sleep(0.005)
        return value

    def working(self, folder: Path) -> WorkerStatus:
        self.wait(lambda: self.status(folder).state is State.WORKING)
        return self.status(folder)

    def pid_in(self, path: Path) -> int:
        """Return the pid that a script writes to a file (with a newline at its end)."""

        def read() -> int:
            text = path.read_text() if path.exists() else ""
            return int(text) if text.endswith("\n") else 0

        return int(self.wait(read))

    def gone(self, *pids: int) -> None:
        """Wait until none of the processes lives."""
        for pid in pids:
            self.wait(lambda pid=pid: not process.start_time(pid))

    def left(self, folder: Path) -> list[process.Proc]:
        """Return the processes of a worker that live."""
        return list(recover._left(str(folder)))

    def kill(self, running: subprocess.Popen[bytes]) -> None:
        running.send_signal(signal.SIGKILL)
        running.wait(PATIENCE)


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    made = Far(tmp_path / "root")
    yield made
    for running in made.started:
        if running.poll() is None:
            running.kill()
        running.wait(PATIENCE)
        for stream in (running.stdin, running.stdout, running.stderr):
            if stream:
                stream.close()
    for folder in made.folders:
        recover.sweep(str(folder))


@pytest.fixture(scope="session")
def python() -> str:
    return sys.executable


@pytest.fixture
def open_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that every user can come to; pytest's own is closed to others."""
    place = Path("/var/tmp") / f"fence-{os.getpid()}-{os.urandom(4).hex()}"
    place.mkdir(mode=0o755)
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(params=["me", "nobody"])
def uid(request: pytest.FixtureRequest) -> int:
    if request.param == "me":
        return os.getuid()
    if os.getuid() != 0:
        raise MissingError("needs root to be another user")
    return NOBODY
