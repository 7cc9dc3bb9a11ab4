"""The program of a pod: its streams are the log's, and its end is told whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import traceback
from typing import Final

from outpost_k8s.far.pod import Pod
from outpost_k8s.far.settings import Settings
from outpost_worker.folder import files

#: In the state folder: what goes wrong here, since nothing but the log is printed.
_OWN_LOG: Final = "run.log"


def run(settings: Settings) -> int:
    """Run the order of this pod to its end, and end this process: with 0 where it is done.

    Args:
        settings: of this program.
    """
    printed, said = os.dup(1), os.dup(2)
    own = os.open(settings.root / _OWN_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for fd in (1, 2):
        os.dup2(own, fd)
    pod = Pod(settings, printed)
    loop = asyncio.new_event_loop()
    try:
        code = loop.run_until_complete(pod.run())
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        sys.stderr.write(traceback.format_exc())
        code = pod.defect(error)
    if pod.trouble and not pod.printed:  # else whoever reads the log would take it for its end
        with contextlib.suppress(OSError):
            files.write_all(said, f"outpost: {pod.trouble}\n".encode("utf-8", "replace"))
    sys.stderr.flush()
    # a thread that hangs on a dead disk or line would keep this process
    os._exit(code)
