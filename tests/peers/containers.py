"""Real containers for tests: a podman whose images and containers are in a folder, gone afterwards.

The image of workers is built once a state of the code, by `outpost image build`, into the images
that `.ci/base-image` keeps; each test program has containers of its own above those. They share
this machine's network, since a test talks to loopback alone. Whatever way the test program ends, a
guard that sees it end takes its containers away. Needs root, and Debian's podman and runc.
"""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from outpost_container.folder import lay_out
from peers import MissingError

CHECKOUT: Final = Path(__file__).parents[2]
AGENTS: Final = Path(
    os.environ.get("OUTPOST_AGENTS_DIR") or CHECKOUT / ".cache" / "agents"
).absolute()
#: What a container of a worker may at the most; as Kubernetes' restricted profile has it, and more.
CONFINED: Final = (
    "--read-only", "--tmpfs", "/tmp:mode=1777", "--memory", "512m", "--memory-swap", "512m",
    "--cpus", "1", "--pids-limit", "512", "--cap-drop", "all",
    "--security-opt", "no-new-privileges",
)  # fmt: skip
#: Seconds until what has to come is taken for missing.
PATIENCE: Final = 60.0
#: How long images of older states of the code are kept.
_KEPT: Final = "24h"
_BUILD_LIMIT: Final = 900.0
_CGROUPS: Final = Path("/sys/fs/cgroup")

# Waits until the test program has ended, and takes away what it left. Where podman was killed in
# the middle of something, or its own cleaner is at work just then, it has to be asked again.
_GUARD: Final = """
import os, shutil, subprocess, sys, time
folder = sys.argv[1]
sys.stdin.buffer.read()
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    subprocess.run(["podman", "rm", "--force", "--all", "--time", "0"], capture_output=True)
    left = subprocess.run(["podman", "ps", "--all", "--quiet"], capture_output=True)
    if left.returncode == 0 and not left.stdout.strip():
        break
    time.sleep(0.2)
while os.path.exists(folder) and time.monotonic() < deadline:
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split()[4] for line in file]
    for place in reversed([one for one in mounts if one.startswith(folder + "/")]):
        subprocess.run(["umount", "--lazy", place], capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)
    time.sleep(0.3)
"""


@dataclass(frozen=True)
class Image:
    """The image of workers, built from this checkout.

    Attributes:
        id: its id.
        tag: its name.
        seconds: how long it took; 0 where it was there already.
        size: bytes.
    """

    id: str
    tag: str
    seconds: float
    size: int


def base() -> dict[str, str]:
    """Return the variables by which podman has the images that `.ci/base-image` keeps.

    Raises:
        MissingError: there cannot be containers here.
    """
    missing = [program for program in ("podman", "runc") if shutil.which(program) is None]
    if missing or os.geteuid() != 0:
        raise MissingError(f"containers need {' and '.join(missing) or 'root'}: scripts/setup test")
    done = subprocess.run(
        [CHECKOUT / ".ci" / "base-image"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise MissingError(f"there is no base image: {done.stderr.strip()[-500:]}")
    return _settings(Path(done.stdout.strip()))


def image(*agents: str, node_modules: Path | None = None) -> Image:
    """Return the image of workers with some agents, built from the code as it is now.

    Args:
        agents: `claude`, `codex`.
        node_modules: where they are taken from.
    """
    env = base()
    store = Path(env["CONTAINERS_CONF"]).parent
    with (store / "build-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test programs at once build once
        with tempfile.TemporaryDirectory() as work:
            digest = lay_out(Path(work) / "context").digest
        tag = f"localhost/outpost-test:{'-'.join([*agents, digest])}"
        if found := _inspect(env, tag):
            return Image(found["Id"], tag, 0.0, found["Size"])
        _forget_old(env)
        words = [word for agent in agents for word in ("--agent", agent)]
        words += ["--agents-from", str(node_modules)] if agents and node_modules else []
        built = build(env, "--tag", tag, *words)
        return Image(built["id"], tag, built["seconds"], built["size"])


def prepare() -> None:
    """Build the images that tests use, before any of them has to wait for that."""
    modules = AGENTS / "node_modules"
    with contextlib.suppress(MissingError):
        image()
        if (modules / "@openai").is_dir():
            image("claude", "codex", node_modules=modules)


def build(env: Mapping[str, str], *words: str) -> dict[str, Any]:
    """Run `outpost image build --json` with podman, and return its answer."""
    outpost = Path(sys.executable).with_name("outpost")
    with tempfile.TemporaryDirectory() as state:
        done = subprocess.run(
            [outpost, "--state", state, "image", "build", "--json", "--engine", "podman", *words],
            env={**os.environ, **env}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_BUILD_LIMIT, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class Container:
    """One container that was started. Made by `Containers.start`."""

    def __init__(self, env: Mapping[str, str], id_: str) -> None:
        self._env = env
        self.id = id_

    def state(self) -> dict[str, Any]:
        """Return what podman says of its state: `Status`, `Pid`, `ExitCode`, `OOMKilled`."""
        found = podman(self._env, "inspect", "--format", "{{json .State}}", self.id)
        state: dict[str, Any] = json.loads(found.stdout)
        return state

    def exec(
        self, *argv: str, stdin: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in it to its end."""
        return podman(self._env, "exec", "-i", self.id, *argv, stdin=stdin, check=check)

    def logs(self) -> str:
        """Return what it printed."""
        done = podman(self._env, "logs", self.id, check=False)
        return done.stdout + done.stderr

    def signal(self, name: str) -> None:
        """Send its first process a signal."""
        podman(self._env, "kill", "--signal", name, self.id)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait until it has ended; returns its exit code."""
        deadline = time.monotonic() + seconds
        while (state := self.state())["Status"] not in ("exited", "stopped"):
            assert time.monotonic() < deadline, (state, self.logs())
            time.sleep(0.05)
        code: int = state["ExitCode"]
        return code

    def cgroup(self, controller: str) -> Path:
        """Return the folder of its control group, of one controller where each has its own.

        Raises:
            MissingError: this machine has no such controller.
        """
        for line in Path(f"/proc/{self.state()['Pid']}/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            if controller in names.split(","):
                return _CGROUPS / controller / path.lstrip("/")
            if not names and (_CGROUPS / "cgroup.controllers").exists():
                return _CGROUPS / path.lstrip("/")
        raise MissingError(f"this machine has no controller {controller}")

    def freeze(self) -> None:
        """Take its CPU away, as Cloud Run does between requests."""
        self._freezer(frozen=True)

    def thaw(self) -> None:
        """Give it its CPU back."""
        self._freezer(frozen=False)

    def _freezer(self, *, frozen: bool) -> None:
        group = self.cgroup("freezer")
        unified = (group / "cgroup.freeze").exists()
        if unified:
            (group / "cgroup.freeze").write_text(str(int(frozen)))
        else:
            (group / "freezer.state").write_text("FROZEN" if frozen else "THAWED")
        told = group / ("cgroup.events" if unified else "freezer.state")
        word = f"frozen {int(frozen)}" if unified else ("FROZEN" if frozen else "THAWED")
        deadline = time.monotonic() + PATIENCE
        while word not in told.read_text():
            assert time.monotonic() < deadline, told.read_text()
            time.sleep(0.001)

    def remove(self) -> None:
        """Take it away, whether it runs or not."""
        podman(self._env, "rm", "--force", "--time", "0", self.id)


class Containers:
    """Containers of one test program, in a folder of their own. Made by `containers`.

    Attributes:
        env: what a program needs in its environment to have these as its podman's.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env

    def start(
        self,
        image: str,
        *argv: str,
        options: Sequence[str] = CONFINED,
        entrypoint: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Container:
        """Start a container in the background.

        Args:
            image: id of the image.
            argv: arguments of its program.
            options: of `podman run`.
            entrypoint: another program instead of the image's.
            environ: variables of its environment.
        """
        words = [*options]
        if entrypoint is not None:
            words += ["--entrypoint", entrypoint]
        for name, value in (environ or {}).items():
            words += ["--env", f"{name}={value}"]
        done = podman(self.env, "run", "--detach", *words, image, *argv)
        return Container(self.env, done.stdout.strip())

    def run(
        self, image: str, *argv: str, options: Sequence[str] = CONFINED, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in a container of its own to the end, as the image's own is started."""
        words = [*options, "--entrypoint", '["tini", "--", "outpost-enter"]']
        return podman(self.env, "run", "--rm", *words, image, *argv, check=check)


@contextlib.contextmanager
def containers() -> Iterator[Containers]:
    """Have containers above the images that `.ci/base-image` keeps; none is left afterwards."""
    images = Path(base()["CONTAINERS_CONF"]).parent
    folder = Path(tempfile.mkdtemp(prefix="oc", dir=os.environ.get("TMPDIR", "/tmp")))
    subprocess.run([CHECKOUT / ".ci" / "podman-settings", folder, images], check=True)
    env = _settings(folder)
    guard = subprocess.Popen(
        [sys.executable, "-S", "-c", _GUARD, folder],
        stdin=subprocess.PIPE, env={**os.environ, **env}, start_new_session=True,
    )  # fmt: skip
    try:
        yield Containers(env)
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


def podman(
    env: Mapping[str, str], *words: str, stdin: str = "", check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run podman with settings of its own to its end."""
    done = subprocess.run(
        ["podman", *words], env={**os.environ, **env}, input=stdin, capture_output=True, text=True,
        timeout=_BUILD_LIMIT, check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
    return done


def _settings(folder: Path) -> dict[str, str]:
    return {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
    }


def _forget_old(env: Mapping[str, str]) -> None:
    """Take away images of older states of the code, and what their builds left; never the base."""
    old = ("--filter", f"until={_KEPT}")
    ours = ("--filter", "reference=localhost/outpost-test")
    found = podman(env, "images", "--quiet", *ours, *old, check=False).stdout.split()
    if found:
        podman(env, "rmi", "--force", *found, check=False)
    podman(env, "image", "prune", "--force", *old, check=False)


def _inspect(env: Mapping[str, str], tag: str) -> Any:
    done = podman(env, "image", "inspect", tag, check=False)
    return json.loads(done.stdout)[0] if done.returncode == 0 else None
