"""The workers of an outpost that are written down here: a folder for each."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from outpost_cloudrun.keeper.disk import NotWrittenError, writing
from outpost_cloudrun.keeper.workerrecord import WorkerRecord
from outpost_core import wire
from outpost_core.errors import NotFoundError, OutpostError, UsageError
from outpost_core.types import Order, split_worker_id
from outpost_shared import faults, jsonfiles, private

_ORDER: Final = "order.json"
#: How the names of folders begin that are being removed; no worker's does.
_TRASH: Final = ".trash-"


class Records:
    """The records of one outpost.

    Args:
        root: the outpost's own state folder, private; made when the first one is.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._workers = root / "workers"

    def all(self) -> Iterator[WorkerRecord]:
        """Yield every record that can be read."""
        try:
            names = sorted(entry.name for entry in self._workers.iterdir())
        except FileNotFoundError:
            return
        for name in names:
            try:
                yield self.open(name)
            except OutpostError:
                continue

    def open(self, worker: str) -> WorkerRecord:
        """Return the record of a worker.

        Raises:
            NotFoundError: there is none.
            OutpostError: it cannot be read.
        """
        try:
            split_worker_id(worker)  # what is no id could lead out of the folder
        except UsageError as error:
            raise NotFoundError(error.message) from None
        folder = self._workers / worker
        if not folder.is_dir():
            raise NotFoundError(f"{worker} is not a worker of {self.root.name}")
        found = jsonfiles.load(str(folder), _ORDER)
        try:
            order = wire.from_json(Order, found)
        except UsageError as error:
            raise OutpostError(f"{folder / _ORDER} cannot be read: {error.message}") from error
        if order.worker != worker:
            raise OutpostError(f"{folder / _ORDER} is the order of another worker")
        return WorkerRecord(folder, order)

    def create(self, order: Order) -> WorkerRecord:
        """Write an order down, so that it is found whatever happens; or return what is there.

        Raises:
            ConflictError: the same worker is there with another order.
            NotWrittenError: the disk said no; nothing of it is here.
            NotPrivateError: somebody else could change the state folder.
        """
        private.claim(str(self.root))
        try:
            record = self.open(order.worker)
            record.check(order)
            return record
        except NotFoundError:
            pass
        folder, staged = self._workers / order.worker, self.root / "staging" / uuid.uuid4().hex
        try:
            with writing(folder / _ORDER):
                self._write(order, staged)
                staged.rename(folder)
                jsonfiles.sync_folder(str(self._workers))
        except NotWrittenError:
            shutil.rmtree(staged, ignore_errors=True)
            if not folder.exists():
                raise
            # another thread was quicker
            record = self.open(order.worker)
            record.check(order)
            return record
        faults.point("keeper.recorded")
        return self.open(order.worker)

    def _write(self, order: Order, staged: Path) -> None:
        private.make(str(staged))
        private.make(str(self._workers))
        said: Any = wire.to_json(order)
        jsonfiles.store(str(staged), _ORDER, said, sync=True)
        jsonfiles.sync_folder(str(staged))

    def remove(self, record: WorkerRecord) -> None:
        """Forget a worker.

        Raises:
            OSError: its folder cannot be moved away.
        """
        trash = self._workers / f"{_TRASH}{uuid.uuid4().hex}"
        record.folder.rename(trash)  # which needs no room on the disk
        faults.point("keeper.discarded")
        shutil.rmtree(trash, ignore_errors=True)

    def tidy(self) -> None:
        """Remove what killed keepers have left half made or half removed; at the start alone."""
        for folder in (self.root / "staging", *self._workers.glob(f"{_TRASH}*")):
            shutil.rmtree(folder, ignore_errors=True)
