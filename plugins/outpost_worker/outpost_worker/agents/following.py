"""Follows an agent's output while it comes: the records in it go to the agent's reader.

Between the records there may be the agent's standard error, anything at all, and the end may be
cut off. Nothing here raises on what is read, and memory stays bounded by `LINE_LIMIT`.
"""

from __future__ import annotations

import json
import time
from typing import Any

from outpost_worker.folder import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from outpost_worker.agents.record import Reader

#: A longer line is passed over: it is some tool's output, never a record that counts.
LINE_LIMIT = 4 * 1024 * 1024
#: Seconds between two showings of what the agent has used so far, and between two looks at what
#: it writes beside its output.
SHOW_EVERY = 3.0

_decoder = json.JSONDecoder()


def parse(line: bytes) -> dict[str, Any] | None:
    """Parse the JSON object in a line; standard error may stand before and after it."""
    start = 0 if line.startswith(b"{") else line.find(b'{"type"')
    if start < 0:
        return None
    try:
        value, _ = _decoder.raw_decode(line[start:].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


class Follower:
    """Cuts a stream into lines and hands the records on.

    Args:
        reader: who is told of them.

    Attributes:
        defect: what went wrong with the first record that its reader could not take.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.defect: Exception | None = None
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if not self._skipping:
                self._line(line)
            self._skipping = False
        if len(self._rest) >= LINE_LIMIT:
            self._rest, self._skipping = b"", True

    def close(self) -> None:
        """Take what is left: a last line without an end."""
        if self._rest and not self._skipping:
            self._line(self._rest)
        self._rest = b""

    def _line(self, line: bytes) -> None:
        if any(needle in line for needle in self.reader.needles):
            record = parse(line)
            if record is not None:
                try:
                    self.reader.see(record)
                    if self.reader.final:
                        self.reader.usage()  # what is told as the whole is not unsaid later
                except Exception as error:  # noqa: BLE001 - the next record may be a better one
                    self.defect = self.defect or error
                return
        if not line.startswith(b"{"):
            self.reader.plain(line)


class Watch:
    """What the supervisor of an agent with a known output has to do because of what it says.

    Args:
        reader: reads its output.
        limits: of the order.

    Attributes:
        shown: what the agent had used at the last look; None while nothing is known.
        defect: what went wrong in reading, first; it goes on all the same.
    """

    def __init__(self, reader: Reader, limits: Mapping[str, Any]) -> None:
        self.reader = reader
        self._follower = Follower(reader)
        self._grace = float(limits.get("final_grace", 60.0))
        self._budget: float | None = limits.get("max_agent_cost_usd")
        self._final_at = 0.0
        self._spent = False
        self.shown: dict[str, Any] | None = None
        self.defect: Exception | None = None
        self._show_at = time.monotonic() + SHOW_EVERY

    def feed(self, data: bytes) -> None:
        """Take what the agent printed; a defect here is no reason to end its work."""
        self._follower.feed(data)
        self.defect = self.defect or self._follower.defect
        self._safely(self._take_note)

    def news(self) -> bool:
        """Look what the agent has used so far; whether that is more than was shown."""
        self._show_at = time.monotonic() + SHOW_EVERY
        before = self.shown
        self._safely(self._look)
        return self.shown != before

    def _look(self) -> None:
        if not self.reader.final:
            self.reader.look()
        self._take_note()
        self.shown = self.reader.usage()

    def _safely(self, step: Callable[[], object]) -> None:
        """Do a step of reading; what goes wrong in it is noted in the end, whatever it is."""
        try:
            step()
        except Exception as error:  # noqa: BLE001
            self.defect = self.defect or error

    @property
    def final(self) -> bool:
        """Whether the agent has reported its end, as far as it has said."""
        return self.reader.final

    def due(self) -> list[tuple[float, str]]:
        """Return what is to be done, and at which moment."""
        due = [(self._show_at, "usage")]
        if self._final_at and self._grace:
            due.append((self._final_at + self._grace, "final"))
        if self._spent:
            due.append((0.0, "budget_reached"))
        return due

    def close(self, log: str) -> dict[str, Any]:
        """Return what the agent said, all in all; see `agents.record.Reader.answer`.

        Args:
            log: path of the worker's log.
        """
        self._follower.close()
        self.defect = self.defect or self._follower.defect
        if not self.reader.final:
            self._safely(self.reader.look)
        self._safely(lambda: self._end(log))
        try:
            return self.reader.answer()
        except Exception as error:  # noqa: BLE001
            self.defect = self.defect or error
            from outpost_worker.agents import reader

            return reader("plain").answer()

    def _end(self, log: str) -> None:
        try:
            with open(files.open_plain(log), "rb") as file:
                self.reader.end(file)
        except OSError:
            pass

    def _take_note(self) -> None:
        if not self.reader.final:
            self._final_at = 0.0
            if self._budget is not None:
                cost = (self.reader.usage() or {}).get("cost_usd") or 0.0
                self._spent = cost > 0 and cost >= self._budget
        elif not self._final_at:  # what is done is done, whatever it cost
            self._final_at = time.monotonic()
            self._spent = False
