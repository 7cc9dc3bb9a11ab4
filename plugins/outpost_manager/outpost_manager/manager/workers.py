"""Workers: found, looked at, waited for and read."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from outpost_core.errors import NotFoundError, OutpostError
from outpost_manager.manager.outposts import Outposts
from outpost_manager.managing import Glimpse, Shown, kept_where
from outpost_manager.offloop import off_loop
from outpost_manager.placing import keptlogs, references

if TYPE_CHECKING:
    from outpost_core.types import Event, Order, Worker

#: So many lines are asked for to find one that says something.
_LAST_LINES = 20

#: The byte of a log behind which there is nothing: systems refuse to look much further.
_FARTHEST: Final = 1 << 40


class Workers(Outposts):
    """What is asked about workers, of the ledger and of their outposts."""

    async def workers(
        self,
        *,
        all: bool = False,  # noqa: A002
        refresh: bool = True,
    ) -> list[Worker]:
        """Return workers, newest first; without `all` those that have not ended."""
        if refresh:
            await self.refresh()
        return await self.ledger.workers(active=None if all else True)

    async def ended_since(self, moment: float) -> list[Worker]:
        """Return the workers that ended then or later, as far as is known here."""
        return await self.ledger.workers(active=False, ended_since=moment)

    async def those(self, ids: Sequence[str]) -> list[Worker]:
        """Return workers by their ids, as far as they are known here."""
        return await self.ledger.workers(ids=ids)

    async def shown(self, ref: str) -> Shown:
        """Return everything about a worker, after asking its outpost.

        Raises:
            NotFoundError: it is not known, even after asking every outpost.
        """
        found, ledger = await self.worker(ref), self.ledger
        events, attempts = await ledger.events(found.id), await ledger.attempts(found.issue)
        return Shown(
            worker=kept_where(found, events),
            glimpse=await self.glimpse(found),
            order=await ledger.order(found.id),
            explanation=await ledger.explanation(found.id),
            attempts=attempts,
            events=events,
            decisions=await ledger.queue.decisions(found.issue),
            entry=await ledger.queue.entry(found.issue),
            accounts=await ledger.accounts([found.id, *(one.id for one in attempts)]),
        )

    async def order_of(self, worker: str) -> Order | None:
        """Return the order of a worker, by its id; None where it was not ordered here."""
        return await self.ledger.order(worker)

    async def ordered_here(self, ids: Sequence[str]) -> set[str]:
        """Return those of the workers that were ordered here."""
        return {*await self.ledger.ordered(ids)}

    async def was_cleaned(self, worker: str) -> bool:
        """Say whether the files of a worker were removed, by its id."""
        return any(event.kind == "cleaned" for event in await self.ledger.events(worker))

    async def newest_events(self, of: str | None, limit: int) -> tuple[list[Event], int]:
        """Return the newest events, oldest first, and the id of the newest of all.

        Args:
            of: only those of this worker, by its id; None for all.
            limit: at most so many.
        """
        last = await self.ledger.last_event()
        found = await self.ledger.events(of, limit)
        return found, max(last, found[-1].id) if found else last

    async def events_after(self, after: int, of: str | None, limit: int) -> tuple[list[Event], int]:
        """Return what happened behind an event, oldest first, and the id behind which to go on.

        Args:
            after: id of that event.
            of: only those of this worker, by its id; None for all.
            limit: so many are looked at.
        """
        found = await self.ledger.events_after(after, limit)
        last = found[-1].id if found else after
        return [event for event in found if of in (None, event.worker)], last

    async def find(self, ref: str) -> Worker:
        """Return a worker by its id, or the newest attempt at an issue, without asking anyone.

        Args:
            ref: `worker:` or `issue:` before the id says which of the two it is.

        Raises:
            NotFoundError: neither is known.
            UsageError: it is both.
        """
        return await self.ledger.read(references.find, ref)

    async def look_at(self, issues: Iterable[str]) -> None:
        """Ask the outposts of attempts at issues that have not ended, as far as is known here.

        Afterwards it is known which of them are over. An outpost that does not answer changes
        nothing: its workers stay as they are known.
        """
        wanted = set(issues)
        active = await self.ledger.workers(active=True)
        await self.watch.refresh_of([worker for worker in active if worker.issue in wanted])

    async def worker(self, ref: str) -> Worker:
        """Return a worker after asking its outpost (when it has not ended).

        Raises:
            NotFoundError: it is not known, even after asking every outpost.
        """
        worker = await self._known(ref)
        await self.watch.refresh_of([worker])
        return await self.find(references.exact(worker.id))

    async def wait(
        self,
        ids: Sequence[str],
        *,
        timeout: float | None = None,
        on_change: Callable[[Worker], None] | None = None,
    ) -> list[Worker]:
        """Wait until workers have ended; unreachable ones are waited for (law 2).

        Args:
            ids: worker ids, or issue ids for their newest attempt.
            timeout: seconds; None for ever. When it passes, the states so far are returned.
            on_change: is told each worker once at first and whenever it changes.

        Returns:
            The workers, in the order of `ids`.

        Raises:
            NotFoundError: one is not known, or its outpost is no longer configured.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        names = [(await self._known(ref)).id for ref in ids]
        return await self.watch.wait(names, deadline, on_change)

    async def _known(self, ref: str) -> Worker:
        """Return a worker as the ledger has it; the outposts are asked only when it has not."""
        try:
            return await self.find(ref)
        except NotFoundError:
            await self.refresh()
            return await self.find(ref)

    async def logs(self, ref: str, offset: int = 0, follow: bool = False) -> AsyncIterator[bytes]:
        """Yield a worker's output from byte `offset` on; `follow` until it has ended."""
        worker = await self._known(ref)
        offset = min(offset, _FARTHEST)
        try:
            async for chunk in self._logs(worker, offset, follow):
                offset += len(chunk)
                yield chunk
        except OutpostError:
            path = keptlogs.log_of(self.state, worker.id)
            if not (worker.state.terminal and await off_loop(path.exists)):
                raise
        else:
            return
        while chunk := await off_loop(keptlogs.read, path, offset):  # its files were cleaned
            offset += len(chunk)
            yield chunk

    def _logs(self, worker: Worker, offset: int, follow: bool) -> AsyncGenerator[bytes, None]:
        timeout = self.config.defaults.answer_timeout
        return self.fleet.logs(worker.outpost, worker.id, offset, follow=follow, timeout=timeout)

    async def glimpse(self, worker: Worker) -> Glimpse:
        """Ask a worker's outpost for what the ledger does not keep; empty where it is silent."""
        patience = self.config.defaults.answer_timeout
        tree, fence, usage, text = "", "", None, ""
        with suppress(OutpostError):
            for status in await self.fleet.list(worker.outpost, timeout=patience):
                if status.id == worker.id and status.digest in ("", worker.digest):
                    tree, usage, fence = status.tree or "", status.usage, status.fence
            if self.fleet.supports(worker.outpost, "peek"):
                text = await self._screen(worker, _LAST_LINES)
        return Glimpse(tree=tree, fence=fence, usage=usage, text=text)

    async def _screen(self, worker: Worker, lines: int) -> str:
        return await self.fleet.ask_for(
            str,
            worker.outpost,
            "outpost_peek",
            timeout=self.config.defaults.answer_timeout,
            worker=worker.id,
            lines=lines,
        )
