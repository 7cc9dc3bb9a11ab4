"""What is known of what outposts have: cores, memory, and whether an agent is installed there.

Only orders that ask for such things cost a question, only outposts that would be tried are asked,
and what they answer is kept in `<state>/facts.json` for everybody. That a program is missing is
never believed for long: people install it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from outpost_core.errors import OutpostError
from outpost_core.types import Facts
from outpost_manager.config.policy import requirements
from outpost_manager.offloop import off_loop
from outpost_shared import jsonfiles, private

if TYPE_CHECKING:
    from outpost_core.types import Candidate, Order, Worker
    from outpost_manager.config.policy import Ranking
    from outpost_manager.fleet.fleet import Fleet

FILE: Final = "facts.json"
#: Seconds for which an answer holds.
FRESH: Final = 3600.0
#: Seconds before one is asked again that did not answer, or lacked something.
AGAIN: Final = 2.0

#: Sheets and choice for some orders, as they stand now.
Choose = Callable[[Sequence["Order"]], Awaitable["list[tuple[Ranking, Sequence[Candidate]]]"]]


@dataclass(kw_only=True, eq=False)
class Presence:
    """Remembers what outposts have.

    Args:
        fleet: who is asked.
        state: the state folder.
        patience: seconds that one outpost may take to answer.
    """

    fleet: Fleet
    state: Path
    patience: float
    _known: dict[str, tuple[float, Facts]] | None = field(default=None, init=False)
    _asked: dict[str, float] = field(default_factory=dict, init=False)
    _changing: Lock = field(default_factory=Lock, init=False)

    async def facts(self) -> Mapping[str, Facts]:
        """Return what is known and fresh, by outpost. Reads a file once, asks nobody."""
        if self._known is None:
            await off_loop(self._all)
        now = time.time()
        return {
            name: facts
            for name, (at, facts) in self._all().items()
            if abs(now - at) < FRESH and name in self.fleet.names
        }

    async def consult(self, orders: Sequence[Order], choose: Choose) -> None:
        """Ask the outposts that would be tried what the orders want to know of them.

        Args:
            orders: about to be placed; those that ask for nothing cost nothing.
            choose: what the policy says of them, for all that is known.
        """
        wanting = [order for order in orders if requirements(order)]
        while wanting:
            names: set[str] = set()
            for assignment, sheets in await choose(wanting):
                names |= self._unknown(assignment, sheets, len(wanting))
            if not names:
                return
            await self.learn(names, _programs(wanting))

    async def learn(self, names: Iterable[str], programs: Sequence[str]) -> None:
        """Ask outposts, all at once; one that does not answer stays as little known as it was."""
        import asyncio

        asked = [*names]
        answers = await asyncio.gather(*(self._ask(name, programs) for name in asked))
        for name in asked:
            self._asked[name] = time.monotonic()
        await off_loop(self._remember, dict(zip(asked, answers, strict=True)))

    def _remember(self, answers: Mapping[str, Facts | None]) -> None:
        with self._changing:
            now, known = time.time(), dict(self._all())
            for name, answer in answers.items():
                if answer is None:
                    continue
                before = known[name][1].programs if name in known else {}
                logins = known[name][1].logins if name in known else {}
                known[name] = (
                    now,
                    replace(
                        answer,
                        programs={**before, **answer.programs},
                        logins={**logins, **answer.logins},
                    ),
                )
            self._write(known)

    def forget(self, name: str) -> None:
        """Forget what an outpost has: what it said has turned out wrong, or was changed.

        Writes a file: to be called where no event loop runs.
        """
        self._asked.pop(name, None)
        with self._changing:
            known = dict(self._all())
            if known.pop(name, None) is not None:
                self._write(known)

    async def doubt(self, changed: Iterable[Worker]) -> None:
        """Forget what outposts said of programs, where a worker did not find its command.

        Args:
            changed: workers of which something new was heard.
        """
        for worker in changed:
            if worker.result is not None and worker.result.reason == "command_not_found":
                await off_loop(self.forget, worker.outpost)

    def _unknown(self, assignment: Ranking, sheets: Sequence[Candidate], count: int) -> set[str]:
        """Return the outposts to ask: those that so many orders would go to.

        One that is known to lack something is asked again: it may have been installed since.
        """
        by_name = {sheet.name: sheet for sheet in sheets}
        names: set[str] = set()
        room = 0.0
        for name, lacks in assignment.considered:
            if (lacks or assignment.doubts(name)) and self._is_due(name) and self._can(name):
                names.add(name)
            if not lacks:
                slots = by_name[name].max_workers
                room += inf if slots is None else slots - by_name[name].active
            if room >= count:
                break
        return names

    def _is_due(self, name: str) -> bool:
        """Whether this program did not ask an outpost, or not just now."""
        asked = self._asked.get(name)
        return asked is None or time.monotonic() - asked > AGAIN

    def _can(self, name: str) -> bool:
        try:
            return self.fleet.supports(name, "facts")
        except OutpostError:
            return False

    async def _ask(self, name: str, programs: Sequence[str]) -> Facts | None:
        try:
            return await self.fleet.ask_for(
                Facts, name, "outpost_facts", timeout=self.patience, programs=[*programs]
            )
        except OutpostError:
            return None  # whatever is wrong there, trying to spawn says it better

    # --- the file ---------------------------------------------------------------------------------

    def _all(self) -> dict[str, tuple[float, Facts]]:
        if self._known is None:
            try:
                private.claim(str(self.state), make=False)
                said = jsonfiles.load(str(self.state), FILE) or {}
            except (OSError, RecursionError):
                said = {}
            found = {name: _read(entry) for name, entry in said.items()}
            self._known = {name: entry for name, entry in found.items() if entry is not None}
        return self._known

    def _write(self, known: dict[str, tuple[float, Facts]]) -> None:
        """Keep it, also for others; where that cannot be done, they ask for themselves."""
        self._known = known
        entries = {
            name: {
                "at": at,
                "cpus": facts.cpus,
                "memory": facts.memory,
                "programs": dict(facts.programs),
                "logins": dict(facts.logins),
            }
            for name, (at, facts) in known.items()
        }
        with suppress(OSError):
            private.claim(str(self.state))
            jsonfiles.store(str(self.state), FILE, entries)


def _read(entry: Any) -> tuple[float, Facts] | None:
    """Return one entry of the file; None when it is none."""
    if not isinstance(entry, dict):
        return None
    at, cpus, memory = entry.get("at"), entry.get("cpus"), entry.get("memory")
    programs, logins = entry.get("programs"), entry.get("logins", {})
    if (
        not isinstance(at, int | float)
        or not isinstance(programs, dict)
        or not isinstance(logins, dict)
    ):
        return None
    return at, Facts(
        cpus=cpus if isinstance(cpus, int | float) else None,
        memory=memory if isinstance(memory, int) else None,
        programs={k: v for k, v in programs.items() if isinstance(v, str)},
        logins={k: v for k, v in logins.items() if isinstance(v, bool)},
    )


def _programs(orders: Sequence[Order]) -> list[str]:
    wanted = (requirements(order) for order in orders)
    return [*dict.fromkeys(one.program for one in wanted if one and one.program)]
