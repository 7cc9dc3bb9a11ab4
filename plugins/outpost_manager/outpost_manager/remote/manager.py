"""The manager of a server, asked over its API: what commands ask with `--server`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias, TypeVar

from outpost_core.errors import NotFoundError, OutpostError, UnreachableError
from outpost_manager.ledger.entries import Added
from outpost_manager.placing import references
from outpost_manager.remote import answers, parse, sse
from outpost_manager.remote.client import Client, Query, segment
from outpost_manager.remote.fields import Fields, NotBelievedError
from outpost_manager.remote.mailing import Mailing
from outpost_shared.backoff import reaching_again

if TYPE_CHECKING:
    from outpost_core.types import Cleaned, Event, Explanation, Health, Order, Worker
    from outpost_manager.fleet.overview import OutpostView
    from outpost_manager.ledger import Entry
    from outpost_manager.managing import Shown, Spending
    from outpost_manager.orders.making import OrderRequest
    from outpost_manager.placing.accountviews import AccountView
    from outpost_manager.placing.pending import Spawned

T = TypeVar("T")
#: What a server started: workers, issues that were refused and why, hints.
Started: TypeAlias = "tuple[list[Spawned], list[tuple[str, OutpostError]], list[str]]"

#: Rows that are asked for at once, and pages at the most.
_PAGE: Final = 1000
_PAGES: Final = 1000
#: Seconds that one question for the end of a worker waits, and questions at once.
_POLL: Final = 20.0
_AT_ONCE: Final = 32
#: Seconds without a heartbeat after which a stream of events counts as cut.
_SILENCE: Final = 60.0
#: Seconds without a byte of a log after which it is asked for again.
_QUIET: Final = 300.0


class RemoteManager(Mailing):
    """What commands ask of a server; see `managing.Managing`. Use it as an async context manager.

    Every method raises `UnreachableError` when the server cannot be asked.

    Args:
        client: reaches the server.
        environ: the environment of whoever asks.
        cwd: where he stands.
    """

    def __init__(self, client: Client, environ: Mapping[str, str], cwd: Path) -> None:
        self.client = client
        self._environ = environ
        self._cwd = cwd

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    def read(self, make: Callable[[Any], T], data: object) -> T:
        """Return what a document says.

        Args:
            make: reads it; raises `NotBelievedError` for what it does not believe.
            data: the document, or a part of it.

        Raises:
            UnreachableError: it makes no sense.
        """
        try:
            return make(data)
        except NotBelievedError as error:
            raise answers.strange(self.client.at.shown, str(error)) from None

    def each(self, make: Callable[[object], T], said: dict[str, Any], key: str) -> list[T]:
        """Return what the rows of an answer say; raises as `read` does."""
        return self.read(lambda data: Fields.of_answer(data).each(key, make), said)

    # --- outposts and accounts ----------------------------------------------------------------

    async def outposts(self) -> list[OutpostView]:
        """Describe every outpost of the server, without having it ask any."""
        return self.each(parse.outpost, await self.client.get("/v1/outposts"), "outposts")

    async def refresh(self, names: Iterable[str] | None = None) -> list[OutpostView]:
        """Have the server ask its outposts; describe all of them."""
        said = await self.client.get("/v1/outposts", {"refresh": True})
        views = self.each(parse.outpost, said, "outposts")
        known = [view.name for view in views]
        for name in names or ():
            if name not in known:
                from outpost_core.nearest import suggest

                raise NotFoundError(f"there is no outpost {name[:80]!a}", hint=suggest(name, known))
        return views

    async def look(self, names: Iterable[str] | None = None) -> dict[str, OutpostError]:
        """Have the server ask its outposts; return why each told nothing that told nothing."""
        said = await self.client.get("/v1/workers", {"refresh": True, "limit": 1})

        def silent(data: object) -> dict[str, OutpostError]:
            return {
                one.text("outpost"): UnreachableError(one.text("message"), hint=one.text("hint"))
                for one in Fields.of_answer(data).objects("not_told")
            }

        found = self.read(silent, said)
        wanted = None if names is None else set(names)
        return {name: why for name, why in found.items() if wanted is None or name in wanted}

    async def ping(self, names: Iterable[str] | None = None) -> Mapping[str, Health | OutpostError]:
        """Have the server ask outposts whether they would take a worker now."""
        asked = [view.name for view in await self.outposts()] if names is None else [*names]

        async def ask(name: str) -> tuple[str, Health | OutpostError]:
            said = await self.client.get(f"/v1/outposts/{segment(name)}/ping")
            found = self.each(parse.ping, said, "outposts")
            if not found:
                raise answers.strange(self.client.at.shown, "it names no outpost")
            return name, found[0]

        return dict(await self._together(ask, asked))

    async def reset_breaker(self, kind: str, name: str) -> None:
        """Close the circuit breaker of an outpost or account."""
        await self.client.post(f"/v1/{kind}s/{segment(name)}/breaker/reset")

    async def accounts(self) -> list[AccountView]:
        """Return the accounts."""
        return self.each(parse.account, await self.client.get("/v1/accounts"), "accounts")

    async def unpark(self, account: str) -> None:
        """Let a parked account be used again at once."""
        await self.client.post(f"/v1/accounts/{segment(account)}/unpark")

    async def spending(self, by: str, seconds: float, forecast: bool) -> Spending:
        """Say what was spent, as the server knows it."""
        from outpost_manager.remote import parsemoney

        query: Query = {
            "by": by,
            "since": f"{seconds:.3f}s" if seconds else "0",
            "forecast": forecast,
        }
        return self.read(parsemoney.spending, await self.client.get("/v1/cost", query))

    # --- orders -------------------------------------------------------------------------------

    async def _orders(self, requests: Sequence[OrderRequest], on: str | None) -> dict[str, Any]:
        from outpost_manager.remote.requests import prepared

        at = self.client.at
        said = await asyncio.to_thread(prepared, requests, at, self._environ, self._cwd)
        return {"requests": said} | ({} if on is None else {"on": on})

    async def spawn_requests(
        self, requests: Sequence[OrderRequest], on: str | None, wait: float = 0.0
    ) -> Started:
        """Have workers started.

        Args:
            requests: what is to be done.
            on: the one outpost for them; None lets the policy of the server choose.
            wait: seconds for which the server tries again what finds everything full.

        Returns:
            those that are there now, the issues that were refused and why, and hints.
        """
        return await self._start("/v1/workers", await self._orders(requests, on), wait)

    async def retry(
        self,
        issues: Sequence[str],
        on: str | None,
        wait: float = 0.0,
        *,
        failed: bool = False,
        since: float | None = None,
    ) -> Started:
        """Have what failed tried again; answers as `spawn_requests` does.

        Args:
            issues: whose last attempt failed.
            on: as there.
            wait: as there.
            failed: all whose last attempt failed, in place of `issues`.
            since: of those, only what ended so many seconds ago, or later.
        """
        said: dict[str, Any] = {"failed": True, "since": since} if failed else {"issues": [*issues]}
        return await self._start("/v1/retry", said | ({} if on is None else {"on": on}), wait)

    async def go_on(
        self, issue: str, text: str, *, on: str | None, fresh: bool, wait: float = 0.0
    ) -> Started:
        """Have delivered work continued; answers as `spawn_requests` does.

        Args:
            issue: whose work.
            text: what else is to be done.
            on: as there.
            fresh: with a new session of the agent.
            wait: as there.
        """
        said: dict[str, Any] = {"issue": issue, "text": text, "fresh": fresh}
        return await self._start("/v1/continue", said | ({} if on is None else {"on": on}), wait)

    async def _start(self, path: str, said: dict[str, Any], wait: float) -> Started:
        return self._spawned(await self.client.post(path, said, {"wait": wait or None}))

    async def mayor_host(self) -> str:
        """Return the name of the machine that the mayor runs on; "" where it does not say."""
        said = await self.client.get("/v1/mayor")
        return self.read(lambda data: Fields.of_answer(data).text("host"), said)

    def _spawned(self, said: dict[str, Any]) -> Started:
        refused = self.each(parse.refused, said, "refused")
        hints = self.read(lambda data: Fields.of_answer(data).words("hints"), said)
        return self.each(parse.spawned, said, "spawned"), refused, [*hints]

    async def explain_requests(
        self, requests: Sequence[OrderRequest], on: str | None
    ) -> list[tuple[str, str, Explanation]]:
        """Have it said where orders would go: issue, worker, and why."""
        said = await self.client.post("/v1/explain", await self._orders(requests, on))
        return self.each(parse.explained, said, "explanations")

    async def enqueue_requests(
        self,
        requests: Sequence[OrderRequest],
        *,
        on: str | None = None,
        batch: str = "",
        after: Sequence[str] = (),
        not_before: float = 0.0,
        retries: int = 0,
    ) -> list[Added]:
        """Have requests put into the queue, all or none."""
        more = {
            "batch": batch,
            "after": [*after],
            "not_before": datetime.fromtimestamp(not_before, UTC).isoformat()
            if not_before
            else None,
            "retries": retries,
        }
        said = await self.client.post("/v1/queue", await self._orders(requests, on) | more)
        there = self.read(lambda data: Fields.of_answer(data).words("there"), said)
        entries = await self._together(self.entry, there)
        return [
            *(Added(entry=one, new=True) for one in self.each(parse.entry, said, "queued")),
            *(Added(entry=one[0], new=False) for one in entries),
        ]

    async def entry(self, issue: str) -> tuple[Entry, list[str]]:
        """Return an entry of the queue, and what has to be done first."""
        said = await self.client.get(f"/v1/queue/{segment(issue)}")

        def made(data: object) -> tuple[Entry, list[str]]:
            answer = Fields.of_answer(data)
            return parse.entry(answer.data.get("entry")), [*answer.words("needs")]

        return self.read(made, said)

    # --- workers ------------------------------------------------------------------------------

    async def workers(
        self,
        *,
        all: bool = False,  # noqa: A002
        refresh: bool = True,
    ) -> list[Worker]:
        """Return workers, newest first; without `all` those that have not ended."""
        return await self._workers(all, refresh)

    async def _workers(
        self, everything: bool, refresh: bool, enough: Callable[[Worker], bool] = lambda _: False
    ) -> list[Worker]:
        found: dict[str, Worker] = {}
        after: str | None = None
        for _ in range(_PAGES):
            said = await self.client.get(
                "/v1/workers",
                {"all": everything, "refresh": refresh or None, "limit": _PAGE, "after": after},
            )
            page = self.each(parse.worker, said, "workers")
            fresh = [one for one in page if one.id not in found]
            found |= {one.id: one for one in fresh}
            if len(page) < _PAGE or not fresh or enough(page[-1]):
                break
            after, refresh = page[-1].id, False
        return [*found.values()]

    async def ended_since(self, moment: float) -> list[Worker]:
        """Return the workers that ended then or later."""
        return [
            one
            for one in await self._workers(True, False)
            if one.state.terminal and (one.finished_at or 0.0) >= moment
        ]

    async def those(self, ids: Sequence[str]) -> list[Worker]:
        """Return workers by their ids, as far as they are known."""

        async def ask(name: str) -> Worker | None:
            try:
                return await self.find(references.exact(name))
            except NotFoundError:
                return None

        return [one for one in await self._together(ask, ids) if one is not None]

    async def _together(self, ask: Callable[[str], Any], names: Sequence[str]) -> list[Any]:
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(name: str) -> Any:
            async with room:
                return await ask(name)

        tasks = [asyncio.ensure_future(one(name)) for name in names]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def find(self, ref: str) -> Worker:
        """Return a worker as the server knows it."""
        return (await self._shown(ref)).worker

    async def worker(self, ref: str) -> Worker:
        """Return a worker after having its outpost asked."""
        return await self.find(ref)

    async def _shown(self, ref: str) -> Shown:
        said = await self.client.get(f"/v1/workers/{segment(ref)}")
        return self.read(parse.shown, said)

    async def shown(self, ref: str) -> Shown:
        """Return everything about a worker."""
        found = await self._shown(ref)
        try:
            entry, _ = await self.entry(found.worker.issue)
        except NotFoundError:
            return found
        return replace(found, entry=entry)

    async def order_of(self, worker: str) -> Order | None:
        """Return the order of a worker; None where it was not ordered by the server."""
        return (await self._shown(references.exact(worker))).order

    async def was_cleaned(self, worker: str) -> bool:
        """Say whether the files of a worker were removed."""
        shown = await self._shown(references.exact(worker))
        return any(event.kind == "cleaned" for event in shown.events)

    async def logs(self, ref: str, offset: int = 0, follow: bool = False) -> AsyncIterator[bytes]:
        """Yield a worker's output from byte `offset` on; `follow` until it has ended.

        Raises:
            UnreachableError: the line was cut, or the server ended it: go on at the byte where
                it was.
        """
        async with aclosing(self._log(ref, offset, follow)) as chunks:
            async for chunk in chunks:
                offset += len(chunk)
                yield chunk
        if not follow:
            return
        if not (await self.find(ref)).state.terminal:
            raise UnreachableError(f"{self.client.at.shown} ended the log; its mayor may end")
        async with aclosing(self._log(ref, offset, False)) as chunks:
            async for chunk in chunks:  # what came between the end of the stream and that of it
                yield chunk

    async def _log(self, ref: str, offset: int, follow: bool) -> AsyncGenerator[bytes, None]:
        path = f"/v1/workers/{segment(ref)}/logs"
        # a worker may say nothing for hours, and a line that is cut does not tell
        async with self.client.stream(
            "GET", path, {"offset": offset, "follow": follow},
            headers={"Accept": "application/octet-stream"}, silence=_QUIET,
        ) as answer:  # fmt: skip
            async for chunk in answer.aiter_raw():
                yield chunk

    async def wait(
        self,
        ids: Sequence[str],
        *,
        timeout: float | None = None,
        on_change: Callable[[Worker], None] | None = None,
    ) -> list[Worker]:
        """Wait until workers have ended; a server that cannot be reached is waited for."""
        deadline = None if timeout is None else time.monotonic() + timeout

        async def ask(ref: str) -> Worker:
            return await self._wait(ref, deadline, on_change)

        return await self._together(ask, ids)

    async def _wait(
        self, ref: str, deadline: float | None, on_change: Callable[[Worker], None] | None
    ) -> Worker:
        known = await self.find(ref)
        exact, again = references.exact(known.id), reaching_again()
        path = f"/v1/workers/{segment(exact)}/wait"
        while True:
            if on_change is not None:
                on_change(known)
            left = _POLL if deadline is None else min(_POLL, deadline - time.monotonic())
            if known.state.terminal or left <= 0:
                return known
            try:
                said = await self.client.get(path, {"timeout": round(left, 3)})
                known = self.each(parse.worker, said, "workers")[0]
                again.reset()
            except UnreachableError:
                if deadline is not None and time.monotonic() >= deadline:
                    return known
                await again.wait()
            except IndexError:
                raise answers.strange(self.client.at.shown, "it names no worker") from None

    async def stop(self, ref: str, grace: float | None = None) -> Worker:
        """Have the server ask for the end of a worker."""
        path = f"/v1/workers/{segment(ref)}/stop"
        await self.client.post(path, {} if grace is None else {"grace": grace})
        return await self.find(ref)

    async def forget(self, ref: str) -> Worker:
        """Have the server give a worker up whose outpost is no longer configured."""
        await self.client.post(f"/v1/workers/{segment(ref)}/forget")
        return await self.find(ref)

    async def nudge(self, ref: str, text: str) -> None:
        """Type text and Enter into an interactive worker."""
        await self.client.post(f"/v1/workers/{segment(ref)}/nudge", {"text": text})

    async def peek(self, ref: str, lines: int = 50) -> str:
        """Return what the worker's terminal shows."""
        said = await self.client.get(f"/v1/workers/{segment(ref)}/peek", {"lines": lines})
        return self.read(lambda data: Fields.of_answer(data).text("text"), said)

    async def ordered_here(self, ids: Sequence[str]) -> set[str]:
        """Return those of the workers that were ordered by the server."""

        async def ask(name: str) -> str:
            return name if await self.order_of(name) is not None else ""

        return {*await self._together(ask, ids)} - {""}

    async def clean_many(
        self, names: Sequence[str], *, force: bool = False, purge: bool = False
    ) -> dict[str, Cleaned | OutpostError]:
        """Have the server remove the files of ended workers."""

        async def ask(name: str) -> tuple[str, Cleaned | OutpostError]:
            try:
                path = f"/v1/workers/{segment(name)}/clean"
                said = await self.client.post(path, {"force": force, "purge": purge})
            except OutpostError as error:
                return name.removeprefix(references.WORKER), error
            (row, *_) = self.each(_named, said, "cleaned") or [("", None)]
            return row[0] or name, self.read(parse.cleaned, row[1])

        return dict(await self._together(ask, [*dict.fromkeys(names)]))

    # --- what happened ------------------------------------------------------------------------

    async def newest_events(self, of: str | None, limit: int) -> tuple[list[Event], int]:
        """Return the newest events, oldest first, and the id of the newest of all."""
        return await self._page({"worker": of, "limit": min(limit, _PAGE)})

    async def events_after(self, after: int, of: str | None, limit: int) -> tuple[list[Event], int]:
        """Return what happened behind an event, oldest first, and where to go on."""
        return await self._page({"after": after, "worker": of, "limit": min(limit, _PAGE)})

    async def _page(self, query: dict[str, Any]) -> tuple[list[Event], int]:
        if query["worker"] is not None:
            query["worker"] = references.exact(query["worker"])
        said = await self.client.get("/v1/events", query)
        found = self.each(parse.event, said, "events")
        return found, self.read(lambda data: Fields.of_answer(data).whole("last"), said)

    async def events(self, after: int | None = None) -> AsyncGenerator[Event, None]:
        """Yield what happens; never ends. A cut line is taken up where it was."""
        again, seen = reaching_again(), after
        while True:
            try:
                async with aclosing(self._stream(seen)) as stream:
                    async for event, at in stream:
                        seen = at
                        again.reset()
                        if event is not None:
                            yield event
            except UnreachableError:
                if seen is None:
                    raise  # it was never reached
            await again.wait()

    async def _stream(
        self, after: int | None
    ) -> AsyncGenerator[tuple[Event | None, int | None], None]:
        async with self.client.stream(
            "GET", "/v1/events", {"after": after},
            headers={"Accept": "text/event-stream"}, silence=_SILENCE,
        ) as answer:  # fmt: skip
            try:
                async for said in sse.events(answer.aiter_raw()):
                    at = int(said.id) if said.id.isascii() and said.id.isdigit() else after
                    if not said.data:
                        yield None, at
                        continue
                    event = parse.event(answers.document(said.data.encode(), self.client.at.shown))
                    if after is None or event.id > after:
                        after = event.id
                        yield event, after
            except NotBelievedError as error:
                raise answers.strange(self.client.at.shown, str(error)) from None


def _named(data: object) -> tuple[str, object]:
    return Fields("what cleaning did", data).text("worker"), data
