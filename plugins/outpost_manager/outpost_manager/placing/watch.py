"""Following what was placed: ask the outposts, bring the ledger up to date, wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from outpost_core.errors import NotFoundError, OutpostError, UnreachableError
from outpost_core.types import Health, Result, State, Worker, WorkerStatus
from outpost_manager.ledger.scaling import ASLEEP
from outpost_shared.backoff import Backoff
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_manager.fleet.fleet import Fleet
    from outpost_manager.fleet.resources import Presence
    from outpost_manager.ledger import AsyncLedger, Ledger
    from outpost_manager.mail.mail import Mail
    from outpost_manager.placing.recovery import Recovery

_log = Logger("placing")
#: Pauses between two looks at running workers, in seconds: short after a change, then longer.
POLL_MIN, POLL_MAX, POLL_GROWTH = 0.02, 1.0, 1.3


@dataclass(kw_only=True, eq=False)
class Watch:
    """Follows the workers of a fleet.

    Args:
        fleet: the outposts.
        ledger: the record.
        recovery: finishes spawns that a crash interrupted.
        mail: is told who answers, to deliver what waits for them.
        presence: is told of commands that were not found.
        answer_timeout: seconds that one outpost may take to answer.
    """

    fleet: Fleet
    ledger: AsyncLedger
    recovery: Recovery
    mail: Mail
    presence: Presence
    answer_timeout: float

    def usable(self) -> list[str]:
        """Return the outposts that can be asked, in the order of the file.

        Behind them those that are leaving. Not among them: those whose type nobody provides, or
        that could not be built just now.
        """
        return [
            outpost.name
            for outpost in (*self.fleet.config.outposts, *self.fleet.leaving.values())
            if outpost.options is not None
            and outpost.type in self.fleet.plugins.backends
            and not self.fleet.resting(outpost.name)
        ]

    async def ping(self, names: Iterable[str]) -> dict[str, Health | OutpostError]:
        """Ask outposts whether they would take a worker now; each has its answer or its error."""
        import asyncio

        names = list(names)
        answers = await asyncio.gather(*(self._ping_one(name) for name in names))
        return dict(zip(names, answers, strict=True))

    async def _ping_one(self, name: str) -> Health | OutpostError:
        asked_at = time.time()
        row = (await self.ledger.scaling.all()).get(name)
        if row is not None and row.phase in ASLEEP:
            return Health(ok=False, detail=row.why(), hint=f"outpost scale {name} --to 1")
        try:
            health = await self.fleet.ping(name, timeout=self.answer_timeout)
        except UnreachableError as error:
            await self.ledger.set_reachable(name, False, error.message, asked_at)
            return error
        except OutpostError as error:
            return error
        again = await self.ledger.set_reachable(name, True, "", asked_at)
        await self.mail.answered([name], [name] if again else ())
        return health

    async def refresh(self, names: Iterable[str]) -> dict[str, OutpostError]:
        """Ask outposts for their workers, take the news over, finish interrupted spawns.

        Returns:
            the error of each outpost that gave no answer.
        """
        asked_at = time.time()
        rows = await self.ledger.scaling.all()
        names = [n for n in names if n not in rows or rows[n].phase not in ASLEEP]
        answers = await self.fleet.list_all(names, timeout=self.answer_timeout)
        errors: dict[str, OutpostError] = {}
        told: dict[str, Sequence[WorkerStatus]] = {}
        looks = []
        for name, answer in answers.items():
            if not isinstance(answer, OutpostError):
                told[name] = answer
                looks.append(_Look(name, answer, None, self.fleet.nameless.get(name) or ()))
                continue
            errors[name] = answer
            scaled = name in self.fleet.names and self.fleet.configured(name).scaling
            if isinstance(answer, UnreachableError) and (name in rows or not scaled):
                # else nobody has looked yet whether it is meant to be up
                looks.append(_Look(name, (), answer.message, ()))
        for name, error in errors.items():
            _log.info("%s gave no answer: %s", name, error.message)
        again, changed = await self.ledger.run(_take_over, looks, asked_at)
        for worker in changed:
            _log.info("%s is %s at %s", worker.id, worker.state.value, worker.outpost)
        for name in again:
            _log.info("%s answers again", name)
        await self.presence.doubt(changed)
        await self.recovery.finish(told)
        await self.mail.answered(told, again)
        if self.fleet.leaving:
            self.fleet.let_go(await self.ledger.active())
        return errors

    async def refresh_of(self, workers: Iterable[Worker]) -> None:
        """Ask the outposts of workers that have not ended, those that can be asked."""
        names = {w.outpost for w in workers if not w.state.terminal}.intersection(self.usable())
        if names:
            await self.refresh(sorted(names))

    async def wait(
        self,
        ids: Sequence[str],
        deadline: float | None,
        on_change: Callable[[Worker], None] | None,
    ) -> list[Worker]:
        """Wait until workers have ended; unreachable ones are waited for (law 2).

        Args:
            ids: worker ids that the ledger knows.
            deadline: on the monotonic clock; None for never. The states so far are returned then.
            on_change: is told each worker once at first and whenever it changes.

        Raises:
            NotFoundError: a worker is no longer in the ledger, or its outpost is no longer
                configured so that nobody can say how it ended.
        """
        import asyncio

        seen: dict[str, Worker] = {}
        pause = Backoff(POLL_MIN, POLL_MAX, growth=POLL_GROWTH)
        while True:
            known = {worker.id: worker for worker in await self.ledger.workers(ids=ids)}
            for id_ in ids:
                if id_ not in known:
                    raise NotFoundError(f"{id_} is gone: no outpost took it", hint="spawn it again")
            changed = [worker for worker in known.values() if seen.get(worker.id) != worker]
            if on_change is not None:
                for worker in changed:
                    on_change(worker)
            seen = known
            pending = [worker for worker in known.values() if not worker.state.terminal]
            left = None if deadline is None else deadline - time.monotonic()
            if not pending or (left is not None and left <= 0):
                return [known[id_] for id_ in ids]
            self._someone_can_tell(pending)
            if changed:
                pause.reset()
            seconds = pause.pause()
            await asyncio.sleep(seconds if left is None else min(seconds, left))
            if deadline is None:
                await self.refresh_of(pending)
            else:
                left = max(deadline - time.monotonic(), 0.01)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.refresh_of(pending), left)

    def _someone_can_tell(self, pending: Sequence[Worker]) -> None:
        usable = set(self.usable())
        if not any(worker.outpost in usable for worker in pending):
            worker = pending[0]
            raise NotFoundError(
                f"nobody can say how {worker.id} ends: its outpost {worker.outpost!r} is not"
                " configured, its package is missing, or it cannot be built",
                hint="outpost list; outpost stop --forget gives the worker up",
            )


class _Look(NamedTuple):
    """What one outpost answered.

    Args:
        name: the outpost.
        statuses: its workers.
        trouble: why it did not answer; None when it did.
        nameless: what is wrong with what it told of as workers that can be none.
    """

    name: str
    statuses: Sequence[WorkerStatus]
    trouble: str | None
    nameless: Sequence[str]


def _take_over(
    ledger: Ledger, looks: Sequence[_Look], asked_at: float
) -> tuple[list[str], list[Worker]]:
    """Take over what outposts answered.

    Returns:
        the outposts that answer again, and the workers that changed.
    """
    again: list[str] = []
    changed: list[Worker] = []
    for look in looks:
        answered = look.trouble is None
        detail = _odd(look.nameless) if look.trouble is None else look.trouble
        if ledger.set_reachable(look.name, answered, detail, asked_at) and answered:
            again.append(look.name)
        if answered:
            changed += _changed(ledger, look, asked_at)
    return again, changed


def _changed(ledger: Ledger, look: _Look, asked_at: float) -> list[Worker]:
    """Take over what an outpost said of its workers; return those that changed."""
    known = ledger.known(look.name)
    changed = ledger.record(look.name, _certain(ledger, look.statuses), asked_at, known)
    if look.nameless:  # what it tells of may be one that seems to be missing
        return changed
    gone = ledger.missing(look.name, {status.id for status in look.statuses}, asked_at, known)
    if gone:
        changed += ledger.record(look.name, [_lost(worker, look.name, asked_at) for worker in gone])
    return changed


def _certain(ledger: Ledger, statuses: Sequence[WorkerStatus]) -> Sequence[WorkerStatus]:
    """Leave out what is queued there and whose spawn here is not finished.

    Its spawner may have died before it was started, so the spawn is repeated, not believed.
    """
    queued = {status.id for status in statuses if status.state is State.QUEUED}
    if queued:
        queued &= {worker.id for worker in ledger.unspawned(0.0)}
    return [s for s in statuses if s.id not in queued] if queued else statuses


def _odd(nameless: Sequence[str]) -> str:
    """Say what an outpost told of workers that can be none; "" when it did not."""
    if not nameless:
        return ""
    more = f", and {len(nameless) - 1} more such" if len(nameless) > 1 else ""
    return f"it tells of what is no worker: {nameless[0]}{more}"


def _lost(worker: Worker, outpost: str, at: float) -> WorkerStatus:
    result = Result(
        state=State.LOST,
        reason="lost_process",
        message=f"outpost {outpost} no longer knows it",
        finished_at=at,
    )
    return WorkerStatus(id=worker.id, state=State.LOST, digest=worker.digest, result=result)
