"""Containers that are containers: of podman, with limits, a freezer and a kernel that kills."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from outpost_cloudrun.testing.containers import Container, Ended, Spec

#: How often it is looked whether the kernel has killed for want of memory, in seconds.
_LOOK: Final = 0.1
#: What every container gets: no right that a worker needs not.
_CONFINED: Final = (
    *("--network", "host", "--pids-limit", "2048", "--cap-drop", "all"),
    *("--security-opt", "no-new-privileges", "--read-only", "--tmpfs", "/tmp:mode=1777"),  # noqa: S108
)
#: Takes containers away when its standard input ends: then the emulator is gone.
_GUARD: Final = """
import subprocess, sys
sys.stdin.buffer.read()
label = "label=" + sys.argv[1]
found = subprocess.run(["podman", "ps", "-aq", "--filter", label], capture_output=True, text=True)
if found.stdout.split():
    subprocess.run(["podman", "unpause", *found.stdout.split()], capture_output=True)
    subprocess.run(["podman", "rm", "--force", "--time", "0", *found.stdout.split()],
                   capture_output=True)
"""


@dataclass(frozen=True, kw_only=True)
class Podman:
    """Which podman, and which image.

    Attributes:
        image: what runs, whatever image was asked for.
        env: what podman needs in its environment, such as `CONTAINERS_CONF`.
        images: images by the names that were asked for, where they are others.
    """

    image: str
    env: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)


class PodmanContainer:
    """One container of podman.

    Args:
        spec: what was started.
        id_: podman's name of it.
        engine: whose it is.
        cgroups: its control groups, by controller; "" for the unified ones.
        log: the file that gets what it prints.
    """

    def __init__(
        self, spec: Spec, id_: str, engine: PodmanContainers, cgroups: Mapping[str, Path], log: Path
    ) -> None:
        self.spec = spec
        self.id = id_
        self._engine = engine
        self._cgroups = cgroups
        self._log = log
        self._starved = False
        loop = asyncio.get_running_loop()
        self._watch = loop.create_task(self._look())
        self._end = loop.create_task(self._wait())

    async def ended(self) -> Ended:
        """Wait for its end."""
        return await asyncio.shield(self._end)

    def freeze(self) -> None:
        """Take all CPU from it: by the kernel's freezer."""
        self._freezer(on=True)

    def thaw(self) -> None:
        """Give it CPU again."""
        self._freezer(on=False)

    def terminate(self) -> None:
        """Send SIGTERM to its first process."""
        self._signal("TERM")

    def kill(self) -> None:
        """Kill all of it."""
        self._signal("KILL")

    def _signal(self, name: str) -> None:
        self.thaw()  # a frozen process gets no signal
        self._engine.later("kill", "--signal", name, self.id)

    def _freezer(self, *, on: bool) -> None:
        with contextlib.suppress(OSError):  # it is gone
            if "freezer" in self._cgroups:
                word = "FROZEN" if on else "THAWED"
                (self._cgroups["freezer"] / "freezer.state").write_text(word)
            elif "" in self._cgroups:
                (self._cgroups[""] / "cgroup.freeze").write_text("1" if on else "0")

    async def _look(self) -> None:
        """Kill the container when the kernel has killed one of its processes for memory."""
        while not self._starved:
            if _kills(self._cgroups):
                self._starved = True
                self.kill()
            await asyncio.sleep(_LOOK)

    async def _wait(self) -> Ended:
        said = await self._engine.run("wait", self.id)
        self._starved = self._starved or _kills(self._cgroups) > 0
        self._watch.cancel()
        with contextlib.suppress(OSError):
            self._log.write_text((await self._engine.run("logs", self.id)).replace("\r\n", "\n"))
        await self._engine.run("rm", "--force", "--time", "0", self.id)
        self._engine.running.discard(self)
        code = int(said) if said.lstrip("-").isdigit() else 137
        if code > 128:
            return Ended(0, code - 128, self._starved)
        return Ended(code, 0, self._starved)


class PodmanContainers:
    """Where containers are podman's.

    Args:
        folder: where what they print is, and what they share.
        podman: which one.
    """

    def __init__(self, folder: Path, podman: Podman) -> None:
        self.folder = folder
        self.running: set[PodmanContainer] = set()
        self._podman = podman
        self._env = {**os.environ, **podman.env}
        self._label = f"outpost-emulator={secrets.token_hex(8)}"
        self._tasks: set[asyncio.Task[str]] = set()
        self._guard = subprocess.Popen(
            [sys.executable, "-S", "-c", _GUARD, self._label],
            stdin=subprocess.PIPE, env=self._env, start_new_session=True,
        )  # fmt: skip

    async def start(self, spec: Spec) -> PodmanContainer:
        """Start one.

        Raises:
            OSError: it cannot be started.
        """
        log = self.folder / f"{spec.id}.log"
        log.touch(mode=0o600)
        words = [*_CONFINED, "--name", spec.id, "--label", self._label]
        words += ["--memory", str(spec.memory), "--memory-swap", str(spec.memory)]
        words += ["--cpus", str(spec.cpu)]
        for mount in spec.mounts:
            shared = self.folder.parent / mount.source
            place = shared if mount.source else self.folder / spec.id / mount.path.strip("/")
            place.mkdir(parents=True, exist_ok=True)
            place.chmod(0o777)  # as Cloud Run has them: any user of the container may write
            words += ["--volume", f"{place}:{mount.path}:{'rw' if mount.writable else 'ro'}"]
        for name in spec.env:  # by name: values are nobody's business who lists processes
            words += ["--env", name if name not in os.environ else f"{name}={spec.env[name]}"]
        if spec.command:
            words += ["--entrypoint", json.dumps(spec.command)]
        image = self._podman.images.get(spec.image, self._podman.image)
        id_ = await self.run("run", "--detach", *words, image, *spec.args, env=spec.env)
        pid = (await self.run("inspect", "--format", "{{.State.Pid}}", id_)).strip()
        container = PodmanContainer(spec, id_, self, _cgroups(pid), log)
        self.running.add(container)
        return container

    def alive(self) -> list[Container]:
        """Return those that run."""
        return list(self.running)

    async def close(self) -> None:
        """Kill whatever still runs, and let the guard go."""
        for container in list(self.running):
            container.kill()
        await asyncio.gather(*(each.ended() for each in list(self.running)))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        await asyncio.to_thread(self._guard.wait)

    def later(self, *words: str) -> None:
        """Run podman, and do not wait."""

        async def run() -> str:
            with contextlib.suppress(OSError):  # it is gone
                await self.run(*words)
            return ""

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self, *words: str, env: Mapping[str, str] | None = None) -> str:
        """Run podman to its end, and return what it prints.

        Raises:
            OSError: it failed.
        """
        own = {**(env or {}), **self._env}
        process = await asyncio.create_subprocess_exec(
            "podman", *words, env=own, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        if process.returncode:
            raise OSError(f"podman {words[0]}: {err.decode(errors='replace').strip()[-500:]}")
        if words[0] == "logs":
            return (out + err).decode(errors="replace")
        return out.decode().strip()


def _cgroups(pid: str) -> dict[str, Path]:
    """Return the control groups of a process: by controller, or "" for the unified one."""
    found = {}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            for name in names.split(","):
                place = Path("/sys/fs/cgroup", name, path.lstrip("/"))
                if place.is_dir() and path != "/":
                    found[name] = place
    return found


def _kills(cgroups: Mapping[str, Path]) -> int:
    """Return how many processes the kernel has killed there for want of memory."""
    for name, file in (("memory", "memory.oom_control"), ("", "memory.events")):
        if name in cgroups:
            with contextlib.suppress(OSError, ValueError):
                for line in (cgroups[name] / file).read_text().splitlines():
                    word, _, number = line.partition(" ")
                    if word == "oom_kill":
                        return int(number)
    return 0
