"""Containers as families of processes: fast, and on any Linux machine."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from outpost_cloudrun.testing.containers import Ended, Mount, Spec
from outpost_cloudrun.testing.knobs import Image

#: What a container does not share with the machine, but for a program search path.
_PATH = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"


class ProcessContainer:
    """One family of processes, held by its box.

    Args:
        spec: what was started.
        box: its first process.
        folder: all that it may write; removed with it.
        forget: called when it has ended.
    """

    def __init__(
        self,
        spec: Spec,
        box: asyncio.subprocess.Process,
        folder: Path,
        forget: Callable[[ProcessContainer], None],
    ) -> None:
        self.spec = spec
        self.folder = folder
        self._box = box
        self._forget = forget
        self._end = asyncio.get_running_loop().create_task(self._wait())

    async def ended(self) -> Ended:
        """Wait for its end."""
        return await asyncio.shield(self._end)

    def freeze(self) -> None:
        """Stop every process of it."""
        self._say("freeze")

    def thaw(self) -> None:
        """Let every process of it go on."""
        self._say("thaw")

    def terminate(self) -> None:
        """Send SIGTERM to its program."""
        self._say("term")

    def kill(self) -> None:
        """Kill every process of it."""
        self._say("kill")

    def _say(self, word: str) -> None:
        if self._box.stdin is not None and not self._box.stdin.is_closing():
            self._box.stdin.write(f"{word}\n".encode())

    async def _wait(self) -> Ended:
        assert self._box.stdout is not None
        line = await self._box.stdout.readline()
        await self._box.wait()
        if self._box.stdin is not None:
            self._box.stdin.close()
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)
        self._forget(self)
        if not line:
            return Ended(0, 9)
        end = json.loads(line)
        return Ended(end["code"], end["signal"], end["memory"])


class ProcessContainers:
    """Where containers are families of processes.

    Args:
        folder: where their folders are, and what they print: `<id>.log`.
        image: says what stands for an image.
    """

    def __init__(self, folder: Path, image: Callable[[str], Image]) -> None:
        self.folder = folder
        self._image = image
        self._running: set[ProcessContainer] = set()

    async def start(self, spec: Spec) -> ProcessContainer:
        """Start one.

        Raises:
            OSError: it cannot be started.
        """
        folder = self.folder / spec.id
        for part in ("home", "tmp"):
            (folder / part).mkdir(parents=True, mode=0o700)
        log = self.folder / f"{spec.id}.log"
        log.touch(mode=0o600)
        image = self._image(spec.image)
        own = {
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "PATH": _PATH,
            "LANG": "C.UTF-8",
        }
        mounts = [(mount.path, self._place(mount, folder)) for mount in spec.mounts]
        order = {
            "argv": [*(spec.command or image.entrypoint), *spec.args],
            "env": {**own, **image.env, **_moved(spec.env, mounts)},
            "folder": str(folder / "home"),
            "log": str(log),
            "memory": spec.memory,
        }
        box = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "outpost_cloudrun.testing.box",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=self.folder,
        )  # fmt: skip
        assert box.stdin is not None
        box.stdin.write(json.dumps(order).encode() + b"\n")
        container = ProcessContainer(spec, box, folder, self._running.discard)
        self._running.add(container)
        return container

    def _place(self, mount: Mount, folder: Path) -> Path:
        """Return the folder that stands for a mounted one, made."""
        shared = self.folder.parent / mount.source
        own = folder / "mounts" / mount.path.strip("/").replace("/", "-")
        place = shared if mount.source else own
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        return place

    async def close(self) -> None:
        """Kill whatever still runs."""
        for container in list(self._running):
            container.kill()
        await asyncio.gather(*(each.ended() for each in list(self._running)))


def _moved(env: Mapping[str, str], mounts: list[tuple[str, Path]]) -> dict[str, str]:
    """Return an environment that names the folders which stand for the mounted ones.

    Processes have the file system of the machine, so that a path as of the container is not there.
    """
    moved = dict(env)
    for path, place in mounts:
        for name, value in moved.items():
            if value == path or value.startswith(f"{path}/"):
                moved[name] = str(place) + value.removeprefix(path)
    return moved
