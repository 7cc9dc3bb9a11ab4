"""A volume that machines share: what is there once is there once, whatever they saw before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from recordkit import OWNER, claim

from outpost_core.errors import UnreachableError
from outpost_worker.record import volume
from outpost_worker.record.cells import MovedError
from outpost_worker.record.kinds import RecordBrokenError, RecordRefusedError
from outpost_worker.record.places import on_volume
from outpost_worker.record.volume import Volume, VolumeCells


@pytest.fixture
def cells(tmp_path: Path) -> VolumeCells:
    return VolumeCells(str(tmp_path / "volume"))


def test_values_that_nobody_needs_are_removed_and_their_numbers_go_on(
    cells: VolumeCells, tmp_path: Path
) -> None:
    version = ""
    for number in range(volume._KEPT + 30):
        version = cells.swap("a/b", version, b"%d" % number)
    assert len(list((tmp_path / "volume/a/b").iterdir())) == volume._KEPT
    cells.drop("a/b", version)
    assert cells.look(["a/b"]) == {}
    with pytest.raises(MovedError):
        cells.swap("a/b", version, b"late")
    again = cells.swap("a/b", "", b"new")
    assert cells.look(["a/b"])["a/b"].data == b"new"
    assert int(again.partition(".")[0]) == volume._KEPT + 32


def test_one_that_stood_still_for_ages_wins_no_number_that_was_removed(
    cells: VolumeCells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cells.swap("a", "", b"first")
    monkeypatch.setattr(volume, "_KEPT", 3)
    look = VolumeCells._cell
    stands = look(cells, "a")
    version = first
    for number in range(10):
        version = cells.swap("a", version, b"%d" % number)
    monkeypatch.setattr(VolumeCells, "_cell", lambda *_: stands)  # what it saw before
    with pytest.raises(MovedError):
        cells.swap("a", first, b"late")
    monkeypatch.setattr(VolumeCells, "_cell", look)
    assert cells.look(["a"])["a"].version == version
    assert len(list((tmp_path / "volume/a").iterdir())) == 3


def test_a_link_whose_answer_was_lost_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def answers_late(*args: object, **more: object) -> None:
        link(*args, **more)  # type: ignore[arg-type]
        link(*args, **more)  # type: ignore[arg-type]  # as NFS asks again

    monkeypatch.setattr(os, "link", answers_late)
    assert Volume(str(tmp_path / "volume")).link("x", b"1")


def test_a_planted_value_is_broken(tmp_path: Path) -> None:
    record = on_volume(str(tmp_path / "volume"), OWNER)
    record.claim(claim())
    folder = tmp_path / "volume" / OWNER / "records" / "gt-1.1"
    (folder / "000000000002").symlink_to("/etc/hostname")
    with pytest.raises(RecordBrokenError, match="too large, or of another kind"):
        record.read("gt-1.1")
    record.forget("gt-1.1")
    assert record.read("gt-1.1") is None


def test_a_volume_that_is_not_there_says_so(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises((UnreachableError, RecordRefusedError)) as caught:
        on_volume(str(blocked / "volume"), OWNER).claim(claim())
    assert str(blocked) in str(caught.value)
