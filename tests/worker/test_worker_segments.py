"""Logs that outlive their machine: every byte at its offset, whichever machine it came from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from outpost_core.errors import UnreachableError
from outpost_worker.record import segments
from outpost_worker.record.cells import Kept, Objects
from outpost_worker.record.places import volume_logs
from outpost_worker.record.segments import KeptLog, LogKeeper, gap


class Away:
    """Objects at a place that can be away."""

    def __init__(self, inner: Objects) -> None:
        self.inner = inner
        self.away = False
        self.loses = False  # the answer to what was done all the same

    def put(self, name: str, data: bytes) -> bool:
        if self.loses:
            self.inner.put(name, data)
        if self.away or self.loses:
            raise UnreachableError("away")
        return self.inner.put(name, data)

    def get(self, name: str) -> bytes | None:
        return self.inner.get(name)

    def names(self, folder: str, start: str = "") -> list[Kept]:
        if self.away:
            raise UnreachableError("away")
        return self.inner.names(folder, start)

    def drop(self, name: str) -> None:
        self.inner.drop(name)


@pytest.fixture
def place(tmp_path: Path) -> Away:
    return Away(volume_logs(str(tmp_path / "volume")))


@pytest.fixture
def kept(place: Away) -> KeptLog:
    return KeptLog(place, "gt-1.1", "a" * 16)


class Machine:
    """A worker's log on one machine, and what keeps it."""

    def __init__(self, folder: Path, place: Objects, leg: int, held: int = 0) -> None:
        folder.mkdir()
        self.log = folder / "output.log"
        self.place = KeptLog(place, "gt-1.1", "a" * 16)
        self.begin = self.place.begin(leg, held)
        self.keeper = LogKeeper(self.place, leg, self.begin, str(self.log))

    def say(self, data: bytes) -> None:
        with self.log.open("ab") as file:
            file.write(data)
        self.log.chmod(0o600)


def all_of(kept: KeptLog, most: int = 1000) -> bytes:
    """Read a log to its end, in pieces."""
    got = b""
    while data := kept.read(len(got), most):
        assert len(data) <= most
        got += data
    return got


def test_a_log_is_put_when_it_is_large_or_old_or_whole(
    tmp_path: Path, place: Away, kept: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Machine(tmp_path / "one", place, 1)
    assert one.keeper.step()
    assert kept.end() == 0
    one.say(b"abc")
    assert not one.keeper.step()
    assert kept.end() == 0
    monkeypatch.setattr(segments, "AGE", 0.0)
    assert one.keeper.step()
    assert all_of(kept) == b"abc"
    monkeypatch.setattr(segments, "AGE", 1e9)
    one.say(os.urandom(segments.FULL + 5))
    assert one.keeper.step()
    one.say(b"the end")
    assert not one.keeper.step()
    assert one.keeper.step(whole=True)
    assert all_of(kept) == one.log.read_bytes()
    assert kept.read(2, 5) == one.log.read_bytes()[2:3]  # up to the end of an object
    sizes = [each.size for each in place.names(f"{'a' * 16}/logs/gt-1.1")]
    assert sizes == [3, segments.FULL + 5, 7]
    kept.forget()
    assert place.names(f"{'a' * 16}/logs/gt-1.1") == []
    assert kept.read(0) == b""


def test_no_object_is_larger_than_the_largest(
    tmp_path: Path, place: Away, kept: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "LARGEST", 100)
    one = Machine(tmp_path / "one", place, 1)
    one.say(bytes(range(256)))
    assert one.keeper.step(whole=True)
    assert [each.size for each in place.names(f"{'a' * 16}/logs/gt-1.1")] == [100, 100, 56]
    assert all_of(kept) == bytes(range(256))


def test_a_place_that_was_away_is_caught_up_with(
    tmp_path: Path, place: Away, kept: KeptLog
) -> None:
    one = Machine(tmp_path / "one", place, 1)
    place.away = True
    for _ in range(3):
        one.say(b"x" * 1000)
        with pytest.raises(UnreachableError):
            one.keeper.step(whole=True)
    place.away = False
    assert one.keeper.step(whole=True)
    one.say(b"lost answer")
    place.loses = True
    with pytest.raises(UnreachableError):
        one.keeper.step(whole=True)
    place.loses = False
    one.say(b", and more")
    assert one.keeper.step(whole=True)
    assert all_of(kept) == one.log.read_bytes()


def test_a_keeper_that_is_made_anew_goes_on_where_the_last_one_was(
    tmp_path: Path, place: Away, kept: KeptLog
) -> None:
    one = Machine(tmp_path / "one", place, 1)
    for text in (b"one\n", b"two\n"):
        one.say(text)
        one.keeper.step(whole=True)
    one.keeper = LogKeeper(one.place, 1, 0, str(one.log))
    one.say(b"three\n")
    assert one.keeper.step(whole=True)
    assert all_of(kept) == b"one\ntwo\nthree\n"
    assert len(place.names(f"{'a' * 16}/logs/gt-1.1")) == 3


def test_a_machine_that_was_frozen_adds_nothing_once_the_next_leg_has_begun(
    tmp_path: Path, place: Away, kept: KeptLog
) -> None:
    one = Machine(tmp_path / "one", place, 1)
    one.say(b"first leg\n")
    one.keeper.step(whole=True)
    assert all_of(kept) == b"first leg\n"
    two = Machine(tmp_path / "two", place, 2)
    assert two.begin == 10
    one.say(b"what a frozen machine says late\n")
    one.keeper.step(whole=True)
    assert all_of(kept) == b"first leg\n"
    two.say(b"second\n")
    two.keeper.step(whole=True)
    assert all_of(kept) == b"first leg\nsecond\n"
    again = KeptLog(place, "gt-1.1", "a" * 16)
    assert again.begin(2, 1000) == 10  # it has begun there
    assert LogKeeper(again, 2, 10, str(two.log)).step()
    three = Machine(tmp_path / "three", place, 3)
    assert three.begin == 10 + len(b"what a frozen machine says late\n")
    three.say(b"third")
    three.keeper.step(whole=True)
    whole = all_of(kept)
    assert whole.startswith(b"first leg\nsecond\n")
    assert whole.endswith(b"third")
    assert len(whole) == three.begin + 5


def test_what_is_put_while_a_leg_begins_is_before_it(
    tmp_path: Path, place: Away, kept: KeptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Machine(tmp_path / "one", place, 1)
    one.say(b"abc")
    one.keeper.step(whole=True)
    put = place.put
    late = []

    def first_the_other(name: str, data: bytes) -> bool:
        if not late:
            late.append(1)
            one.say(b"defg")
            one.keeper.step(whole=True)
        return put(name, data)

    monkeypatch.setattr(place, "put", first_the_other)
    two = Machine(tmp_path / "two", place, 2)
    assert two.begin == 7
    two.say(b"!")
    two.keeper.step(whole=True)
    assert all_of(kept) == b"abcdefg!"


def test_bytes_that_were_lost_while_somebody_had_read_them_are_a_gap_of_their_number(
    tmp_path: Path, place: Away, kept: KeptLog
) -> None:
    one = Machine(tmp_path / "one", place, 1)
    one.say(b"kept")
    one.keeper.step(whole=True)
    two = Machine(tmp_path / "two", place, 2, held=4 + 100)
    two.say(b"on")
    two.keeper.step(whole=True)
    whole = all_of(kept)
    assert whole == b"kept" + gap(100) + b"on"
    assert b"100 bytes of the log were lost" in whole
    for offset in (0, 5, 50, 103, 104):  # the same byte at each offset, wherever one begins
        assert kept.read(offset, 3) == whole[offset:][: len(kept.read(offset, 3))]
        assert kept.read(offset, 3)
    assert gap(3) == b"   "


def test_foreign_names_are_left_out(place: Away, kept: KeptLog) -> None:
    for name in ("x", "1-1", "0" * 20 + "-x", "0" * 20 + "-", "٣" * 20 + "-1", "0" * 20 + "-1.tmp"):
        place.put(f"{'a' * 16}/logs/gt-1.1/{name}", b"planted")
    assert kept.read(0) == b""
    assert kept.end() == 0


_KEEPER = """
import sys
from outpost_worker.record.places import volume_logs
from outpost_worker.record.segments import KeptLog, LogKeeper
kept = KeptLog(volume_logs(sys.argv[1]), "gt-1.1", "a" * 16)
begin = kept.begin(2, 0)
LogKeeper(kept, 2, begin, sys.argv[2]).step(whole=True)
"""


@pytest.mark.parametrize("point", ["record.leg_begun", "record.segment_put"])
def test_a_machine_that_dies_while_it_keeps_a_log_keeps_every_byte_once(
    tmp_path: Path, place: Away, kept: KeptLog, point: str
) -> None:
    one = Machine(tmp_path / "one", place, 1)
    one.say(b"first\n")
    one.keeper.step(whole=True)
    log = tmp_path / "output.log"
    for text, fault in ((b"second\n", point), (b"third\n", "")):
        with log.open("ab") as file:
            file.write(text)
        log.chmod(0o600)
        argv = [sys.executable, "-c", _KEEPER, str(tmp_path / "volume"), str(log)]
        done = subprocess.run(argv, check=False, env={**os.environ, "OUTPOST_FAULT": fault})
        assert done.returncode == (-9 if fault else 0)
    assert all_of(kept) == b"first\nsecond\nthird\n"
