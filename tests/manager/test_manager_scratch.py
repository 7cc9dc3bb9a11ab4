"""Throw-away folders of processes that were killed go when the next one is made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from outpost_manager.scratch import scratch

STAYS = """
import pathlib, sys, time
from outpost_manager.scratch import scratch
with scratch("outpost-x-", pathlib.Path(sys.argv[1])) as folder:
    (folder / "file").write_text("here")
    print(folder, flush=True)
    time.sleep(300)
"""


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STAYS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        kept = tmp_path / "outpost-x-kept-abcdefgh"
        strange = tmp_path / "outpost-x-abcdefgh"  # without a lock: who made it?
        link = tmp_path / "outpost-x-hgfedcba"
        for folder in (kept, strange):
            folder.mkdir()
        link.symlink_to(left)
        os.utime(left / ".in-use", (0, 0))
        with scratch("outpost-x-", tmp_path) as mine:
            assert mine.is_dir()
            assert (left / "file").exists()  # its process lives
        assert not mine.exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    os.utime(left / ".in-use")
    with scratch("outpost-x-", tmp_path):
        assert left.exists()  # so young that it may be on the way to its lock
    os.utime(left / ".in-use", (0, 0))
    with scratch("outpost-x-", tmp_path):
        assert not left.exists()
    assert {kept, strange, link} == {*tmp_path.iterdir()}


def test_a_folder_is_for_its_user_alone_and_goes_with_its_block(tmp_path: Path) -> None:
    with scratch("outpost-y-", tmp_path) as folder:
        assert (folder.stat().st_mode & 0o777) == 0o700
    assert not folder.exists()
