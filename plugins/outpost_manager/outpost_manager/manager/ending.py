"""The end of workers: stopped, given up, and their files removed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from outpost_core.errors import LedgerError, NotFoundError, OutpostError, UsageError, WorkerError
from outpost_manager.manager.talking import Talking
from outpost_manager.offloop import off_loop
from outpost_manager.placing import keptlogs, references

if TYPE_CHECKING:
    from outpost_core.types import Cleaned, Worker

#: Workers that are cleaned for their age by one command, and the seconds that may take.
_AT_A_TIME, _FOR_SO_LONG = 50, 20.0
#: Bytes of a log that are kept of a worker that was not ordered here, and beyond the cap of one
#: that was: its marker.
_LONGEST_LOG, _LOG_MARGIN = 256 * 1024 * 1024, 64 * 1024


class Ending(Talking):
    """What ends a worker, and what removes it when it has ended."""

    async def stop(self, ref: str, grace: float | None = None) -> Worker:
        """Ask for the end of a worker; returns once the outpost has the request.

        A worker whose spawn was never finished is given up, once its outpost says that it does
        not run.

        Raises:
            NotFoundError: it is not known.
            UnreachableError: its outpost cannot be asked; nothing was stopped.
            LedgerError: the ledger cannot be used; says whether the worker was told all the same.
        """
        seconds = self.config.defaults.grace if grace is None else grace
        try:
            return await self._stop(ref, seconds)
        except LedgerError as error:
            # a full disk, which its agents may have filled, must not keep anybody from a stop
            if told := await self._stop_anyway(ref, seconds):
                error.message += f"; {', '.join(told)} was told to stop all the same"
                error.args = (error.message,)
            raise

    async def _stop(self, ref: str, seconds: float) -> Worker:
        worker = await self._known(ref)
        if worker.state.terminal:
            return worker
        if self.ledger.aside is None:
            await self.placement.stop(worker, lambda row: self._verb(row, "stop", grace=seconds))
        else:  # the disk is full: nothing can be claimed or given up, and a stop needs neither
            await self._verb(worker, "stop", grace=seconds)
        from outpost_core.types import Event

        self.ledger.note_soon(
            Event(kind="stop", at=time.time(), worker=worker.id, outpost=worker.outpost)
        )
        await self.watch.refresh_of([worker])
        return await self.ledger.worker(worker.id) or worker

    async def _stop_anyway(self, ref: str, seconds: float) -> list[str]:
        """Stop a worker wherever it is, without the ledger; returns the ids that were told."""
        told: list[str] = []
        running: list[tuple[str, str]] = []
        patience = self.config.defaults.answer_timeout
        for name, answer in (await self.fleet.list_all(self.fleet.names, timeout=patience)).items():
            if not isinstance(answer, OutpostError):
                running += [(name, status.id) for status in answer if not status.state.terminal]
        meant = references.among([worker for _, worker in running], ref)
        for name, worker in running:
            if worker in meant:
                with suppress(OutpostError):
                    await self.fleet.ask(
                        name, "outpost_stop", timeout=patience, worker=worker, grace=seconds
                    )
                    told.append(worker)
        return told

    async def forget(self, ref: str) -> Worker:
        """Give a worker up whose outpost is no longer configured; nobody is asked.

        Raises:
            NotFoundError: it is not known.
            UsageError: its outpost is configured, so it can be stopped.
        """
        worker = await self.find(ref)
        if worker.state.terminal:
            return worker
        if worker.outpost in self.fleet.names or worker.outpost in self.fleet.leaving:
            raise UsageError(
                f"{worker.id} is at {worker.outpost}, which is configured",
                hint=f"outpost stop {worker.id}",
            )
        await self.placement.forget(worker)
        return await self.find(references.exact(worker.id))

    async def clean(self, ref: str, *, force: bool = False, purge: bool = False) -> Cleaned:
        """Remove an ended worker's files at its outpost; unpushed work is rescued first.

        Raises:
            UsageError: it still runs.
        """
        (answer,) = (await self.clean_many([ref], force=force, purge=purge)).values()
        if isinstance(answer, OutpostError):
            raise answer
        return answer

    async def clean_many(
        self, names: Sequence[str], *, force: bool = False, purge: bool = False
    ) -> dict[str, Cleaned | OutpostError]:
        """Remove the files of ended workers, side by side; unpushed work is rescued first.

        Args:
            names: of workers or issues.
            force: also where the rescue fails.
            purge: keep no log here, and remove the one that was kept.

        Returns:
            the answer or the error of each, by the worker's id, or the name that is not known.
        """
        from outpost_manager.placing.cleaning import clean_many

        unknown: dict[str, Cleaned | OutpostError] = {}
        ids = []
        for name in dict.fromkeys(names):
            try:
                ids.append((await self._known(name)).id)
            except (NotFoundError, UsageError) as error:
                unknown[name] = error
        await self.watch.refresh_of(await self.ledger.workers(ids=ids))
        found = {worker.id: worker for worker in await self.ledger.workers(ids=ids)}
        workers = [found[worker] for worker in dict.fromkeys(ids) if worker in found]
        return unknown | await clean_many(workers, lambda worker: self._clean(worker, force, purge))

    async def _clean(self, worker: Worker, force: bool, purge: bool) -> Cleaned:
        from outpost_core.types import Cleaned
        from outpost_manager.placing.cleaning import not_ended

        if not worker.state.terminal:
            raise not_ended(worker)
        self.fleet.require(worker.outpost, "clean")
        trouble = "" if purge else await self._keep_log(worker)
        cleaned = await self.fleet.ask_for(
            Cleaned,
            worker.outpost,
            "outpost_clean",
            timeout=self.config.defaults.spawn_timeout,
            worker=worker.id,
            force=force,
        )
        if cleaned.removed:
            await self.ledger.forget(worker.id, cleaned.rescued)
            if purge:
                path = keptlogs.log_of(self.state, worker.id)
                await off_loop(path.unlink, missing_ok=True)
        if trouble:
            detail = "; ".join(filter(None, [cleaned.detail, trouble]))
            cleaned = Cleaned(removed=cleaned.removed, rescued=cleaned.rescued, detail=detail)
        return cleaned

    async def _keep_log(self, worker: Worker) -> str:
        """Keep a worker's log here before its files go; say why it cannot be, or ""."""
        from contextlib import aclosing

        order = await self.ledger.order(worker.id)
        most = _LONGEST_LOG if order is None else order.limits.log_bytes + _LOG_MARGIN
        try:
            async with aclosing(self._logs(worker, 0, False)) as chunks:
                if not await keptlogs.keep(self.state, worker.id, chunks, most):
                    return f"its log has more than {most} bytes; the beginning is kept"
        except NotFoundError:  # it has none, or was cleaned before
            return ""
        except OSError as error:  # a full disk must not keep anybody from cleaning
            return f"its log could not be kept: {error.strerror}"
        except WorkerError as error:  # nor must what an agent has put in its place
            return error.message
        return ""

    async def clean_old(self) -> list[str]:
        """Clean workers that are done for longer than `defaults.clean_after`, once in a while.

        Only those that were ordered here, some at a time, and never for long.

        Returns:
            the ids of those that are removed.
        """
        after = self.config.defaults.clean_after
        if after is None or self._ledger is None or self._ledger.aside is not None:
            return []
        import asyncio

        from outpost_core.types import State

        if not await off_loop(keptlogs.is_due, self.state):
            return []
        ended = await self.ledger.workers(active=False)
        done = [w for w in ended if w.state is State.DONE]
        due = [worker.id for worker in keptlogs.old(done, after)]
        ours = [*await self.ledger.ordered(due)][:_AT_A_TIME]
        if not ours:
            return []
        cleaning = self.clean_many([*map(references.exact, ours)])
        try:
            answers = await asyncio.wait_for(cleaning, _FOR_SO_LONG)
        except TimeoutError:  # what was cleaned is known, the rest comes next time
            return []
        return [w for w, a in answers.items() if not isinstance(a, OutpostError) and a.removed]
