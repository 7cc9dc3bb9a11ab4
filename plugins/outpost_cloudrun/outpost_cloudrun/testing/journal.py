"""What the emulator did, in order; tests read it from any thread."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One thing that happened.

    Attributes:
        at: seconds since the epoch.
        what: such as `instance.started`, `request` or `admin`.
        about: what else is known of it.
    """

    at: float
    what: str
    about: dict[str, object]


class Journal:
    """The log of one emulator.

    Args:
        path: a file that gets every entry as a line of JSON.
    """

    def __init__(self, path: Path) -> None:
        self._entries: list[Entry] = []
        self._more = threading.Condition()
        self._file = path.open("a", encoding="utf-8")

    def write(self, what: str, **about: object) -> None:
        """Note that something happened."""
        entry = Entry(time.time(), what, about)
        line = json.dumps({"at": round(entry.at, 3), "what": what, **about}, default=str)
        with self._more:
            self._entries.append(entry)
            if not self._file.closed:
                self._file.write(line + "\n")
                self._file.flush()
            self._more.notify_all()

    def entries(self, what: str = "", **about: object) -> list[Entry]:
        """Return what happened.

        Args:
            what: only entries of this name; "" for all.
            about: only entries about which this is said.
        """
        with self._more:
            return [each for each in self._entries if _fits(each, what, about)]

    def wait(
        self, what: str, *, least: int = 1, timeout: float = 60, **about: object
    ) -> list[Entry]:
        """Return entries once there are enough of them; blocks.

        Raises:
            TimeoutError: there were not, in `timeout` seconds.
        """
        with self._more:
            if not self._more.wait_for(
                lambda: sum(_fits(each, what, about) for each in self._entries) >= least, timeout
            ):
                raise TimeoutError(f"{what} {about} did not happen {least} times")
        return self.entries(what, **about)

    def close(self) -> None:
        """Close the file; what happened can still be read."""
        with self._more:
            self._file.close()


def _fits(entry: Entry, what: str, about: dict[str, object]) -> bool:
    return (not what or entry.what == what) and all(
        entry.about.get(key) == value for key, value in about.items()
    )
