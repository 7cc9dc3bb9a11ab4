"""What a supervisor knows of being told to stop."""

from __future__ import annotations

import time

from outpost_worker.folder import files

#: Seconds of grace that can be meant.
LONGEST = 30 * 86400.0


class Stopping:
    """Whether the worker is to end, since when, and how quickly.

    Args:
        grace: seconds between TERM and KILL when nobody says otherwise.

    Attributes:
        reason: "" while nobody asked; `stopped` for a request, `terminated` for a bare signal.
        at: moment (monotonic) of the first asking.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.reason = ""
        self.at = 0.0

    def asked(self) -> bool:
        """Whether the worker is to end."""
        return bool(self.reason)

    def look(self, folder: str) -> bool:
        """Take note of a request in the worker's folder; returns whether there is one."""
        request = files.load(folder, files.STOP)
        if request is None:
            return False
        grace = request.get("grace", self.grace)
        if type(grace) in (int, float) and 0 <= grace <= LONGEST:  # else somebody else wrote it
            self.grace = float(grace)
        # the machine may be about to end, which is no end that anybody wanted
        self.tell("terminated" if request.get("reason") == "terminated" else "stopped")
        return True

    def tell(self, reason: str) -> None:
        """Take note that somebody wants the worker to end."""
        self.at = self.at or time.monotonic()
        self.reason = reason

    def due(self, patience: float) -> float:
        """Return the moment when what may continue for `patience` seconds must end."""
        return self.at + patience if self.reason else float("inf")
