"""An outpost object whose other half answers at the end of a byte stream.

Each hook is a question of `caller`, and its answer is looked at; a log continues where it was when
the stream broke.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from outpost_core import wire
from outpost_core.backend import BuildContext, OutpostOptions
from outpost_core.errors import (
    NotFoundError,
    PluginError,
    SpawnRefusedError,
    UnreachableError,
    UnsupportedError,
    UsageError,
)
from outpost_core.hookspecs import CAPABILITIES, TRAITS, hookimpl
from outpost_core.types import Cleaned, Facts, Finding, Health, Json, Message, Order, WorkerStatus
from outpost_exec.stdio.caller import Caller
from outpost_exec.stdio.client import Client
from outpost_exec.stdio.pieces import Piece, Pieces
from outpost_shared import border
from outpost_shared.protocol import MAX_FRAME, MAX_RAW, FrameTooLargeError, clean, data_of

T = TypeVar("T")

#: Bytes of a log that fit a line of a server that knows only lines, as base64.
LINE_DATA: Final = (MAX_FRAME - 1024) // 4 * 3
#: Seconds that a follower's request waits for output.
WAIT: Final = 20.0
#: Seconds that a piece of a log may take beyond what its request waits.
_LATE: Final = 15.0
#: Seconds in which a server says how a worker is shown.
_VIEWER: Final = 20.0
#: Longest word for what a server told last of changes, in characters.
_WORD: Final = 200
#: Workers or messages of one list; more are taken for a list that never ends.
_MOST_ITEMS: Final = border.MOST_WORKERS
#: capability → its method, where they are called differently.
_METHODS: Final = {"attach": "viewer"}


class HeadlessStdioOutpost(Caller):
    """An outpost that is served by a program, with workers that have no terminal and no mail.

    A subclass gives `connect`, and `capabilities`. It may call further methods of its server
    with `call`, and override a hook, marked with `@hookimpl` again.
    """

    #: Id of the only worker that the server's machine ever has; "" for one that has any number.
    only_worker: str = ""

    def __init__(self, name: str, options: OutpostOptions, context: BuildContext) -> None:
        super().__init__(name, options, context)
        self._followers = 0
        self._seen: dict[str, tuple[Json, WorkerStatus]] = {}

    # --- required -----------------------------------------------------------------------------

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Hand the order over, with the values of its secrets apart from it.

        Raises:
            SpawnRefusedError: nothing was started.
            ConflictError: the id exists with another order.
            UnreachableError: nothing is known, unless it says `sent=False`.
            UnsupportedError: the server does not offer what the order needs.
        """
        client = await self.client()
        self._check_needs(client, order)
        try:
            return self._read(WorkerStatus, await self.call("spawn", spawn_params(order)), "spawn")
        except FrameTooLargeError as error:
            raise SpawnRefusedError(error.message, hint=error.hint) from error

    def _check_needs(self, client: Client, order: Order) -> None:
        rig = order.rig is not None
        needs = {
            "secrets": bool(order.secrets),
            "interactive": order.agent.interactive,
            "rig": rig,
        }
        for trait, needed in needs.items():
            if needed and trait not in client.hello.capabilities:
                raise UnsupportedError(
                    f"the program of {self.name} ({client.hello.server}) does not offer {trait!r},"
                    f" which {order.worker} needs",
                    hint=f"outpost doctor {self.name}",
                )

    @hookimpl
    async def outpost_list(self) -> Sequence[WorkerStatus]:
        """Return all workers, read page by page where there are many."""
        for _ in range(3):
            with suppress(NotFoundError):  # a page of a list that the server has forgotten
                return await self._list_once()
        raise UnreachableError(
            f"{self.name} forgets its list while it is read", hint=f"outpost doctor {self.name}"
        )

    async def _list_once(self) -> list[WorkerStatus]:
        seen: dict[str, tuple[Json, WorkerStatus]] = {}
        found: list[WorkerStatus] = []
        async for item in self._pages("list", "workers", {}):
            name = item.get("id") if isinstance(item, dict) else None
            before = self._seen.get(name) if isinstance(name, str) else None
            known = before is not None and before[0] == item  # to compare is cheap, to build is not
            status = before[1] if before is not None and known else self._status(item)
            seen[status.id] = (item, status)
            found.append(status)
        self._seen = seen
        return found

    def _status(self, item: Json) -> WorkerStatus:
        """Return what a list says of one worker; what cannot be read is that worker's trouble.

        Raises:
            PluginError: nobody can say which worker it is.
        """
        if not isinstance(item, dict) or not isinstance(item.get("id"), str):
            raise self._odd("list")
        try:
            return wire.from_json(WorkerStatus, item)
        except (UsageError, RecursionError) as error:
            return border.unreadable(item, clean(str(error), 200))

    async def _pages(
        self, method: str, key: str, params: Mapping[str, Json]
    ) -> AsyncIterator[Json]:
        cursor: Json = None
        count = 0
        while True:
            more: dict[str, Json] = {} if cursor is None else {"after": cursor}
            page = self._object(await self.call(method, {**params, **more}), method)
            items, before, cursor = page.get(key), cursor, page.get("next")
            if not isinstance(items, list) or not isinstance(cursor, str | None):
                raise self._odd(method)
            for item in items:
                yield item
            if cursor is None:
                return
            count += len(items)
            if cursor == before or not items:
                raise self._odd(method)
            if count >= _MOST_ITEMS:
                raise self._odd(method, f"a list of more than {_MOST_ITEMS} without an end")

    @hookimpl
    async def outpost_ping(self) -> Health:
        """Ask whether a worker could be started there now."""
        return self._read(Health, await self.call("ping"), "ping")

    @hookimpl
    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """Yield the worker's output from byte `offset` on, across broken channels.

        With `follow`, an outpost that cannot be reached is waited for, however long, until it is
        closed.

        Raises:
            NotFoundError: there is no such worker.
            UnreachableError: no answer, without `follow`; or the outpost was closed.
        """
        pieces = Pieces(self._log_piece, worker, offset, follow=follow)
        self._followers += follow
        try:
            while not pieces.over:
                try:
                    data = await pieces.next()
                except UnreachableError as error:
                    if not follow or self._closed:
                        raise
                    await pieces.broken(error)
                    continue
                if data:
                    yield data
        finally:
            self._followers -= follow
            await pieces.aclose()

    async def _log_piece(
        self, worker: str, offset: int, size: int, *, wait: bool, behind: int
    ) -> Piece:
        client = await self.client()
        seconds = self._wait(client.hello.inflight) if wait else 0.0
        most = min(size, MAX_RAW if client.hello.raw else LINE_DATA)
        params: dict[str, Json] = {
            "worker": worker, "offset": offset, "max": most, "wait": seconds
        }  # fmt: skip
        answer = self._object(
            await self._asked(
                "logs", params, repeat=True, due=seconds, deadline=seconds + _LATE * (1 + behind)
            ),
            "logs",
        )
        end = answer.get("end")
        try:
            data = data_of(answer)
        except ValueError:
            raise self._odd("logs") from None
        if len(data) > most or not isinstance(end, bool):
            raise self._odd("logs")
        # who follows others needs places too, and who knows only lines sends shorter pieces
        room = bool(client.hello.raw) and self._followers <= client.hello.inflight // 4
        return Piece(data=data, end=end, full=len(data) == most, room=room)

    def _wait(self, inflight: int) -> float:
        """Return how long a follower's request may wait, so that others find a place too."""
        if inflight == 1:
            return 0.0
        if self._followers <= inflight // 2:
            return WAIT
        return 1.0 if self._followers < inflight else 0.1

    @hookimpl
    async def outpost_stop(self, worker: str, grace: float) -> None:
        """Ask for the worker's end."""
        await self.call("stop", {"worker": worker, "grace": grace})

    # --- optional -----------------------------------------------------------------------------

    @hookimpl
    async def outpost_clean(self, worker: str, force: bool) -> Cleaned:
        """Remove an ended worker's files there."""
        answer = await self.call("clean", {"worker": worker, "force": force})
        return self._read(Cleaned, answer, "clean")

    @hookimpl
    async def outpost_facts(self, programs: Sequence[str]) -> Facts:
        """Ask the server how much its place has, and which programs are installed there."""
        return self._read(Facts, await self.call("facts", {"programs": [*programs]}), "facts")

    @hookimpl
    async def outpost_doctor(self, rig: str | None) -> Sequence[Finding]:
        """Compare what is declared with what the server offers, and ask it for its own view."""
        client = await self.client()
        hello = client.hello
        findings = [Finding(check="program", ok=True, detail=hello.server)]
        lacking = sorted(self.capabilities - self.offered(client))
        if lacking:
            findings.append(
                Finding(
                    check="capabilities",
                    ok=False,
                    detail=f"the program does not offer {', '.join(lacking)}",
                    hint=f"take out what it lacks from `capabilities` of {self.name}, or use a"
                    " version of the program that has it",
                )
            )
        if "doctor" in hello.methods:
            answer = self._object(await self.call("doctor", {"rig": rig}), "doctor")
            found = answer.get("findings")
            if not isinstance(found, list):
                raise self._odd("doctor")
            findings += [self._read(Finding, item, "doctor") for item in found]
        return findings

    def offered(self, client: Client) -> frozenset[str]:
        """Return the capabilities that the server offers, or that need nothing of it."""
        hello = client.hello
        methods = {c for c in CAPABILITIES if _METHODS.get(c, c) in hello.methods}
        return frozenset(methods | (hello.capabilities & TRAITS.keys()) | {"doctor", "price"})

    @hookimpl
    async def outpost_changes(self) -> AsyncIterator[None]:
        """Yield once the server watches, and whenever workers there may have changed.

        Raises:
            UnreachableError: the channel broke; whoever wants to hear more asks again.
            UnsupportedError: the server cannot tell, or takes one request at a time.
        """
        client = await self.client()
        if client.hello.inflight == 1:
            raise UnsupportedError(f"the program of {self.name} takes one request at a time")
        seen = ""
        while True:
            params: dict[str, Json] = {"wait": WAIT, "after": seen}
            asked = self._asked("changes", params, repeat=True, due=WAIT, deadline=WAIT + _LATE)
            now = self._object(await asked, "changes").get("now")
            if not isinstance(now, str) or len(now) > _WORD:
                raise self._odd("changes")
            if now != seen:
                seen = now
                yield

    async def viewer(self, worker: str) -> list[str]:
        """Return the argv that shows the worker on a terminal of the server's machine.

        Raises:
            UnreachableError: the server did not say it in time.
            OutpostError: it cannot, or says something odd.
        """
        # nobody else bounds this: what comes afterwards lasts until the user detaches
        said = await self._asked("viewer", {"worker": worker}, repeat=True, deadline=_VIEWER)
        answer = self._object(said, "viewer")
        argv = answer.get("argv")
        words = [word for word in argv if isinstance(word, str)] if isinstance(argv, list) else []
        if not words or words != argv or any("\0" in word for word in words):
            raise self._odd("viewer")
        return words

    # --- what the server says -----------------------------------------------------------------

    def _read(self, kind: type[T], data: Json, method: str) -> T:
        try:
            return wire.from_json(kind, data)
        except (UsageError, RecursionError) as error:
            raise self._odd(method, str(error)) from None

    def _object(self, data: Json, method: str) -> dict[str, Json]:
        if not isinstance(data, dict):
            raise self._odd(method)
        return data

    def _odd(self, method: str, why: str = "") -> PluginError:
        return PluginError(
            f"the program of {self.name} answered {method} with something odd"
            + (f": {clean(why, 200)}" if why else ""),
            hint="this is a defect of the program, see docs/reference/protocol.md",
        )


class StdioOutpost(HeadlessStdioOutpost):
    """An outpost that is served by a program at the other end of a byte stream; all that can be."""

    @hookimpl
    async def outpost_nudge(self, worker: str, text: str) -> None:
        """Type into the worker's terminal; asked once only, since twice would be typed twice."""
        await self.call("nudge", {"worker": worker, "text": text}, repeat=False)

    @hookimpl
    async def outpost_peek(self, worker: str, lines: int) -> str:
        """Return the last lines of the worker's screen."""
        answer = self._object(await self.call("peek", {"worker": worker, "lines": lines}), "peek")
        if not isinstance(answer.get("text"), str):
            raise self._odd("peek")
        return str(answer["text"])

    @hookimpl
    async def outpost_mail(self, message: Message) -> None:
        """Hand a message over; one without an id is never handed over twice."""
        await self.call("mail", {"message": wire.to_json(message)}, repeat=bool(message.id))

    @hookimpl
    async def outpost_inbox(self, identity: str) -> Sequence[Message]:
        """Return the messages that wait there."""
        pages = self._pages("inbox", "messages", {"identity": identity})
        return [self._letter(item) async for item in pages]

    def _letter(self, item: Json) -> Message:
        """Return one message of an inbox; what cannot be read hides no other."""
        try:
            return wire.from_json(Message, item)
        except (UsageError, RecursionError) as error:
            return border.unreadable_message(str(error))


def spawn_params(order: Order) -> dict[str, Any]:
    """Return the params of `spawn`: the order, the values of its secrets, and its digest."""
    return {
        "order": wire.to_json(order),
        "secrets": {name: order.secrets[name] for name in order.secrets},
        "digest": wire.digest(order),
    }
