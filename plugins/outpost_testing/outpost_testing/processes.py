"""What runs on this machine, as `/proc` tells it. Processes that end under way are passed over."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator


def entries() -> Iterator[Path]:
    """Yield the folder in `/proc` of every process but this one; it may be gone when it is read."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            yield entry


def command_lines() -> Iterator[tuple[Path, bytes]]:
    """Yield each process's folder in `/proc`, and its arguments, each ended by a NUL."""
    for entry in entries():
        try:
            line = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        yield entry, line


def mentioning(mark: str | Path) -> dict[int, str]:
    """Return the processes that have a text in their arguments or in their environment.

    Args:
        mark: the text, as a folder or a secret.

    Returns:
        The command line of each, by process id.
    """
    found = {}
    for entry, line in command_lines():
        with suppress(OSError):
            if os.fsencode(mark) in line or os.fsencode(mark) in (entry / "environ").read_bytes():
                found[int(entry.name)] = line.replace(b"\0", b" ").decode(errors="replace")
    return found


def outliving(mark: str | Path, seconds: float = 20) -> dict[int, str]:
    """Return what `mentioning` still finds once those processes had `seconds` to end."""
    deadline = time.monotonic() + seconds
    while (found := mentioning(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def watcher(agent: int, parent: int, mark: str) -> int:
    """Return the process that watches over an agent, as this side numbers it.

    Args:
        agent: what the agent takes for its own number; in a namespace of processes it has another.
        parent: what it takes for its parent's.
        mark: a text in its environment that no other worker has.

    Raises:
        LookupError: there is no such agent.
    """
    table = {int(entry.name): _numbers(entry) for entry in entries()}
    for pid in mentioning(mark):
        parents, numbers = table.get(pid, (0, []))
        if numbers[-1:] != [agent] or len(numbers) < 2:
            continue
        while len(numbers) > 1:  # as long as it is inside
            pid = parents
            parents, numbers = table[pid]
        return pid
    if table.get(agent, (0, []))[0] == parent:
        return parent
    raise LookupError(f"no process {agent} has {mark} in its environment")


def _numbers(entry: Path) -> tuple[int, list[int]]:
    """Return the parent of a process, and its numbers in its namespaces, from ours inwards."""
    parent, numbers = 0, []
    with suppress(OSError):
        for line in (entry / "status").read_text().splitlines():
            if line.startswith("PPid:"):
                parent = int(line.split()[1])
            elif line.startswith("NSpid:"):
                numbers = [int(number) for number in line.split()[1:]]
    return parent, numbers


class ArgumentsWatch:
    """Watches, as a context, the arguments of all processes for a text that must not be there.

    Args:
        text: what to look for.

    Attributes:
        seen: ids of processes that had it.
    """

    def __init__(self, text: str) -> None:
        self.seen: set[int] = set()
        self._text = text.encode()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._look()  # on a busy machine the only look may have begun before the process did

    def _watch(self) -> None:
        while not self._done.is_set():
            self._look()

    def _look(self) -> None:
        for entry, line in command_lines():
            if self._text in line:
                self.seen.add(int(entry.name))
