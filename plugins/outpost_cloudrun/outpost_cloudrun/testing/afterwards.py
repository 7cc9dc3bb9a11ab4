"""Clears up behind a demo that was killed. Run as a program, for as long as the demo lives.

A process that is killed cannot end the keeper of its outpost, which would look for workers for
ever. So another process waits for its end: it reads a pipe that only the demo holds open.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from outpost_cloudrun.testing.keepers import end_keeper
from outpost_shared.backoff import every

#: Seconds in which a keeper that was just being started, and whatever else still writes into the
#: folder, is there to be ended.
_LATE: Final = 10.0


@contextmanager
def cleared_up(folder: Path, state: Path) -> Iterator[None]:
    """See to it that nothing is left when this process is killed within the block.

    Args:
        folder: the demo's, which is removed then, unless `--keep` has named it so.
        state: the state folder of its outpost, whose keeper is ended then.
    """
    argv = [sys.executable, "-m", __name__, str(folder), str(state)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True
    ) as waiting:
        try:
            yield
        finally:
            waiting.kill()


def main(folder: str, state: str) -> None:
    """Wait for the end of whoever holds standard input, and clear up.

    Args:
        folder: see `cleared_up`.
        state: likewise.
    """
    sys.stdin.buffer.read()
    kept = Path(folder).name.startswith("outpost-demo-kept-")
    for _ in every(0.5, within=_LATE).tries():
        end_keeper(Path(state))
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
