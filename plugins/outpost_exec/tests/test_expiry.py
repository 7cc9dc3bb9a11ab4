"""What is kept for other machines has an end: copies that nobody uses, and left transfers."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from rigkit import DEADLINE, Laptop, PipeOutpost, at_laptop

from outpost_core.types import State, WorkerStatus
from outpost_worker.hosting import expiry
from outpost_worker.hosting.copies import Hosted


def _age(laptop: Laptop, days: float = 31.0) -> Path:
    """Let nobody have asked for the copy for some days; return it."""
    (copy,) = laptop.copies()
    then = time.time() - days * 86400.0
    os.utime(copy / "outpost-known", (then, then))
    return copy


async def _done_and_cleaned(laptop: Laptop) -> PipeOutpost:
    outpost = laptop.open()
    status = await laptop.run(outpost, laptop.order("echo new >new.txt"))
    assert status.state is State.DONE, status
    assert (await outpost.outpost_clean("gt-1.1", force=False)).removed
    return outpost


def test_a_copy_that_nobody_uses_goes_and_comes_again_with_the_next_order(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = await _done_and_cleaned(laptop)
        copy = _age(laptop)
        expiry.sweep(laptop.far)
        assert laptop.copies() == []
        assert not copy.with_suffix(".lock").exists()
        assert list((laptop.far / "rigs").iterdir()) == []
        assert list((laptop.far / "hosted" / expiry.INCOMING).iterdir()) == []
        status = await laptop.run(outpost, laptop.order("echo two >two.txt", issue="gt-2"))
        assert status.state is State.DONE, status
        assert laptop.copies() == [copy]

    at_laptop(tmp_path, test)


def test_the_first_list_of_a_server_removes_it(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        await _done_and_cleaned(laptop)
        _age(laptop)
        await laptop.open().outpost_list()
        deadline = time.monotonic() + DEADLINE
        while laptop.copies():  # it happens behind the list
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    at_laptop(tmp_path, test)


def test_a_copy_that_was_asked_for_lately_stays(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = await _done_and_cleaned(laptop)
        copy = _age(laptop)
        await laptop.run(outpost, laptop.order("true", issue="gt-2"))
        await outpost.outpost_clean("gt-2.1", force=False)
        expiry.sweep(laptop.far)
        assert laptop.copies() == [copy]

    at_laptop(tmp_path, test)


def test_a_copy_that_a_worker_refers_to_stays(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        await laptop.run(laptop.open(), laptop.order("true"))
        copy = _age(laptop)
        expiry.sweep(laptop.far)
        assert laptop.copies() == [copy]

    at_laptop(tmp_path, test)


def test_a_copy_with_work_that_is_not_home_stays(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        await outpost.outpost_spawn(laptop.order("echo new >new.txt"))
        await laptop.ended_there("gt-1.1")
        assert await outpost.call("clean", {"worker": "gt-1.1", "force": True})
        copy = _age(laptop)
        expiry.sweep(laptop.far)
        assert laptop.copies() == [copy]

    at_laptop(tmp_path, test)


def test_what_a_clean_rescued_keeps_a_copy_only_until_it_is_home(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        order = laptop.order("echo half >half.txt; exit 3")

        def failed(status: WorkerStatus) -> bool:
            return status.state is State.FAILED

        await outpost.outpost_spawn(order)
        await laptop.until(outpost, failed, order.worker)
        work = laptop.far / "workers" / order.worker / "work"
        (work / "late.txt").write_text("late\n")
        cleaned = await outpost.outpost_clean(order.worker, force=False)
        assert cleaned.rescued == f"refs/outpost/{order.worker}"
        copy = _age(laptop)
        assert Hosted(laptop.far, copy.stem).unsent() == {}
        expiry.sweep(laptop.far)
        assert laptop.copies() == []
        assert laptop.rig.show(cleaned.rescued, "late.txt") == "late"

    at_laptop(tmp_path, test)


def test_a_mirror_that_a_rescued_repository_borrows_from_stays(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        await _done_and_cleaned(laptop)
        _age(laptop)
        (mirror,) = (laptop.far / "rigs").glob("*.git")
        info = laptop.far / "rescued" / "gt-9.1.broken-git-1" / "objects" / "info"
        info.mkdir(parents=True)
        (info / "alternates").write_text(f"{mirror}/objects\n")
        expiry.sweep(laptop.far)
        assert laptop.copies() == []
        assert mirror.exists()

    at_laptop(tmp_path, test)


def test_a_removal_that_was_killed_is_completed_and_never_taken_for_a_copy(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = await _done_and_cleaned(laptop)
        copy = _age(laptop)
        gone = copy.parent / expiry.INCOMING / f"{copy.stem}.gone"
        gone.parent.mkdir(exist_ok=True)
        copy.rename(gone)  # killed right here
        (gone / "HEAD").unlink()  # or in the middle of the removal
        assert (await laptop.run(outpost, laptop.order("true", issue="gt-2"))).state is State.DONE
        os.utime(gone, (0, 0))
        expiry.sweep(laptop.far)
        assert not gone.exists()
        assert laptop.copies() == [copy]

    at_laptop(tmp_path, test)


def test_uploads_and_packs_that_nobody_finishes_go_after_a_day(tmp_path: Path) -> None:
    for name in (expiry.INCOMING, expiry.OUTGOING):
        for age, left in ((2.0, "old"), (0.5, "new")):
            place = tmp_path / "hosted" / name / left
            place.mkdir(parents=True)
            (place / "pack").write_bytes(b"x")
            then = time.time() - age * 86400.0
            os.utime(place, (then, then))
    expiry.sweep(tmp_path)
    found = sorted(path.name for path in (tmp_path / "hosted").glob("*/*"))
    assert found == ["new", "new"]


def test_a_lock_that_went_with_its_copy_keeps_nobody_out_and_lets_nobody_in_twice(
    tmp_path: Path,
) -> None:
    hosted = Hosted(tmp_path, f"rig-{'0' * 32}")
    with hosted.lock():
        hosted.unlock_for_good()
        with hosted.lock():  # a new file: the old one is of nobody
            assert hosted.path.with_suffix(".lock").exists()


def test_a_copy_that_took_an_upload_says_so_again(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = await _done_and_cleaned(laptop)
        (copy,) = laptop.copies()
        digest = (copy / "outpost-known").read_text().partition("\n")[0]
        asked = {"key": copy.stem, "sha256": "0" * 64}
        again = await outpost.call("x-rig-take", {**asked, "digest": digest})
        other = await outpost.call("x-rig-take", {**asked, "digest": "1" * 64})
        assert again == {"missing": None}
        assert isinstance(other, dict)
        assert other["missing"]

    at_laptop(tmp_path, test)
