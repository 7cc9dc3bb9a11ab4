"""What this machine knows of one worker: a folder, written by the keeper of its outpost.

A container is gone when it is gone, so all that a worker says is written down here as it comes: its
order, how it is, its output at exact offsets, and its result. Only the keeper of the outpost
writes; it can be killed at any moment, and the next one goes on with what it finds. Who reads sees
each file as it was or as it is, whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from outpost_cloudrun.keeper import steady
from outpost_cloudrun.keeper.disk import NotWrittenError, writing
from outpost_cloudrun.keeper.moves import Moves
from outpost_cloudrun.keeper.output import PIECE, Output
from outpost_core import wire
from outpost_core.errors import ConflictError, UsageError
from outpost_core.names import checkpoint_ref
from outpost_core.types import Json, Order, Result, State, Usage, WorkerStatus
from outpost_shared import border, faults, jsonfiles, plausible
from outpost_worker.repository import bundles

_STATUS: Final = "status.json"
_RESULT: Final = "result.json"
_COURSE: Final = "course.json"
_STOP: Final = "stop.json"
_SECRETS: Final = "secrets.json"
_LOG: Final = "output.log"
#: Bytes of a log beyond what the order allows: the line that says that it was cut.
_ROOM: Final = 64 * 1024
#: Seconds between two writes of details: a container may say another one with each line.
_OFTEN: Final = 1.0
#: Seconds for which who has read its log may come again.
_READ: Final = 5.0
#: Longest detail of a worker, in characters.
_DETAIL: Final = 500


class WorkerRecord:
    """What is known of one worker. Made by `Records`; written by one process only.

    All methods are quick, and block. Those that reach the disk (`finish`, `remember`, `accept`,
    `ask_stop`) may be called on a thread; all others belong to the event loop.

    Attributes:
        folder: where it is kept.
        order: what was ordered; its secrets have names and no values.
        worker: the worker's id.
        digest: the order's.
        moves: is told when it gets into another state.
        hurry: set when somebody begins to wait for what comes of it; whoever looks clears it.
    """

    def __init__(self, folder: Path, order: Order) -> None:
        self.moves: Moves | None = None
        self.folder = folder
        self.order = order
        self.worker = order.worker
        self.digest = wire.digest(order)
        self._output = Output(folder / _LOG, order.limits.log_bytes + _ROOM)
        self._course: dict[str, Json] = jsonfiles.load(str(folder), _COURSE) or {}
        self._result = self._read_result()
        self._status = self._read_status()
        self._stored = self._status  # what the file says
        self._stop = self._read_stop()
        self._news = asyncio.Event()
        self.hurry = asyncio.Event()
        self._readers = 0
        self._read_at = -_READ
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writing = threading.Lock()

    def check(self, order: Order) -> None:
        """Make sure that this is the record of an order.

        Raises:
            ConflictError: it is that of another one.
        """
        if self.digest != wire.digest(order):
            raise ConflictError(
                f"{order.worker} was ordered before, and something else",
                hint=f"outpost show {order.worker}; outpost spawn --again for another attempt",
            )

    # --- how it is -------------------------------------------------------------------------------

    @property
    def status(self) -> WorkerStatus:
        """What is known of it; the same object as long as nothing is new."""
        return self._status

    @property
    def result(self) -> Result | None:
        """How it ended; None while nobody knows."""
        return self._result

    def tell(
        self,
        state: State,
        detail: str = "",
        *,
        started_at: float | None = None,
        usage: Usage | None = None,
    ) -> None:
        """Note what was heard of a worker that has not ended; nothing once it has its result.

        Args:
            state: one that is not terminal.
            detail: a short word for people.
            started_at: when the attempt began; None leaves what is known.
            usage: what the agent says that it used; None leaves what is known.
        """
        with self._writing:
            if self._result is None and not state.terminal:
                self._tell(state, detail, started_at, usage)

    def _tell(
        self, state: State, detail: str, started_at: float | None, usage: Usage | None
    ) -> None:
        before = self._status
        if plausible.odd_usage(usage):
            usage = None
        now = steady.now()
        if before.started_at is not None or not plausible.moment(started_at, now):
            started_at = before.started_at
        told = replace(
            before,
            state=state,
            detail=border.line(detail, _DETAIL),
            started_at=started_at,
            usage=before.usage if usage is None else usage,
            updated_at=now,
        )
        self._status = told
        if told.state is not before.state and self.moves is not None:
            self.moves.tell()
        known = self._stored
        if (told.state, told.started_at) != (known.state, known.started_at) or (
            (told.detail, told.usage) != (known.detail, known.usage)
            and now - (known.updated_at or 0.0) >= _OFTEN
        ):
            # who reads it is told by the keeper that lives; a full disk keeps nobody from following
            with contextlib.suppress(NotWrittenError):
                self._store(_STATUS, told)
                self._stored = told

    def finish(self, result: Result) -> Result:
        """Write down how it ended, once, and return the result that stands.

        What the result says of the log is what is here; what cannot be makes it `broken`.

        Args:
            result: the result, as whoever ran the worker says it.

        Raises:
            NotWrittenError: the disk said no; nobody is told of it yet.
        """
        with self._writing:
            return self._finish(result)

    def _finish(self, result: Result) -> Result:
        if self._result is not None:
            return self._result
        held = self._output.held
        if not result.state.terminal or (odd := plausible.odd_result(result)):
            what = odd if result.state.terminal else "state"
            result = Result(
                state=State.LOST, reason=border.BROKEN, message=f"its result is odd: {what}"
            )
        whole = max(self._output.seen, result.log_bytes or 0)
        checkpoint, message = result.checkpoint, result.message
        if checkpoint is not None and not self._is_own(checkpoint):
            checkpoint = None
            message += "; the checkpoint that its container names is not its own"
        result = replace(
            result,
            checkpoint=checkpoint,
            message=border.lines(message.removeprefix("; ")),
            log_bytes=held,
            log_truncated=result.log_truncated or whole > held,
            finished_at=steady.now() if result.finished_at is None else result.finished_at,
        )
        self._output.sync()
        self._store(_RESULT, result, sync=True)
        self._result = result
        self._status = self._ended(self._status, result)
        self.forget_secrets()
        faults.point("keeper.finished")
        self._changed()
        if self.moves is not None:
            self.moves.tell()
        return result

    def _is_own(self, checkpoint: str) -> bool:
        """Whether a checkpoint is the worker's ref, or a bundle that was brought here."""
        brought = Path(checkpoint).parent == self.folder.parent.parent / bundles.RESCUED
        return brought or checkpoint == checkpoint_ref(self.worker, self.order.owner)

    @property
    def news(self) -> asyncio.Event:
        """Set once something was written that was not here when this was asked for."""
        self._loop = asyncio.get_running_loop()
        return self._news

    def _changed(self) -> None:
        event, self._news = self._news, asyncio.Event()
        if self._loop is not None:  # this may be another thread than that of who waits
            with contextlib.suppress(RuntimeError):  # nobody waits in a loop that was closed
                self._loop.call_soon_threadsafe(event.set)

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits for what comes of it: reads its log, or wants its end."""
        read = self._readers or time.monotonic() < self._read_at + _READ
        return bool(read) or self._stop is not None

    @contextlib.contextmanager
    def read(self) -> Iterator[None]:
        """Note that somebody reads its log, for as long as this lasts and a moment more."""
        if not self.waited_for:
            self.hurry.set()
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            self._read_at = time.monotonic()

    # --- its log ---------------------------------------------------------------------------------

    @property
    def log_size(self) -> int:
        """Bytes of its output that are here."""
        return self._output.held

    @property
    def log_wanted(self) -> int:
        """Offset of the first byte of its output that was not seen yet."""
        return self._output.seen

    def put_log(self, offset: int, data: bytes) -> None:
        """Write a piece of its output where it belongs; see `Output.put`.

        What is here already is not written again, and what is beyond the cap of the order is
        dropped.
        """
        with self._writing:
            # with a result, what that says of the log would not be true any more
            if self._result is None and self._output.put(offset, data):
                self._changed()

    def read_log(self, offset: int, most: int = PIECE) -> bytes:
        """Return its output from byte `offset` on; b"" when nothing is there."""
        return self._output.read(offset, most)

    # --- what its course has to remember ---------------------------------------------------------

    @property
    def course(self) -> Mapping[str, Json]:
        """What its course has remembered; small values, and nothing secret."""
        return self._course

    def remember(self, **values: Json) -> None:
        """Write down what its course has to know when the keeper was killed; None forgets.

        Raises:
            NotWrittenError: the disk said no; nothing of it is remembered.
        """
        with self._writing:
            course = {**self._course, **values}
            course = {name: value for name, value in course.items() if value is not None}
            if course != self._course:
                self._write(_COURSE, course, sync=True)
                self._course = course

    @property
    def accepted(self) -> bool:
        """Whether it certainly runs, or ran: it is followed until it has its result."""
        return self._course.get("accepted") is True

    def accept(self) -> None:
        """Note that it certainly runs or is to be found, so that no other outpost may take it."""
        self.remember(accepted=True)
        faults.point("keeper.accepted")

    # --- a stop ----------------------------------------------------------------------------------

    @property
    def stop_grace(self) -> float | None:
        """Seconds between TERM and KILL of the stop that was asked for; None when none was."""
        return self._stop

    def ask_stop(self, grace: float) -> None:
        """Write down that its end was asked for; a shorter grace replaces a longer one.

        Raises:
            NotWrittenError: the disk said no; it is asked for all the same, by this process.
        """
        if self._result is not None or (self._stop is not None and self._stop <= grace):
            return
        self._stop = grace
        self._changed()
        self._write(_STOP, {"grace": grace}, sync=True)
        faults.point("keeper.stop_noted")

    # --- values of its secrets -------------------------------------------------------------------

    def keep_secrets(self, values: Mapping[str, str]) -> None:
        """Keep the values of its secrets in a file of this user alone, until it has its result."""
        if values and self._result is None:
            self._write(_SECRETS, dict(values))

    def kept_secrets(self) -> dict[str, str] | None:
        """Return the values of its secrets; None when they are not here."""
        found = jsonfiles.load(str(self.folder), _SECRETS)
        if not self.order.secrets:
            return {}
        if found is None or set(found) != set(self.order.secrets):
            return None
        return {name: str(value) for name, value in found.items()}

    def forget_secrets(self) -> None:
        """Remove the values of its secrets."""
        (self.folder / _SECRETS).unlink(missing_ok=True)

    # --- files -----------------------------------------------------------------------------------

    def _store(self, name: str, value: WorkerStatus | Result, *, sync: bool = False) -> None:
        said = wire.to_json(value)
        assert isinstance(said, dict), "a dataclass is an object"
        self._write(name, said, sync=sync)

    def _write(self, name: str, said: dict[str, Any], *, sync: bool = False) -> None:
        with writing(self.folder / name):
            jsonfiles.store(str(self.folder), name, said, sync=sync)

    def _read_result(self) -> Result | None:
        found = jsonfiles.load(str(self.folder), _RESULT)
        if found is None:
            return None
        try:
            result = wire.from_json(Result, found)
            odd = plausible.odd_result(result)
        except UsageError as error:
            odd, result = error.message, Result(state=State.LOST)
        if odd:
            why = f"its file {_RESULT} was changed: {odd}"
            return Result(state=State.LOST, reason=border.BROKEN, message=border.line(why))
        return result

    def _read_status(self) -> WorkerStatus:
        told = WorkerStatus(id=self.worker, state=State.QUEUED, digest=self.digest)
        found = jsonfiles.load(str(self.folder), _STATUS)
        if found is not None:
            try:
                told = wire.from_json(WorkerStatus, found)
            except UsageError:
                told = replace(told, state=State.WORKING)
        told = replace(told, id=self.worker, digest=self.digest, result=None)
        if self._result is not None:
            return self._ended(told, self._result)
        if not self.accepted:  # whoever ordered it repeats that
            told = replace(told, state=State.QUEUED)
        elif told.state.terminal or told.state is State.QUEUED:
            told = replace(told, state=State.STARTING)
        return told

    def _ended(self, told: WorkerStatus, result: Result) -> WorkerStatus:
        return replace(
            told,
            state=result.state,
            detail=result.reason,
            started_at=result.started_at or told.started_at,
            updated_at=result.finished_at,
            result=result,
            usage=None,
            fence=result.fence,
        )

    def _read_stop(self) -> float | None:
        found = jsonfiles.load(str(self.folder), _STOP)
        if found is None:
            return None
        grace = found.get("grace")
        return float(grace) if isinstance(grace, int | float) and grace >= 0 else 0.0
