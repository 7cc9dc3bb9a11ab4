"""What a container is to those who run it: the front, jobs and instances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Mount:
    """A folder that a container has from outside of its image.

    Attributes:
        path: where it sees it.
        source: "" for one of its own, gone with it; else `nfs/SERVER/PATH` or `buckets/NAME`,
            which is shared.
        writable: whether it may write there.
    """

    path: str
    source: str = ""
    writable: bool = True


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A container that is to be started.

    Attributes:
        id: its own name; folders and containers are called so.
        image: the image's name.
        command: program instead of the image's; empty for the image's own.
        args: arguments.
        env: its whole environment, secrets among it.
        memory: limit in bytes.
        cpu: vCPUs.
        port: where it is to listen; 0 for a job.
        mounts: folders from outside of its image.
    """

    id: str
    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    memory: int = 512 << 20
    cpu: float = 1.0
    port: int = 0
    mounts: tuple[Mount, ...] = ()


@dataclass(frozen=True)
class Ended:
    """How a container ended.

    Attributes:
        code: exit code; 0 beside a signal.
        signal: the signal that ended it; 0 for none.
        memory: it was killed since it needed more memory than it may.
    """

    code: int
    signal: int = 0
    memory: bool = False

    @property
    def well(self) -> bool:
        """Whether it ended as programs end that did what they were to do."""
        return self.code == 0 and self.signal == 0


class Container(Protocol):
    """A container that was started."""

    spec: Spec

    async def ended(self) -> Ended:
        """Wait for its end; any number may wait."""

    def freeze(self) -> None:
        """Take all CPU from it."""

    def thaw(self) -> None:
        """Give it CPU again."""

    def terminate(self) -> None:
        """Send SIGTERM to its first process."""

    def kill(self) -> None:
        """Kill all of it."""


class Containers(Protocol):
    """Where containers run."""

    async def start(self, spec: Spec) -> Container:
        """Start one.

        Raises:
            OSError: it cannot be started.
        """

    def alive(self) -> list[Container]:
        """Return those that run."""

    async def close(self) -> None:
        """End everything that still runs, and leave nothing behind."""
