"""What ran in which container and for how long, and what a worker has cost by that."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from outpost_cloudrun import price
from outpost_cloudrun.keeper import steady
from outpost_cloudrun.keeper.records import Records
from outpost_cloudrun.price import Run
from outpost_core.errors import SpawnRefusedError

if TYPE_CHECKING:
    from outpost_cloudrun.keeper.workerrecord import WorkerRecord
    from outpost_cloudrun.options import CloudRunOptions
    from outpost_core.types import Json

#: What of a worker's course holds its runs: container, beginning, end, requests of each.
_RUNS: Final = "runs"
#: Runs of one worker that are kept: a leg is one, and each container that it was found in. Of
#: more, the first become one: a container may say another name at each request.
_MOST: Final = 200


class Runs:
    """The runs of an outpost's workers.

    A worker's runs are in its record. Those of others count because containers are shared.

    Args:
        options: the outpost's.
        root: its state folder.
    """

    def __init__(self, options: CloudRunOptions, root: Path) -> None:
        self._options = options
        self._root = root
        self._known: dict[str, list[Run]] | None = None

    def asked(self, record: WorkerRecord, container: str, begun: float, heard: float) -> None:
        """Note a request that a container has answered; blocks.

        Args:
            record: whose it is.
            container: which one.
            begun: when it was sent.
            heard: when the worker was last heard of before; its run elsewhere ended then.
        """
        runs = _of(record)
        last = runs[-1] if runs else None
        if last is not None and last.ended is None and last.container in ("", container):
            runs[-1] = _with(last, requests=last.requests + 1)
        else:
            if last is not None and last.ended is None:
                runs[-1] = _with(last, ended=max(last.begun, min(heard, begun)))
            runs.append(Run(worker=record.worker, container=container, begun=begun))
        self._keep(record, runs)

    def made(self, record: WorkerRecord) -> None:
        """Note that something is about to be made for a worker alone; blocks.

        It is paid for from then on, whether or not anybody ever reaches a program in it.
        """
        if not _of(record):
            self._keep(record, [Run(worker=record.worker, begun=steady.now(), requests=0)])

    def begun(self, record: WorkerRecord) -> float | None:
        """Return since when a worker is paid for; None before."""
        runs = _of(record)
        return runs[0].begun if runs else None

    def cost(self, record: WorkerRecord) -> float | None:
        """Return what a worker that ends now has cost, in USD; None when nobody knows; blocks."""
        now = steady.now()
        mine = _of(record)
        if not mine:
            return None
        if mine[-1].ended is None:
            most = self._longest(record)
            mine[-1] = _with(mine[-1], ended=mine[-1].begun + steady.since(mine[-1].begun, most))
            self._keep(record, mine)
        known = self._all()
        known[record.worker] = mine
        since = mine[0].begun - max(price.IDLE, self._options.warm_for)
        runs = [
            run
            for one in known.values()
            for run in one
            if run.worker == record.worker or (run.ended or now) >= since
        ]
        return price.bill(self._options, runs, now=now).get(record.worker)

    def _longest(self, record: WorkerRecord) -> float:
        """Return the most seconds that a worker was there: nobody holds it for longer."""
        try:
            return price.longest(self._options, record.order)
        except SpawnRefusedError:  # the options were others when it was taken
            return math.inf

    def _keep(self, record: WorkerRecord, runs: list[Run]) -> None:
        while len(runs) > _MOST:  # the first beginning counts, and gaps are paid rather than lost
            first, second = runs[0], runs[1]
            requests = first.requests + second.requests
            runs[:2] = [_with(first, ended=second.ended or second.begun, requests=requests)]
        if self._known is not None:
            self._known[record.worker] = runs
        kept: list[Json] = [[run.container, run.begun, run.ended, run.requests] for run in runs]
        record.remember(**{_RUNS: kept})

    def _all(self) -> dict[str, list[Run]]:
        if self._known is None:
            self._known = {one.worker: _of(one) for one in Records(self._root).all()}
        return self._known


def _of(record: WorkerRecord) -> list[Run]:
    said = record.course.get(_RUNS)
    return [*_read(record.worker, said)] if isinstance(said, list) else []


def _read(worker: str, said: Iterable[Json]) -> Iterable[Run]:
    for one in said:
        if not isinstance(one, list) or len(one) != 4:
            continue
        container, begun, ended, requests = one
        if isinstance(begun, int | float) and isinstance(requests, int):
            yield Run(
                worker=worker,
                container=str(container),
                begun=float(begun),
                ended=float(ended) if isinstance(ended, int | float) else None,
                requests=requests,
            )


def _with(run: Run, *, ended: float | None = None, requests: int | None = None) -> Run:
    return Run(
        worker=run.worker,
        container=run.container,
        begun=run.begun,
        ended=run.ended if ended is None else ended,
        requests=run.requests if requests is None else requests,
    )
