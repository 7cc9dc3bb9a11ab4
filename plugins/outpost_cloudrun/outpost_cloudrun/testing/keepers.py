"""The keeper of an outpost, as somebody who tries things has to find and end it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import time
from pathlib import Path
from typing import Final

from outpost_cloudrun.keeper import place
from outpost_core.backend import BuildContext
from outpost_shared import keeping

#: Seconds in which a keeper that was told to end has ended.
_ENDS: Final = 15.0


def signal_keeper(state: Path, number: int) -> bool:
    """Send a signal to the keeper of an outpost; False where none answers.

    Args:
        state: the outpost's state folder.
        number: which signal.
    """
    path = place.socket_of(BuildContext(state_dir=state))
    if path is None:
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as line:
        line.connect(str(path))
        size = struct.calcsize("3i")  # unix(7), SO_PEERCRED
        peer = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        os.kill(struct.unpack("3i", peer)[0], number)
        return True
    return False


def end_keeper(state: Path) -> None:
    """End the outpost's keeper, which would wait a while for the next command."""
    if not state.is_dir():
        return
    lock = place.lock_of(BuildContext(state_dir=state))
    end = time.monotonic() + _ENDS
    told = False
    while keeping.is_kept(lock) and time.monotonic() < end:
        told = told or signal_keeper(state, signal.SIGTERM)
        time.sleep(0.05)
