"""Containers as families of processes: fast, and on any Linux machine."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from outpost_cloudrun.testing.containers import Container, Ended, Mount, Spec
from outpost_cloudrun.testing.knobs import Image

#: What a container does not share with the machine, but for a program search path.
_PATH = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"


class Box:
    """A family of processes, held by its first one (`box`).

    Args:
        process: that one.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._end = asyncio.get_running_loop().create_task(self._wait())

    @classmethod
    async def start(
        cls, argv: Sequence[str], env: Mapping[str, str], folder: Path, log: Path, memory: int
    ) -> Box:
        """Start a program.

        Args:
            argv: the program.
            env: its whole environment.
            folder: where it begins.
            log: the file that gets what it prints.
            memory: limit in bytes; 0 for none.
        """
        order = {
            "argv": list(argv),
            "env": dict(env),
            "folder": str(folder),
            "log": str(log),
            "memory": memory,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "outpost_cloudrun.testing.box",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=folder,
        )  # fmt: skip
        box = cls(process)
        box.say(json.dumps(order))
        return box

    def say(self, word: str) -> None:
        """Have something done to the family: `freeze`, `thaw`, `term`, `hup`, `kill`."""
        if self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(f"{word}\n".encode())

    async def ended(self) -> Ended:
        """Wait for its end; any number may wait."""
        return await asyncio.shield(self._end)

    async def _wait(self) -> Ended:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        if not line:
            return Ended(0, 9)
        end = json.loads(line)
        return Ended(end["code"], end["signal"], end["memory"])


class ProcessContainer:
    """A container that is a family of processes.

    Args:
        spec: what was started.
        box: its family.
        folder: all that it may write; removed with it.
        forget: called when it has ended.
    """

    def __init__(
        self, spec: Spec, box: Box, folder: Path, forget: Callable[[ProcessContainer], None]
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
        self._box.say("freeze")

    def thaw(self) -> None:
        """Let every process of it go on."""
        self._box.say("thaw")

    def terminate(self) -> None:
        """Send SIGTERM to its program."""
        self._box.say("term")

    def kill(self) -> None:
        """Kill every process of it."""
        self._box.say("kill")

    async def _wait(self) -> Ended:
        ended = await self._box.ended()
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)
        self._forget(self)
        return ended


class ProcessContainers:
    """Where containers are families of processes.

    Args:
        folder: where their folders are, and what they print: `<id>.log`.
        image: says what stands for an image.
    """

    def __init__(self, folder: Path, image: Callable[[str], Image]) -> None:
        self.folder = folder
        self._image = image
        self.running: set[ProcessContainer] = set()

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
        box = await Box.start(
            [*(spec.command or image.entrypoint), *spec.args],
            {**own, **image.env, **_moved(spec.env, mounts)},
            folder / "home",
            log,
            spec.memory,
        )
        container = ProcessContainer(spec, box, folder, self.running.discard)
        self.running.add(container)
        return container

    def _place(self, mount: Mount, folder: Path) -> Path:
        """Return the folder that stands for a mounted one, made."""
        shared = self.folder.parent / mount.source
        own = folder / "mounts" / mount.path.strip("/").replace("/", "-")
        place = shared if mount.source else own
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        return place

    def alive(self) -> list[Container]:
        """Return those that run."""
        return list(self.running)

    async def close(self) -> None:
        """Kill whatever still runs."""
        for container in list(self.running):
            container.kill()
        await asyncio.gather(*(each.ended() for each in list(self.running)))


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
