"""A full disk: workers are followed, stopped and ended all the same, and nothing is started."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from farkit import far, order
from keeperkit import Desk, desk_at, until

from outpost_core.errors import OutpostError, SpawnRefusedError
from outpost_core.types import Order, State

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")


#: Counts its runs, and prints numbers for a while.
_NUMBERS = 'echo run >>"$RUNS"; for i in $(seq 1 40); do echo "number $i"; sleep 0.05; done'
_NUMBERED = "".join(f"number {i}\n" for i in range(1, 41)).encode()


def numbers(tmp_path: Path, issue: str = "gt-1", script: str = _NUMBERS) -> Order:
    return order(issue, script, env={"RUNS": str(tmp_path / "runs")})


def runs(tmp_path: Path) -> int:
    return (tmp_path / "runs").read_text().count("run")


class Disk:
    """A disk of 64 pages, for what a keeper writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.filling = folder / "filling"

    def fill(self, *, pages: int = 0) -> None:
        """Leave so many pages of 4 KiB."""
        with contextlib.suppress(OSError), self.filling.open("ab", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        if pages:
            os.truncate(self.filling, self.filling.stat().st_size - pages * 4096)

    def free(self) -> None:
        self.filling.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "near"
    folder.mkdir()
    options = "size=256k,mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def desk(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    with (
        far(tmp_path / "far") as server,
        desk_at(server, disk.folder, monkeypatch) as made,
    ):
        yield made


def test_a_worker_goes_on_and_its_output_is_whole_once_there_is_room(
    desk: Desk, disk: Disk, tmp_path: Path
) -> None:
    desk.spawn(numbers(tmp_path))
    (pid,) = desk.keepers()
    disk.fill()

    def says_so() -> bool:
        status = desk.status("gt-1.1")
        assert status is not None
        assert status.result is None, "nobody is told what is not written down"
        return "No space left on device" in status.detail and "gt-1.1/" in status.detail

    until(says_so, "the status says why nothing comes")
    desk.kill()  # the next one begins on the full disk
    assert desk.status("gt-1.1") is not None
    disk.free()
    result = desk.result("gt-1.1")
    assert (result.state, result.log_bytes) == (State.DONE, len(_NUMBERED))
    assert desk.log("gt-1.1") == _NUMBERED
    assert runs(tmp_path) == 1
    assert desk.keepers() != [pid]


def test_a_worker_is_stopped_and_cleaned_with_a_full_disk(
    desk: Desk, disk: Disk, tmp_path: Path
) -> None:
    ended, runner = tmp_path / "ended", numbers(tmp_path, script="sleep 600; true")
    desk.spawn(numbers(tmp_path, "gt-2", "true"))
    assert desk.result("gt-2.1").state is State.DONE
    desk.spawn(numbers(tmp_path, script=f"trap 'echo >{ended}; exit 1' TERM; sleep 600 & wait"))
    until(lambda: desk.status(runner.worker).state is State.WORKING, "it runs")  # type: ignore[union-attr]
    disk.fill()
    desk.asked(lambda o: o.outpost_stop(worker="gt-1.1", grace=5.0))
    until(ended.exists, "it was told to end")
    assert desk.asked(lambda o: o.outpost_clean(worker="gt-2.1", force=False)).removed
    assert desk.status("gt-2.1") is None
    disk.free()
    assert desk.result("gt-1.1").state is State.STOPPED


def test_nothing_is_started_that_cannot_be_written_down(
    desk: Desk, disk: Disk, tmp_path: Path
) -> None:
    desk.spawn(numbers(tmp_path, "gt-0", "true"))
    assert desk.result("gt-0.1").state is State.DONE
    refused: dict[str, SpawnRefusedError] = {}
    doubtful: list[OutpostError] = []
    orders = [numbers(tmp_path, f"gt-{pages + 1}", "echo run >>$RUNS") for pages in range(8)]
    for pages, one in enumerate(orders):
        disk.fill(pages=pages)
        try:
            desk.spawn(one)
        except SpawnRefusedError as error:
            refused[one.worker] = error
        except OutpostError as error:  # it was started, and that cannot be written down
            doubtful.append(error)
        disk.free()
    started = [one for one in orders if one.worker not in refused]
    assert started, "with some pages there is room enough"
    for one in started:
        desk.spawn(one)
        assert desk.result(one.worker).state is State.DONE
    assert runs(tmp_path) == len(started), "what was refused was not started"
    for worker, error in refused.items():
        assert desk.status(worker) is None, "another outpost may have it"
        assert f"{desk.context.state_dir}/workers/{worker}/" in error.message
        assert "df -h" in error.hint
    for error in [*refused.values(), *doubtful]:
        assert "No space left on device" in error.message
    files = {error.message.partition(" cannot")[0].rpartition("/")[2] for error in refused.values()}
    assert {"order.json", "course.json"} <= files
