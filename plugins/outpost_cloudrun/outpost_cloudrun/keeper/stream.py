"""The stream of one worker in a container: asked for, followed, and resumed until its result.

A stream breaks for a hundred reasons and none of them says anything of the worker (law 2). So it
is asked for again at the byte where it was, for as long as it takes. Where the worker runs in
another container than the one that answers, its owner is looked for, and watched with our own
clock: one that gives no sign of life for longer than the lease is dead, and only then may another
container go on from the checkpoint, or the worker be given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from outpost_cloudrun.keeper import rescue, steady
from outpost_cloudrun.keeper.disk import NotWrittenError
from outpost_cloudrun.keeper.far import Answer, BusyError
from outpost_cloudrun.keeper.lines import Line, OddLineError
from outpost_cloudrun.keeper.output import HoleError
from outpost_cloudrun.keeper.terms import Reach, Terms
from outpost_cloudrun.keeper.workerrecord import WorkerRecord
from outpost_core import wire
from outpost_core.errors import (
    ConflictError,
    NotFoundError,
    OutpostError,
    SpawnRefusedError,
    UnreachableError,
)
from outpost_core.types import Json, Result, State
from outpost_shared.backoff import Backoff, reaching_again
from outpost_shared.log import Logger

_log = Logger("cloudrun.stream")


#: Legs in a row that get nowhere, after which a worker is not continued any more.
_FRUITLESS: Final = 3
#: Part of the time that a request may take after which it is renewed, and the most seconds before
#: its end.
_RENEW: Final = 0.9
_RENEW_WITHIN: Final = 60.0
#: Seconds after which a stream that broke had lasted, so that it is asked for again at once.
_LASTED: Final = 5.0
#: Seconds between two tries to renew.
_RENEW_AGAIN: Final = 2.0

#: What of a worker's course says that its container is gone, and what that one has said last.
_MOVED: Final = "moved"


class ElsewhereError(UnreachableError):
    """Another container has the worker, and this one did not answer."""


#: What says nothing of whether it can be heard.
_ANSWERED: Final = (ElsewhereError, NotFoundError, OddLineError, HoleError, NotWrittenError)


class Stream:
    """The stream of one worker.

    Args:
        record: where all that it says is written down.
        terms: the outpost's.
        reach: gives the program at its address.

    Attributes:
        attached: whether it is being heard.
        trouble: why it could not be heard at the last try; "" while it can, or nobody tried.
        tried: set when a try to hear it has ended, one way or the other.
    """

    def __init__(self, record: WorkerRecord, terms: Terms, reach: Reach) -> None:
        self.attached = False
        self.trouble = ""
        self.tried = asyncio.Event()
        self._record = record
        self._terms = terms
        self._patience = terms.patience
        self._reach = reach
        self._answer: Answer | None = None
        self._watched: tuple[str, str, float] | None = None  # claim, sign of life, since when
        self._unknown_since: float | None = None
        self._elsewhere = 0  # how often in a row another container was named
        self._skew = 0.0  # seconds that its clock is ahead of ours
        self._said = ""  # in the log, last
        self._heard_at = 0.0  # as of `steady.now`, for the bill

    def is_of(self, record: WorkerRecord) -> bool:
        """Whether it writes to that record: one that was refused is forgotten, with its stream."""
        return self._record is record

    # --- starting --------------------------------------------------------------------------------

    async def start(self, secrets: Mapping[str, str], *, first: bool = False) -> None:
        """Have the worker started, or found; returns with the first line that tells of it.

        Args:
            secrets: the values of its secrets.
            first: its container was made just now, so that nothing was asked of it before.

        Raises:
            SpawnRefusedError: it was certainly not started.
            ConflictError: it is there with another order.
            UnreachableError: nothing is known, unless it says `sent=False`.
        """
        record = self._record
        doubt = record.course.get("asked") is True and not first
        busy = Backoff(0.5, 10.0, jitter=0.3, within=self._patience.busy)
        unclear = Backoff(0.3, 5.0, jitter=0.3, within=self._patience.doubt)
        while True:
            await asyncio.to_thread(record.remember, asked=True)
            try:
                self._answer = await self._attach(secrets=secrets)
            except BusyError as error:
                record.tell(State.QUEUED, "no instance free")
                if busy.over:
                    raise await self._refused(error, doubt) from error
                await busy.wait()
            except (SpawnRefusedError, ConflictError, NotFoundError) as error:
                raise await self._refused(error, doubt) from error
            except ElsewhereError:  # it runs, wherever that is
                return
            except UnreachableError as error:
                if not error.sent and not doubt:
                    await asyncio.to_thread(record.remember, asked=None)
                    raise
                doubt = doubt or error.sent
                if unclear.over:
                    error.sent = True
                    raise
                await unclear.wait()
            except (OddLineError, HoleError) as error:
                doubt = True
                if unclear.over:
                    raise UnreachableError(
                        f"what answers does not speak Outpost's protocol: {error}",
                        hint=f"outpost doctor {self._terms.name}; the container's image may be old",
                    ) from error
                await unclear.wait()
            else:
                return

    async def _refused(self, error: OutpostError, doubt: bool) -> OutpostError:
        """Return what is to be raised for a refusal: a request of before may still be acted on."""
        if doubt:
            return UnreachableError(
                f"{error.message}; whether an earlier request has started it is not known",
                hint=error.hint,
            )
        await asyncio.to_thread(self._record.remember, asked=None)
        if isinstance(error, ConflictError):
            return error
        return SpawnRefusedError(error.message, hint=error.hint)

    async def find(self) -> bool:
        """Look whether some container has the worker, or its record; nothing is started.

        Raises:
            ConflictError: it is there with another order.
            UnreachableError: nobody could be asked, or said something that is understood.
        """
        try:
            answer = await self._attach()
        except NotFoundError:
            return False
        except ElsewhereError:
            return True
        except (OddLineError, HoleError, SpawnRefusedError) as error:
            raise UnreachableError(f"it cannot be looked for: {error}") from error
        await answer.aclose()
        return True

    # --- following -------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Write down what the worker says until its record has its result."""
        again = reaching_again()
        try:
            while self._record.result is None:
                try:
                    answer, self._answer = self._answer, None
                    if answer is None and _MOVED in self._record.course:
                        await self._next_leg()
                        continue
                    if answer is None:
                        answer = await self._attach()
                    self._heard()
                    attached = time.monotonic()
                    try:
                        await self._read(answer)
                    finally:  # one that ends each stream at once is not asked all the time
                        if time.monotonic() - attached > _LASTED:
                            again.reset()
                except ElsewhereError as error:
                    await self._look_for_owner(error)
                except NotFoundError as error:
                    await self._unknown(error)
                except (OutpostError, OddLineError, HoleError) as error:
                    self._lost(error)
                    await again.wait()
        finally:
            self.attached = False
            if self._answer is not None:
                await self._answer.aclose()

    def _heard(self) -> None:
        self.attached, self.trouble = True, ""
        self._watched = self._unknown_since = None
        self._elsewhere = 0
        self._tell_tried()

    def _lost(self, error: Exception) -> None:
        why = error.message if isinstance(error, OutpostError) else str(error)
        if why != self._said:  # an outage may last for days
            _log.info("%s: %s", self._record.worker, why)
            self._said = why
        self.attached = False
        self.trouble = "" if isinstance(error, _ANSWERED) else why
        if isinstance(error, NotWrittenError):  # it can be heard, and that is all
            self._record.tell(self._record.status.state, why)
        self._tell_tried()

    def _tell_tried(self) -> None:
        self.tried.set()
        self.tried = asyncio.Event()

    async def _read(self, answer: Answer) -> None:
        """Read a stream to its end, and go over to another one before its request times out.

        Raises:
            UnreachableError: it broke, or ended without a result.
            OddLineError: what came is not the protocol.
            HoleError: likewise.
        """
        reader = asyncio.create_task(self._drain(answer))
        limit = self._terms.request_timeout
        pause = None if limit is None else max(limit * _RENEW, limit - _RENEW_WITHIN)
        try:
            while True:
                await asyncio.wait({reader}, timeout=pause)
                if reader.done():
                    reader.result()
                    return
                try:
                    fresh = await self._attach()
                except (OutpostError, OddLineError, HoleError):  # the old one still speaks
                    pause = _RENEW_AGAIN
                    continue
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
                await answer.aclose()
                answer, reader = fresh, asyncio.create_task(self._drain(fresh))
                self.attached = True
                assert limit is not None, "without a limit nothing is renewed"
                pause = max(limit * _RENEW, limit - _RENEW_WITHIN)
        finally:
            self.attached = False
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            await answer.aclose()

    async def _drain(self, answer: Answer) -> None:
        if self._is_over():
            return
        while (line := await answer.next(self._patience.silent)) is not None:
            if await self._take(line):
                return
        raise UnreachableError("the stream ended")

    def _is_over(self) -> bool:
        return self._record.result is not None or _MOVED in self._record.course

    # --- asking ----------------------------------------------------------------------------------

    async def _attach(
        self,
        *,
        secrets: Mapping[str, str] | None = None,
        gone: Mapping[str, Json] | None = None,
        leg: int | None = None,
    ) -> Answer:
        """Ask for the worker's stream; return it once a line of the worker itself has come.

        Args:
            secrets: the values of its secrets: it is started where it is not there. None: it is
                only to be found.
            gone: the claim that is to be taken over, and its last sign of life.
            leg: which leg it is started as.

        Raises:
            ElsewhereError: another container has it.
            OddLineError: what came is not the protocol.
            OutpostError: as of `Far.work`.
        """
        record = self._record
        far = await self._reach()
        body = await self._body(secrets, gone or {}, leg)
        cookie, begun = str(record.course.get("cookie") or ""), steady.now()
        answer, got = await far.work(body, cookie)
        try:
            first = await answer.next(self._patience.silent)
            if first is None:
                raise UnreachableError("the stream ended before it began")
            if first.claimed_by:
                self._check(first)
                self._watch(first)
                raise ElsewhereError(f"it runs in another container ({first.claimed_by})")
            self._check(first)
            self._skew = answer.skew
            await asyncio.to_thread(self._accept, got, first.instance, begun)
            await self._take(first)
        except BaseException:
            await answer.aclose()
            raise
        return answer

    def _check(self, line: Line) -> None:
        if not line.digest:
            raise OddLineError("it does not say of which order it tells")
        if line.digest != self._record.digest:
            raise ConflictError(
                f"{self._record.worker} is there with another order",
                hint=f"outpost show {self._record.worker}",
            )

    def _accept(self, cookie: str, container: str, begun: float) -> None:
        record = self._record
        self._terms.runs.asked(record, container, begun, self._heard_at)
        self._heard_at = steady.now()
        news: dict[str, Json] = {"cookie": cookie} if cookie else {}
        record.remember(**news)
        if not record.accepted:
            record.accept()

    async def _body(
        self, secrets: Mapping[str, str] | None, gone: Mapping[str, Json], leg: int | None
    ) -> dict[str, Json]:
        record, order = self._record, self._record.order
        known = record.course.get("leg")
        body: dict[str, Json] = {
            **await self.about(starting=secrets is not None),
            "context": dict(order.context),
            "digest": record.digest,
            "secrets": dict(secrets or {}),
            "after": 0,
            "offset": record.log_wanted,
            "leg": leg or (known if isinstance(known, int) else 1),
        }
        if secrets is None:
            body["attach"] = True
        if claim := gone.get("claim"):
            body["take_over"], body["seen"] = claim, gone.get("seen") or ""
        if (left := self._left()) is not None:
            body["timeout_left"] = left
        return body

    async def about(self, *, starting: bool = False) -> dict[str, Json]:
        """Return what a container needs to find the worker's record.

        Args:
            starting: something is to be started with it. Else a command for git's credentials that
                fails (who called it has logged out, say) keeps nobody from a worker that runs.

        Raises:
            SpawnRefusedError: that command failed.
        """
        order = self._record.order
        try:
            login = await self._terms.credentials(self._record)
        except SpawnRefusedError as error:
            if starting:
                raise
            _log.info("%s: %s", self._record.worker, error.message)
            login = ""
        return {
            "issue_id": order.issue.id,
            "rig_url": order.rig,
            "order": wire.to_json(order),
            "git_credentials": login,
        }

    def _left(self) -> float | None:
        """Return how many seconds the agent may still run; None for no limit."""
        limit, begun = self._record.order.limits.timeout, self._record.status.started_at
        if limit is None or begun is None or not self._record.accepted:
            return limit
        return limit - steady.since(begun, limit)

    # --- what a line says ------------------------------------------------------------------------

    async def _take(self, line: Line) -> bool:
        """Write down what a line says; return whether it was the worker's last."""
        record = self._record
        self._heard_at = steady.now()
        if record.result is not None:
            return True
        if line.offset is not None and line.data:
            record.put_log(line.offset, line.data)
        if line.moving:
            said: dict[str, Json] = {"claim": line.claim, "checkpoint": line.checkpoint}
            await asyncio.to_thread(record.remember, **{_MOVED: said})
            return True
        if line.result is not None:
            await self._ended(line.result)
            return True
        if line.state is not None and not line.state.terminal and not line.beat:
            begun = steady.now() if line.state in (State.WORKING, State.IDLE) else None
            record.tell(line.state, line.detail, started_at=begun, usage=line.usage)
        return False

    async def _ended(self, result: Result) -> None:
        """Bring unpushed work home that no rig took, and write the result down."""
        record = self._record
        checkpoint, said = result.checkpoint, ""
        if checkpoint is not None and not checkpoint.startswith("refs/"):
            checkpoint, said = await self._rescue()
        legs = record.course.get("moves")
        if isinstance(legs, int) and legs:
            times = "once" if legs == 1 else f"{legs} times"
            said += f"; continued {times} from its checkpoint, as its container was taken away"
        result = replace(
            result,
            checkpoint=checkpoint,
            started_at=self._here(result.started_at),
            finished_at=self._here(result.finished_at),
            message=(result.message + said).removeprefix("; "),
        )
        await self._finish(result)

    def _here(self, moment: float | None) -> float | None:
        """Return a moment as our clock would have shown it."""
        return None if moment is None else max(moment - self._skew, 0.0)

    async def _finish(self, result: Result) -> None:
        """Write the result down, with what it cost by our own account."""
        record = self._record
        if self._terms.finish is not None:
            await self._terms.finish(record, result)
            return

        def settle() -> None:
            record.finish(replace(result, cost_usd=self._terms.runs.cost(record)))

        await asyncio.to_thread(settle)

    async def let_go(self) -> None:
        """End it here, whatever its container does: nobody reserved money for more of it."""
        result = Result(
            state=State.LOST,
            reason="timeout",
            message="it did not end at its time limit, so its container was let go",
            started_at=self._record.status.started_at,
        )
        await self._finish(result)

    async def _rescue(self) -> tuple[str | None, str]:
        """Return where unpushed work is now, and what is to be said of it."""
        record = self._record
        cookie = str(record.course.get("cookie") or "")
        why = ""
        again = Backoff(0.5, 10.0, within=self._patience.rescue)
        async for _ in again.rounds():
            try:
                far = await self._reach()
                pieces = far.bundle(
                    record.worker, cookie, owner=record.order.owner, digest=record.digest
                )
                async with asyncio.timeout(self._patience.bundle), contextlib.aclosing(pieces):  # type: ignore[type-var]
                    return await rescue.bring_home(record, pieces)
            except OutpostError as error:
                why = error.message
            except TimeoutError:
                why = f"it was still coming after {self._patience.bundle:g} s"
        return None, f"; its unpushed work could not be brought here: {why}"

    # --- another container ------------------------------------------------------------------------

    def _watch(self, line: Line) -> None:
        """Note the sign of life of the worker's owner, with the moment at which it was new."""
        before = self._watched
        if before is None or before[:2] != (line.claim, line.seen):
            self._watched = (line.claim, line.seen, time.monotonic())

    async def _look_for_owner(self, error: ElsewhereError) -> None:
        """Wait before the next try to find it; take its work over when it is dead."""
        self._lost(error)
        if not self._record.accepted:
            await asyncio.to_thread(self._record.accept)
        assert self._watched is not None, "it was told of"
        claim, seen, since = self._watched
        silent = time.monotonic() - since
        if silent > self._patience.lease:
            said: dict[str, Json] = {"claim": claim, "seen": seen, "silent": True}
            await asyncio.to_thread(self._record.remember, **{_MOVED: said})
            return
        # each request goes to whichever container the front picks
        self._elsewhere += 1
        await asyncio.sleep(min(0.1 + silent / 10 + self._elsewhere / 50, 5.0))

    async def _next_leg(self) -> None:
        """Go on in another container, or end a worker whose container is gone.

        What has to be known for that is written down, since the keeper may be killed in between,
        or nobody may answer at first.
        """
        record = self._record
        gone = record.course.get(_MOVED)
        told = gone if isinstance(gone, dict) else {}
        checkpoint = told.get("checkpoint")
        secrets = record.kept_secrets()
        fruitless = _number(record, "fruitless") + 1 if self._leg_was_short() else 0
        left = self._left()
        if (
            self._terms.resume
            and secrets is not None
            and fruitless < _FRUITLESS
            and (left is None or left > 0)
            and record.stop_grace is None
        ):
            leg = max(_number(record, "leg"), 1) + 1
            record.tell(State.STARTING, "continues from its checkpoint in another container")
            self._answer = await self._attach(secrets=secrets, gone=told, leg=leg)
            await asyncio.to_thread(
                record.remember,
                leg=leg,
                leg_at=steady.now(),
                fruitless=fruitless,
                moves=_number(record, "moves") + 1,
            )
            await self._went_on(gone)
        elif told.get("silent"):
            # whoever is asked ends it in the record, so that its owner delivers nothing any more
            self._answer = await self._attach(gone=told)
            await self._went_on(gone)
        else:
            await self._finish(_terminated(str(checkpoint) if checkpoint else None, record))

    async def _went_on(self, gone: Json) -> None:
        """Forget that a container is gone, unless the next one is already gone as well."""
        if self._record.course.get(_MOVED) == gone:
            await asyncio.to_thread(self._record.remember, **{_MOVED: None})

    def _leg_was_short(self) -> bool:
        begun = self._record.course.get("leg_at")
        if not isinstance(begun, int | float):
            begun = self._record.status.started_at or steady.now()
        return steady.since(begun, math.inf) < self._patience.short

    async def _unknown(self, error: NotFoundError) -> None:
        """Note that nobody knows the worker; it is lost once that was said for long enough."""
        self._lost(error)
        now = time.monotonic()
        if self._unknown_since is None:
            self._unknown_since = now
        if now - self._unknown_since > self._patience.gone:
            result = Result(
                state=State.LOST,
                reason="lost_process",
                message="its container was taken away, and nothing of it is left",
            )
            await self._finish(result)
            return
        await asyncio.sleep(min(1.0, self._patience.gone / 4))


def _number(record: WorkerRecord, name: str) -> int:
    value = record.course.get(name)
    return value if isinstance(value, int) else 0


def _terminated(checkpoint: str | None, record: WorkerRecord) -> Result:
    stopped = record.stop_grace is not None
    return Result(
        state=State.STOPPED,
        reason="stopped" if stopped else "terminated",
        message="its container was taken away"
        + ("" if checkpoint else ", and it had nothing that was not pushed"),
        checkpoint=checkpoint,
        started_at=record.status.started_at,
        agent_began=True,
    )
