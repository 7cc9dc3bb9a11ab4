"""A full disk, one without inodes and a read-only one: people can look, stop and clean."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
OUTPOST = str(Path(sys.executable).with_name("outpost"))


class Disk:
    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.env = os.environ | {
            "OUTPOST_STATE": str(folder), "HOME": str(home), "XDG_CONFIG_HOME": str(home),
        }  # fmt: skip

    def run(self, *argv: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        ran = subprocess.run(
            [OUTPOST, *argv], env=self.env, cwd=self.env["HOME"], capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert code is None or ran.returncode == code, (argv, ran.stdout, ran.stderr)
        return ran

    def states(self) -> dict[str, str]:
        found = json.loads(self.run("workers", "--all", "--json").stdout)["workers"]
        return {worker["id"]: worker["status"] for worker in found}

    def until(self, worker: str, status: str) -> None:
        deadline = time.monotonic() + 90
        while (seen := self.states()).get(worker) != status:
            assert time.monotonic() < deadline, seen
            time.sleep(0.2)

    def fill(self) -> None:
        for size in (1 << 20, 4096):
            try:
                with (self.folder / f"x{size}").open("wb", buffering=0) as file:
                    while True:
                        file.write(b"x" * size)
            except OSError:
                pass


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    folder, home = tmp_path / "disk", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    options = "size=30m,nr_inodes=4000,mode=700"
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True, timeout=20
    )
    made = Disk(folder, home)
    config = home / "outpost" / "outposts.yaml"
    config.parent.mkdir()
    config.write_text("outposts:\n  - {name: local, type: local, mode: process, disk_floor: 0}\n")
    try:
        yield made
    finally:
        for name in list(folder.glob("x*")):
            name.unlink(missing_ok=True)
        subprocess.run([OUTPOST, "stop", "hold"], env=made.env, check=False, timeout=60,
                       capture_output=True)  # fmt: skip
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=20)


def prepare(disk: Disk) -> None:
    disk.run("spawn", "ended", "--no-rig", "--wait", "--", "echo", "said this")
    disk.run("spawn", "hold", "--no-rig", "--", "sleep", "300")
    disk.until("hold.1", "working")


def look(disk: Disk) -> None:
    assert disk.states() == {"ended.1": "done", "hold.1": "working"}
    assert "done" in disk.run("show", "ended").stdout
    assert "said this" in disk.run("logs", "ended").stdout
    said = disk.run("workers").stderr
    assert "cannot be written" in said
    refused = disk.run("spawn", "more", "--no-rig", "--", "true", code=None)
    assert refused.returncode not in (0, 70)
    assert "cannot be written" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_full_disk_lets_people_look_stop_and_clean(disk):
    prepare(disk)
    disk.fill()
    look(disk)
    disk.run("stop", "hold.1")
    disk.until("hold.1", "stopped")
    assert "cleaned" in disk.run("clean", "ended.1", "hold.1").stdout
    assert not list((disk.folder / "outposts/local/workers").iterdir())
    for name in disk.folder.glob("x*"):
        name.unlink()
    disk.run("spawn", "more", "--no-rig", "--wait", "--", "true")


def test_a_disk_without_inodes_lets_people_look_and_clean(disk):
    prepare(disk)
    try:
        for n in range(5000):
            (disk.folder / f"x{n}").touch()
    except OSError:
        pass
    look(disk)
    assert "cleaned" in disk.run("clean", "ended.1").stdout


def test_a_ledger_on_a_full_disk_that_never_was_there(disk):
    disk.fill()
    assert disk.states() == {}


def test_a_read_only_disk_can_be_read(disk):
    prepare(disk)
    mount = ["mount", "-o", "remount,ro", str(disk.folder)]
    disk.run("stop", "hold.1")
    disk.until("hold.1", "stopped")
    deadline = time.monotonic() + 30
    while subprocess.run(mount, check=False, capture_output=True, timeout=20).returncode:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    try:
        assert disk.states() == {"ended.1": "done", "hold.1": "stopped"}
        assert "said this" in disk.run("logs", "ended").stdout
        assert "read-only" in disk.run("workers").stderr
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk.folder)], check=True, timeout=20)


def test_a_cleaned_worker_still_has_its_log_unless_it_is_purged(disk):
    disk.run("spawn", "ended", "--no-rig", "--wait", "--", "echo", "said this")
    assert "would be cleaned" in disk.run("clean", "--dry-run").stdout
    assert "nothing to clean" in disk.run("clean", "--older-than", "1d").stdout
    assert (disk.folder / "outposts/local/workers/ended.1").exists()
    assert "cleaned" in disk.run("clean").stdout
    assert not (disk.folder / "outposts/local/workers/ended.1").exists()
    assert "said this" in disk.run("logs", "ended").stdout
    assert "done" in disk.run("show", "ended").stdout
    assert "cleaned" in disk.run("clean", "ended.1", "--purge").stdout
    assert not (disk.folder / "logs/ended.1.log").exists()


def test_what_is_done_for_long_is_cleaned_by_itself(disk):
    config = Path(disk.env["XDG_CONFIG_HOME"]) / "outpost" / "outposts.yaml"
    disk.run("spawn", "ended", "--no-rig", "--wait", "--", "echo", "said this")
    config.write_text(config.read_text() + "defaults:\n  clean_after: 1s\n")
    time.sleep(1.5)
    assert "cleaned 1" in disk.run("workers").stderr
    assert not (disk.folder / "outposts/local/workers/ended.1").exists()
    assert "said this" in disk.run("logs", "ended").stdout
