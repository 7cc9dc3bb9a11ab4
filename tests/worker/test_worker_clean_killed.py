"""Cleaning that is killed in the middle is finished by the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from outpost_worker.recovery import cleaning

CLEAN = """
import sys
from pathlib import Path
from outpost_worker.recovery import cleaning
cleaning.clean(Path(sys.argv[1]), Path(sys.argv[2]), force=False)
"""


def test_what_was_discarded_before_a_kill_is_removed_by_the_next(far):
    folder = Path(far.publish(far.order("/bin/true")))
    far.start(folder).wait(30)
    root = folder.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", CLEAN, str(root), str(folder)],
        env={**os.environ, "OUTPOST_FAULT": "clean.discarded"},
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not folder.exists()
    assert os.listdir(root / cleaning.TRASH), "it is out of the list, and not removed yet"
    assert cleaning.clean(root, folder, force=False).removed
    assert os.listdir(root / cleaning.TRASH) == []
