"""Applies decisions to the entries of the queue whose attempt has ended.

Any number of settlers may run at once, and each may be killed at any moment: an entry is moved on
in one transaction that also writes the event `decided`, and only from the state in which it was
seen.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError
from outpost_core.types import Json, State, Worker
from outpost_manager.ledger.endings import Ending
from outpost_manager.ledger.parking import end_of
from outpost_mayor.retries.decide import Decision, End, History, Pause, Retry, decide
from outpost_mayor.retries.moving import Mover
from outpost_shared import faults
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_manager.config.retries import RetriesConfig
    from outpost_manager.ledger import Entry, Ledger
    from outpost_manager.ledger.entries import Decided
    from outpost_manager.manager import Manager

_log = Logger("retries")
#: Entries that are looked at in one step.
_AT_ONCE: Final = 1000
#: Entries of which the ledger is asked in one visit, so that others have their turn.
_VISIT: Final = 100
#: Seconds between looks where nothing is heard.
_PACE: Final = 30.0
#: Seconds between two looks at what waits for an outpost, at least.
_SOON: Final = 1.0
#: What an agent is told whose provider takes requests again.
GO_ON: Final = "The limit of your provider is over. Continue with the task where you stopped."


class Settler:
    """Decides what comes after attempts that have ended.

    Args:
        manager: whose queue it is.
        clock: returns seconds since the epoch.
        chance: returns a number from 0 to 1, for the jitter of back-offs.
    """

    def __init__(
        self,
        manager: Manager,
        *,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._manager = manager
        self._clock = clock
        self._chance = chance
        self._mover = Mover(manager)
        self._full = _Full()
        self._look_at = 0.0  # by the monotonic clock, when what waits for an outpost is due a look

    @property
    def next_moment(self) -> float | None:
        """When something may be decided that waits for a moment; None where none is foreseen."""
        known = (self._mover.next_moment, self._full.until if self._full.beyond else None)
        return min((one for one in known if one is not None), default=None)

    async def run(self) -> None:
        """Decide as soon as attempts end, until this is cancelled.

        Raises:
            LedgerError: the ledger cannot be used; whoever runs this begins again later.
        """
        news = asyncio.Event()
        listening = asyncio.create_task(self._listen(news), name="retries listens")
        try:
            while True:
                news.clear()
                await self.step()
                pause = max(0.0, self._look_at - time.monotonic())
                calling = asyncio.ensure_future(news.wait())
                await asyncio.wait(
                    {calling, listening},
                    timeout=min(_PACE, pause),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                calling.cancel()
                if listening.done():
                    listening.result()  # it never ends but by failing: whoever runs this is told
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _listen(self, news: asyncio.Event) -> None:
        async for event in self._manager.events():
            if event.kind == "state" and event.data.get("state") not in ("working", "idle"):
                news.set()

    async def step(self) -> int:
        """Decide of every entry whose attempt has ended; return of how many.

        Once in a while, also of those that their outpost does not take.
        """
        settled = await self._elsewhere()
        endings: list[Ending] = []
        if not self._full.holds(self._manager.config.retries, self._clock()):
            self._full = _Full()
        beyond = self._full.beyond
        entries = [
            entry
            for entry in await self._manager.ledger.queue.settling(_AT_ONCE + len(beyond))
            if (entry.worker, entry.moved_at) not in beyond
        ]
        tried = [
            attempts
            for first in range(0, len(entries), _VISIT)
            for attempts in await self._manager.ledger.read(
                _attempts, entries[first : first + _VISIT]
            )
        ]
        for entry, attempts in zip(entries, tried, strict=True):
            found = await self._settle(entry, attempts)
            if isinstance(found, Ending):
                endings.append(found)
            else:
                settled += found
        if endings:  # one wait for the disk for all of them
            faults.point("retries.decided")
            settled += await self._manager.ledger.queue.end_all(endings)
            faults.point("retries.settled")
        return settled

    async def _elsewhere(self) -> int:
        """Let go elsewhere what its outpost does not take, when it is time for a look."""
        if time.monotonic() < self._look_at:
            return 0
        now = self._clock()
        moved = await self._mover.step(now)
        moment = self._mover.next_moment
        pause = _PACE if moment is None else moment - now
        self._look_at = time.monotonic() + max(_SOON, min(_PACE, pause))
        return moved

    # --- one entry ----------------------------------------------------------------------------

    async def _settle(self, entry: Entry, attempts: Sequence[Worker]) -> bool | Ending:
        """Decide of an entry: return how it ends, or whether it waits again."""
        worker = next((one for one in attempts if one.id == entry.worker), None)
        if worker is None:
            return _ending(entry, None, End(outcome="lost", why="nothing is known of it"))
        newest = max(attempts, key=lambda one: one.attempt)
        if newest.attempt > worker.attempt:
            state = newest.state if newest.state.terminal else worker.state
            why = f"{newest.id} was ordered besides the queue"
            return _ending(entry, worker, End(outcome=state.value, why=why))
        if worker.state is State.DONE:  # whatever was before
            done = decide(self._manager.config.retries, entry, worker, History(), self._clock())
            assert isinstance(done, End)
            return _ending(entry, worker, done)
        if not worker.state.terminal:  # its row is about to be replaced
            return False
        before = await self._manager.ledger.queue.decisions(entry.issue, entry.added_at)
        resumed = await self._resumed(worker, before)
        if resumed is not None:  # it was to go where its session is, and need not any more
            entry = replace(entry, place=resumed.text("asked") or None)
        history = await self._history(worker, len(attempts), before)
        history = replace(history, resumed=resumed is not None)
        now = self._clock()
        config = self._manager.config.retries
        found = decide(config, entry, worker, history, now, self._chance())
        _log.info("%s: %s", worker.id, found)
        if isinstance(found, End):
            return _ending(entry, worker, found)
        try:
            return await self._again(entry, worker, found, resumed, before)
        except OutpostError as error:
            return _ending(entry, worker, End(outcome=worker.state.value, why=error.message))

    async def _resumed(self, worker: Worker, before: Sequence[Decided]) -> Decided | None:
        """Return the decision that let an attempt go on with a session; None where it began anew.

        Its own order is asked: it may have been placed in the moment in which that was changed.
        """
        mine = [one for one in before if one.text("next") == worker.id and one.text("session")]
        order = await self._manager.ledger.order(worker.id) if mine else None
        argv = order.agent.argv if order is not None else ()
        return next((one for one in reversed(mine) if one.text("session") in argv), None)

    async def _history(self, worker: Worker, attempts: int, before: list[Decided]) -> History:
        reasons = Counter(
            one.text("reason") for one in before if one.text("what") in ("retry", "park")
        )
        until = None
        result = worker.result
        if result is not None and result.reason in ("rate_limited", "overloaded"):
            until = await self._parked(worker)
            if until is None and worker.agent == "command":  # such commands share no account
                until = end_of(result, reasons[result.reason] + 1, self._clock())
        return History(
            retries=sum(one.text("what") == "retry" for one in before),
            by_reason=reasons,
            attempts=attempts,
            others=any(name != worker.outpost for name in self._manager.watch.usable()),
            parked_until=until,
        )

    async def _parked(self, worker: Worker) -> float | None:
        account = await self._manager.ledger.account(worker.id)
        parked = await self._manager.ledger.parking.all(self._clock())
        return max((one.until for one in parked if one.account == account), default=None)

    async def _again(
        self,
        entry: Entry,
        worker: Worker,
        found: Retry | Pause,
        resumed: Decided | None,
        before: Sequence[Decided],
    ) -> bool | Ending:
        """Have an entry wait for another attempt, from the work that was rescued."""
        pauses = isinstance(found, Pause)
        base = resumed.text("of") if resumed is not None else ""
        # where a session could not be resumed once, as in a container, none can
        resumes = pauses and not any(_anew_at(worker.outpost, one) for one in before)
        following = await self._manager.further.by_itself(
            worker.id, of=base, resume=GO_ON if resumes else ""
        )
        order = following.order
        place, avoid, not_before = entry.place, "", 0.0
        if isinstance(found, Retry):
            not_before, avoid = found.at, found.avoid
            if avoid and order.resume_at == avoid:  # its work is there alone
                if found.strict:
                    why = f"{found.why}; its work is at {avoid} alone"
                    return _ending(entry, worker, End(outcome=worker.state.value, why=why))
                avoid = ""
        else:
            place = following.on if following.session else entry.place
            if worker.agent == "command":
                not_before = found.until
        told: dict[str, Json] = {
            **_told(found, worker),
            "next": order.worker,
            "at": not_before or self._clock(),
        }
        if isinstance(found, Pause):
            self._look_at = 0.0
            told |= {"until": found.until, "account": await self._manager.ledger.account(worker.id)}
        elif found.anew:
            told["outpost"] = worker.outpost
        if avoid:
            told["avoid"] = avoid
        if following.session:
            told |= {"session": following.session, "of": base or worker.id}
            told["asked"] = entry.place or ""
        faults.point("retries.decided")
        limited = told["what"] == "retry"
        changed = await self._manager.ledger.queue.again(
            entry,
            order,
            not_before=not_before,
            why=found.why,
            place=place,
            avoid=avoid,
            told=("decided", told),
            most_a_day=self._manager.config.retries.per_day if limited else None,
        )
        faults.point("retries.settled")
        if limited and not changed:
            await self._beyond(entry)
        return changed

    async def _beyond(self, entry: Entry) -> None:
        """Leave an entry alone until one more retry may be decided, if it waits for that."""
        rules = self._manager.config.retries
        until = await self._manager.ledger.queue.next_retry(rules.per_day)
        if until is not None:
            beyond = self._full.beyond | {(entry.worker, entry.moved_at)}
            self._full = _Full(rules=rules, since=self._clock(), until=until, beyond=beyond)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Full:
    """What is beyond the retries of a day, and not looked at before that has moved on.

    Args:
        rules: what the configuration said then.
        since: when that was seen.
        until: when another one is.
        beyond: worker and `moved_at` of entries that wait for it.
    """

    rules: RetriesConfig | None = None
    since: float = 0.0
    until: float = 0.0
    beyond: frozenset[tuple[str, float]] = frozenset()

    def holds(self, rules: RetriesConfig, now: float) -> bool:
        """Whether it is still so, by the configuration and the clock of now."""
        return self.rules == rules and self.since <= now < self.until


def _attempts(ledger: Ledger, entries: Sequence[Entry]) -> list[list[Worker]]:
    """Return the attempts at the issue of each entry, in one visit to the ledger's thread."""
    return [ledger.attempts(entry.issue) for entry in entries]


def _ending(entry: Entry, worker: Worker | None, found: End) -> Ending:
    """Return an end as it is written down."""
    told = ("decided", _told(found, worker))
    return Ending(entry=entry, outcome=found.outcome, why=found.why, told=told)


def _anew_at(outpost: str, one: Decided) -> bool:
    """Whether a session could not be resumed at an outpost."""
    return one.text("what") == "anew" and one.text("outpost") == outpost


def _told(found: Decision, worker: Worker | None) -> dict[str, Json]:
    """Return what the event of a decision says in every case."""
    result = worker.result if worker is not None else None
    data: dict[str, Json] = {
        "what": "park",
        "why": found.why,
        "reason": result.reason if result is not None else "lost_process",
    }
    if worker is not None:
        data["attempt"] = worker.attempt
    if isinstance(found, Retry):
        data["what"] = "anew" if found.anew else "retry"
    if isinstance(found, End):
        data |= {"what": "end", "outcome": found.outcome}
    return data
