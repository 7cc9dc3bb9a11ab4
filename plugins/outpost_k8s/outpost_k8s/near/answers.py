"""What the programs in pods say of their workers: a few are asked at each look."""

from __future__ import annotations

import contextlib
import random
import time
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError
from outpost_k8s.near import seen
from outpost_k8s.near.reasons import explain
from outpost_k8s.objects import names, told

if TYPE_CHECKING:
    from collections.abc import Iterable

    from outpost_core.types import Order, WorkerStatus
    from outpost_k8s.near.behind import Behind
    from outpost_k8s.near.look import Seen
    from outpost_k8s.near.pod import Pods

#: Pods that one list asks, seconds that it waits for them, and for which their answers are new.
ASKED: Final = 16
_ANSWER: Final = 4.0
#: Seconds that it waits for those that only their pods can tell of.
_MATTERS: Final = 12.0
_NEW: Final = 5.0
#: Seconds for which a pod is not asked again that has not answered.
_AGAIN: Final = 10.0


class Answers:
    """Asks pods, and knows what they have said.

    Args:
        pods: the channels into them.
        behind: where answers come that are late.
    """

    def __init__(self, pods: Pods, behind: Behind) -> None:
        self._pods = pods
        self._behind = behind
        self._known: dict[str, tuple[float, WorkerStatus]] = {}
        self._unheard: dict[str, float] = {}  # worker → when its pod was asked in vain

    async def ask(self, open_: Iterable[Seen]) -> dict[str, WorkerStatus]:
        """Ask pods that run how their workers are; return what is known of that.

        Args:
            open_: workers that have not ended; those whose pod does not run are left out.
        """
        now = time.monotonic()
        running = {
            one.worker: one
            for one in open_
            if one.job is not None
            and seen.is_running(one.pod)
            and explain(one.job, one.pod).detail == ""
        }
        self._known = {w: known for w, known in self._known.items() if w in running}
        self._unheard = {w: at for w, at in self._unheard.items() if w in running}
        due = [
            one for one in running.values()
            if now - self._known.get(one.worker, (-_NEW, None))[0] >= _NEW
            and now - self._unheard.get(one.worker, -_AGAIN) >= _AGAIN
        ]  # fmt: skip
        random.shuffle(due)
        due.sort(key=lambda one: (not _matters(one), self._known.get(one.worker, (0.0,))[0]))
        # one that is late goes on behind: a busy node starts the program in its pod slowly, and
        # whoever broke that off at each look would never hear of it
        due = due[:ASKED]
        for one in due:
            if _task(one) not in self._behind:
                self._behind.start(_task(one), self._ask(one))
        await self._behind.wait(map(_task, due), _ANSWER)
        await self._behind.wait(map(_task, filter(_matters, due)), _MATTERS - _ANSWER)
        return {worker: status for worker, (_, status) in self._known.items()}

    async def _ask(self, one: Seen) -> None:
        assert one.pod is not None
        self._unheard[one.worker] = time.monotonic()
        with contextlib.suppress(OutpostError):
            for status in await self._pods.of(one.worker, one.pod).outpost_list():
                if status.id == one.worker:
                    self._known[one.worker] = (time.monotonic(), status)
                    self._unheard.pop(one.worker, None)


def _task(one: Seen) -> str:
    return f"{one.worker} answer"


def _matters(one: Seen) -> bool:
    """Whether only its pod can say what a worker does: it is asked first."""
    order: Order | None = told.order_of(one.job) if one.job is not None else None
    hosted = seen.annotation(one.job, names.HOSTED) == "true"
    return hosted or (order is not None and order.agent.interactive)
