"""What commands ask of the queue, whether it is the one here or that of a server."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from outpost_core.errors import NotFoundError
from outpost_manager.ledger.turns import SWITCH
from outpost_manager.remote import parse
from outpost_manager.remote.client import Query, segment
from outpost_manager.remote.fields import Fields
from outpost_manager.remote.manager import RemoteManager

if TYPE_CHECKING:
    from outpost_manager.ledger import Entry
    from outpost_manager.manager import Manager
    from outpost_manager.managing import Managing

#: Entries that a server is asked for at once.
_PAGE: Final = 1000
#: Pages at the most, however many a server says that there are.
_PAGES: Final = 1000


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A part of the queue.

    Args:
        entries: in the order of their turns.
        counts: how many there are, by state.
        switch: `paused`, `draining`, or "" while it runs.
        more: how many are behind those, left out by the limit.
    """

    entries: Sequence[Entry]
    counts: dict[str, int]
    switch: str
    more: int = 0


class Batch(NamedTuple):
    """A batch in short: its name, how many are in each state or ended how, and when it grew."""

    name: str
    counts: dict[str, int]
    added_at: float


class Waiting(Protocol):
    """The queue, here or at a server."""

    async def listed(self, states: Collection[str], batch: str, limit: int) -> Listed:
        """Return entries in these states; `batch` "" for all, `limit` -1 for all."""

    async def entry(self, issue: str) -> tuple[Entry, list[str]]:
        """Return an entry, and the issues that have to be done first."""

    async def batches(self) -> list[Batch]:
        """Return the batches, the newest first."""

    async def remove(self, issues: Sequence[str]) -> list[Entry]:
        """Take waiting orders out."""

    async def move(self, issue: str, priority: int) -> Entry:
        """Give a waiting order another priority."""

    async def hold(self, issues: Sequence[str], held: bool) -> tuple[list[str], str]:
        """Pause some orders or let them go on; what is held then, and the switch."""

    async def switch(self, word: str) -> tuple[list[str], str]:
        """Turn the whole queue: `paused`, `draining` or ""; answers as `hold` does."""


def queue_of(manager: Managing) -> Waiting:
    """Return the queue of a manager."""
    if isinstance(manager, RemoteManager):
        return _There(manager)
    from outpost_manager.manager import Manager

    assert isinstance(manager, Manager)
    return _Here(manager)


class _Here:
    """The queue of this machine's ledger."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._queue = manager.ledger.queue

    async def listed(self, states: Collection[str], batch: str, limit: int) -> Listed:
        found, more = await self._queue.page(states=states, batch=batch, limit=limit)
        return Listed(
            more=more,
            entries=found,
            counts=await self._queue.counts(),
            switch=await self._queue.switch(SWITCH),
        )

    async def entry(self, issue: str) -> tuple[Entry, list[str]]:
        found = await self._queue.entry(issue)
        if found is None:
            raise NotFoundError(
                f"{issue[:96]!a} is not in the queue", hint="outpost queue list --all"
            )
        return found, await self._queue.needs(issue)

    async def batches(self) -> list[Batch]:
        return [Batch(*row) for row in await self._queue.batches()]

    async def remove(self, issues: Sequence[str]) -> list[Entry]:
        return await self._queue.remove(issues)

    async def move(self, issue: str, priority: int) -> Entry:
        return await self._queue.move(issue, priority, self._manager.config.queue.step)

    async def hold(self, issues: Sequence[str], held: bool) -> tuple[list[str], str]:
        await self._queue.hold(issues, held)
        return await self._state()

    async def switch(self, word: str) -> tuple[list[str], str]:
        await self._queue.set_switch(SWITCH, word)
        return await self._state()

    async def _state(self) -> tuple[list[str], str]:
        held = [entry.issue for entry in await self._queue.entries() if entry.held]
        return held, await self._queue.switch(SWITCH)


class _There:
    """The queue of a server."""

    def __init__(self, manager: RemoteManager) -> None:
        self._manager = manager
        self._client = manager.client

    async def listed(self, states: Collection[str], batch: str, limit: int) -> Listed:
        entries = dict[str, "Entry"]()
        after: str | None = None
        for _ in range(_PAGES):
            most = _PAGE if limit < 0 else min(_PAGE, limit - len(entries))
            query: Query = {"state": [*states], "batch": batch, "limit": most, "after": after}
            answer = self._manager.read(
                Fields.of_answer, await self._client.get("/v1/queue", query)
            )
            page = self._manager.read(lambda said: said.each("entries", parse.entry), answer)
            fresh = [one for one in page if one.issue not in entries]
            entries |= {one.issue: one for one in fresh}
            if len(page) < most or not fresh or len(entries) == limit:
                break
            after = page[-1].issue

        def made(said: Fields) -> Listed:
            counts = said.within("counts")
            return Listed(
                entries=[*entries.values()],
                counts={state: counts.whole(state) for state in counts.data},
                switch=said.text("switch"),
                more=said.whole("more"),
            )

        return self._manager.read(made, answer)

    async def entry(self, issue: str) -> tuple[Entry, list[str]]:
        return await self._manager.entry(issue)

    async def batches(self) -> list[Batch]:
        def made(data: object) -> Batch:
            said = Fields("a batch", data)
            counts = said.within("counts")
            told = {word: counts.whole(word) for word in counts.data}
            return Batch(said.text("batch"), told, said.moment("added_at"))

        return self._manager.each(made, await self._client.get("/v1/batches"), "batches")

    async def remove(self, issues: Sequence[str]) -> list[Entry]:
        for issue in issues:  # one is taken out at a time there: first see that all can be
            await self.entry(issue)
        found = list["Entry"]()
        for issue in issues:
            said = await self._client.delete(f"/v1/queue/{segment(issue)}")
            found += self._manager.each(parse.entry, said, "removed")
        return found

    async def move(self, issue: str, priority: int) -> Entry:
        path = f"/v1/queue/{segment(issue)}/move"
        said = await self._client.post(path, {"priority": priority})
        return self._manager.read(parse.entry, said.get("entry"))

    async def hold(self, issues: Sequence[str], held: bool) -> tuple[list[str], str]:
        found: tuple[list[str], str] = [], ""
        for issue in issues:
            verb = "pause" if held else "resume"
            found = self._state(await self._client.post(f"/v1/queue/{segment(issue)}/{verb}"))
        return found

    async def switch(self, word: str) -> tuple[list[str], str]:
        verb = {"": "resume", "paused": "pause", "draining": "drain"}[word]
        return self._state(await self._client.post(f"/v1/queue/{verb}"))

    def _state(self, said: object) -> tuple[list[str], str]:
        answer = self._manager.read(Fields.of_answer, said)
        return self._manager.read(lambda one: ([*one.words("held")], one.text("switch")), answer)
