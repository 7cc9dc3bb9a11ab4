"""Logs that outlive their machine: in objects that never change, with offsets that stay.

::

    <owner>/logs/<worker>/<offset>-<leg>        bytes of the log from that offset on
    <owner>/logs/<worker>/<offset>-<leg>.begin  where a further leg begins

An object is put when it has `FULL` bytes or its first byte is `AGE` seconds old. A worker's log on
its own machine is whole, so what a place did not take is put later: nothing waits for a bucket.

A leg begins where the one before has ended, as far as that is kept, and says so before it puts
anything. What a machine of the leg before still puts after that (it was frozen, say) does not
count, since everybody who sees it sees the beginning too. Bytes that were lost with a machine while
somebody had read them are shown as a gap of just their number.
"""

from __future__ import annotations

import os
import time
from typing import Final, NamedTuple

from outpost_core.types import split_worker_id
from outpost_shared import faults
from outpost_worker.folder import files
from outpost_worker.record.cells import Objects

#: Bytes of an object that is put at once, and of the largest.
FULL: Final = 256 << 10
LARGEST: Final = 4 << 20
#: Seconds that a byte waits at most until it is put.
AGE: Final = 10.0
_DIGITS: Final = 20
_BEGIN: Final = ".begin"


class Segment(NamedTuple):
    """An object of a log: where its bytes begin and end, and whose they are."""

    begin: int
    end: int
    leg: int
    name: str


class KeptLog:
    """What is kept of the log of one worker. Its calls raise as those of `Objects` do.

    Args:
        objects: where.
        worker: its id.
        owner: id of the ledger that ordered it; "" for none.
    """

    def __init__(self, objects: Objects, worker: str, owner: str = "") -> None:
        split_worker_id(worker)
        self._objects = objects
        self._folder = f"{owner}/logs/{worker}" if owner else f"logs/{worker}"
        self._seen: list[Segment] = []
        self._cached: tuple[str, bytes] = ("", b"")

    def end(self) -> int:
        """Return the offset after the last byte that is kept."""
        return max((each.end for each in self._look()), default=0)

    def read(self, offset: int, most: int = 1 << 20) -> bytes:
        """Return bytes of the log; empty where none is kept from there on yet.

        Args:
            offset: of the first byte.
            most: bytes at most.
        """
        for look_again in (False, True):
            known = 0  # up to where there are bytes
            for each in self._look() if look_again else self._seen:
                if each.begin <= offset < each.end:
                    data = self._content(each)
                    return data[offset - each.begin :][: min(most, each.end - offset)]
                if known <= offset < each.begin:  # the machine that had these bytes is gone
                    return gap(each.begin - known)[offset - known :][:most]
                known = each.end
        return b""

    def forget(self) -> None:
        """Remove all of it."""
        for each in self._objects.names(self._folder):
            self._objects.drop(f"{self._folder}/{each.name}")
        self._seen = []

    # --- for the writer --------------------------------------------------------------------------

    def begin(self, leg: int, held: int = 0) -> int:
        """Let a leg begin; returns its offset. May be done again, with the same answer.

        Args:
            leg: from 1; the first one begins at 0.
            held: bytes of the log that somebody has, so that they are never other ones.
        """
        if leg == 1:
            return 0
        before = -1
        while True:
            told = [_parsed(name, size) for name, size in self._objects.names(self._folder)]
            known = [each for each in told if each]
            mine = [each.begin for each in known if each.leg == leg]
            if mine and any(each.leg == leg and not _is_begin(each) for each in known):
                return max(each.begin for each in known if each.leg == leg and _is_begin(each))
            last = max([held, *mine, *(each.end for each in known if each.leg < leg)])
            if last == before:
                return last
            self._objects.put(f"{self._folder}/{last:0{_DIGITS}d}-{leg}{_BEGIN}", b"")
            faults.point("record.leg_begun")
            before = last

    def put(self, begin: int, leg: int, data: bytes) -> int:
        """Keep bytes of a leg; returns the offset after the last one that is kept there.

        Args:
            begin: the offset of the first.
            leg: whose they are.
            data: at most `LARGEST` bytes.
        """
        name = f"{begin:0{_DIGITS}d}-{leg}"
        if self._objects.put(f"{self._folder}/{name}", data):
            faults.point("record.segment_put")
            return begin + len(data)
        for each in self._objects.names(self._folder, name):
            if each.name == name:  # before this process was killed, perhaps
                return begin + each.size
        return begin

    def ends_at(self, begin: int, leg: int) -> int:
        """Return the offset up to which a leg that begins somewhere is kept without a gap."""
        at = begin
        for each in self._objects.names(self._folder, f"{begin:0{_DIGITS}d}"):
            segment = _parsed(*each)
            if segment and segment.leg == leg and segment.begin == at and not _is_begin(segment):
                at = segment.end
        return at

    # --- inside ----------------------------------------------------------------------------------

    def _look(self) -> list[Segment]:
        """Return the segments that count, in order; none reaches into the next leg."""
        told = [_parsed(name, size) for name, size in self._objects.names(self._folder)]
        known = sorted(each for each in told if each)
        begins: dict[int, int] = {}
        for each in known:
            if _is_begin(each):
                begins[each.leg] = max(each.begin, begins.get(each.leg, 0))
        counting = []
        for each in known:
            ends = min([begin for leg, begin in begins.items() if leg > each.leg], default=each.end)
            if _is_begin(each) or each.begin < begins.get(each.leg, 0) or each.begin >= ends:
                continue
            counting.append(each._replace(end=min(each.end, ends)))
        self._seen = counting
        return counting

    def _content(self, segment: Segment) -> bytes:
        if self._cached[0] != segment.name:
            data = self._objects.get(f"{self._folder}/{segment.name}") or b""
            self._cached = (segment.name, data)
        data = self._cached[1]
        wanted = segment.end - segment.begin
        return data if len(data) >= wanted else data + gap(wanted - len(data))


class LogKeeper:
    """Keeps the log of a worker that is at work on this machine.

    Args:
        kept: where.
        leg: the worker's leg here.
        begin: the offset at which it begins (`KeptLog.begin`).
        path: the log on this machine.
    """

    def __init__(self, kept: KeptLog, leg: int, begin: int, path: str) -> None:
        self._kept = kept
        self._leg = leg
        self._begin = begin
        self._path = path
        self._at = -1  # nobody has looked how far it came before
        self._since = 0.0

    def step(self, *, whole: bool = False) -> bool:
        """Put what is due; whether all that is in the log is kept now.

        Call it about once a second, and at the end with `whole`. Where it raises, nothing is
        lost: the next call puts it.

        Args:
            whole: put all there is, however young.
        """
        if self._at < 0:
            self._at = self._kept.ends_at(self._begin, self._leg)
        while True:
            data = self._new()
            if not data:
                self._since = 0.0
                return True
            now = time.monotonic()
            self._since = self._since or now
            if not whole and len(data) < FULL and now - self._since < AGE:
                return False
            self._at = self._kept.put(self._at, self._leg, data)
            self._since = 0.0

    def _new(self) -> bytes:
        """Return what the log has that is not kept yet."""
        try:
            log = files.open_plain(self._path)
        except OSError:  # there is none yet, or it is none of ours
            return b""
        try:
            return os.pread(log, LARGEST, self._at - self._begin)
        finally:
            os.close(log)


def gap(size: int) -> bytes:
    """Return so many bytes in the place of bytes that are lost."""
    said = f"\n[outpost: {size} bytes of the log were lost with their machine]\n".encode("ascii")
    return said.ljust(size)[:size] if size >= len(said) else b" " * size


def _parsed(name: str, size: int) -> Segment | None:
    """Return the segment of an object; None for an object that is none of ours."""
    begin, _, leg = name.removesuffix(_BEGIN).partition("-")
    whole = f"{begin}{leg}"
    if len(begin) != _DIGITS or not (whole.isascii() and whole.isdigit()) or not 0 < len(leg) < 6:
        return None
    at = int(begin)
    return Segment(at, at if name.endswith(_BEGIN) else at + size, int(leg), name)


def _is_begin(segment: Segment) -> bool:
    return segment.name.endswith(_BEGIN)
