"""One thread that does one thing after the other for event loops, in the order of the asking."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Lock, Thread
from typing import TYPE_CHECKING, Generic, TypeVar

from outpost_core.errors import UsageError

if TYPE_CHECKING:
    import asyncio
    from queue import SimpleQueue

In = TypeVar("In")
Out = TypeVar("Out")
T = TypeVar("T")


class WorkThread:
    """A thread that starts with the first thing that it is to do.

    It is a daemon: a program that ends does not wait for another process that holds a lock.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._starting = Lock()
        self._thread: Thread | None = None
        self._tasks: SimpleQueue[Callable[[], None] | None] | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """Do something on the thread and return its answer; the event loop continues meanwhile.

        Cancelled before its turn, it is not done; once begun, it is finished all the same.

        Raises:
            Exception: whatever it raises.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self.post(partial(_do, loop, answer, work))
        return await answer

    async def run_or(self, other: WorkThread, patience: float, work: Callable[[], T]) -> T:
        """Do something on the thread, or when its turn does not come soon on another one.

        Args:
            other: that thread.
            patience: seconds after which it is asked, too.
            work: may be done twice.

        Raises:
            Exception: whatever it raises.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        task = partial(_do, loop, answer, work)
        self.post(task)
        late = loop.call_later(patience, other.post, task)
        try:
            return await answer
        finally:
            late.cancel()

    def post(self, work: Callable[[], None]) -> None:
        """Have something done, which must not raise, and do not wait for it."""
        with self._starting:
            if self._tasks is None:
                from queue import SimpleQueue

                self._tasks = SimpleQueue()
                self._thread = Thread(
                    target=_serve, args=(self._tasks,), name=self._name, daemon=True
                )
                self._thread.start()
            self._tasks.put(work)

    def end(self, patience: float) -> bool:
        """Let the thread finish what it was asked for; False when that takes more seconds."""
        with self._starting:
            thread, tasks = self._thread, self._tasks
            self._thread = self._tasks = None
        if thread is None or tasks is None:
            return True
        tasks.put(None)
        thread.join(patience)
        return not thread.is_alive()


def _serve(tasks: SimpleQueue[Callable[[], None] | None]) -> None:
    while (work := tasks.get()) is not None:
        work()


def _do(loop: asyncio.AbstractEventLoop, answer: asyncio.Future[T], work: Callable[[], T]) -> None:
    if answer.done():  # nobody waits for it any more
        return
    try:
        done = partial(_set_result, answer, work())
    except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
        done = partial(_set_error, answer, error)
    _tell(loop, done)


def _tell(loop: asyncio.AbstractEventLoop, done: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits
        loop.call_soon_threadsafe(done)


def _set_result(answer: asyncio.Future[T], value: T) -> None:
    if not answer.done():
        answer.set_result(value)


def _set_error(answer: asyncio.Future[T], error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)


class Together(Generic[In, Out]):
    """Requests that share one call on the thread: all that come before it is their turn.

    Args:
        thread: where the call is made.
        call: takes the items of all, and returns an answer for each item, in their order.
    """

    def __init__(self, thread: WorkThread, call: Callable[[list[In]], list[Out]]) -> None:
        self._thread = thread
        self._call = call
        self._lock = Lock()
        self._requests: list[_Request[In, Out]] = []

    async def ask(self, items: list[In]) -> list[Out]:
        """Return the answers to some items.

        Raises:
            UsageError: one of these items is refused.
            Exception: whatever the call raises that they share.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        request = _Request[In, Out](items, loop, loop.create_future())
        with self._lock:
            first = not self._requests
            self._requests.append(request)
        if first:
            self._thread.post(self._serve)
        return await request.answer

    def _serve(self) -> None:
        with self._lock:
            requests, self._requests = self._requests, []
        requests = [one for one in requests if not one.answer.cancelled()]
        if not self._answer(requests):
            for one in requests:  # what one of them said is no reason to refuse the others
                self._answer([one])

    def _answer(self, requests: list[_Request[In, Out]]) -> bool:
        """Make one call for all of them; False when one is refused and that is nobody's answer."""
        try:
            answers = self._call([item for one in requests for item in one.items])
        except UsageError as error:
            if len(requests) > 1:
                return False
            requests[0].fail(error)
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
            for one in requests:
                one.fail(error)
        else:
            for one in requests:
                count = len(one.items)
                one.succeed(answers[:count])
                answers = answers[count:]
        return True


class _Request(Generic[In, Out]):
    """Items of one caller, and where the answers go."""

    def __init__(
        self,
        items: list[In],
        loop: asyncio.AbstractEventLoop,
        answer: asyncio.Future[list[Out]],
    ) -> None:
        self.items = items
        self.answer = answer
        self._loop = loop

    def succeed(self, answers: list[Out]) -> None:
        _tell(self._loop, partial(_set_result, self.answer, answers))

    def fail(self, error: BaseException) -> None:
        _tell(self._loop, partial(_set_error, self.answer, error))
