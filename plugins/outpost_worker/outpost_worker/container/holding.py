"""The claim that a worker of this machine runs by: kept alive, and its end put on record."""

from __future__ import annotations

import dataclasses
import os

from outpost_core.errors import UnreachableError
from outpost_core.types import Result
from outpost_worker.folder import files
from outpost_worker.record.kinds import TAIL, Claim, Found, Record, SupersededError
from outpost_worker.record.segments import LogKeeper


class Holding:
    """One worker's claim. Calls block, and raise as those of `Record` do.

    Args:
        record: where the claim stands.
        claim: the claim.
        folder: the worker's folder.
        log: keeps its log elsewhere; None where logs are not kept.
        base: bytes of its log that were printed before it was on this machine.
    """

    def __init__(
        self, record: Record, claim: Claim, folder: str, log: LogKeeper | None = None, base: int = 0
    ) -> None:
        self.claim = claim
        self.log = log
        self._record = record
        self._folder = folder
        self._base = base

    def ask(self, *, beat: bool) -> Found | None:
        """Return what stands; None where another machine has the worker, or nobody any more.

        Args:
            beat: say also that the owner lives.
        """
        try:
            found = self._record.beat(self.claim) if beat else self._record.read(self.claim.worker)
        except SupersededError:
            return None
        stands = found is not None and found.claim.id == self.claim.id and found.result is None
        return found if stands else None

    def finish(self, result: Result) -> Result | None:
        """Put the worker's end on record, with all of its log, and read it back.

        Where it raises, nothing is lost, and it is to be tried again.

        Args:
            result: how it ended here.

        Returns:
            The result that stands; None where another machine has the worker.
        """
        if self.log is not None:
            self.log.step(whole=True)
        if result.log_bytes is not None:
            result = dataclasses.replace(result, log_bytes=self._base + result.log_bytes)
        try:
            self._record.finish(self.claim, result, self._tail())
            found = self._record.read(self.claim.worker)
        except SupersededError:
            return None
        if found is None or found.result is None:
            raise UnreachableError("its record does not show how it ended")
        return found.result

    def _tail(self) -> bytes:
        """Return the end of the log that is here."""
        try:
            fd = files.open_plain(os.path.join(self._folder, files.LOG))
        except FileNotFoundError:
            return b""
        try:
            size = os.fstat(fd).st_size
            return os.pread(fd, TAIL, max(size - TAIL, 0))
        finally:
            os.close(fd)
