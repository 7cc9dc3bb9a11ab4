"""How a container ended, by what Google tells of it, where it left no result itself. Pure.

Sources: the messages `Execution`, `Task` and `Condition` of the Admin API v2. A container over its
memory is ended by signal 9 (exit code 137 of a shell); a task over its time says so in words.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from outpost_core.types import Result, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outpost_cloudrun.admin.answers import Condition, Execution, Instance, Job, Task

#: Reasons of our own; the guide explains them.
CANCELLED: Final = "cloudrun_cancelled"
DELETED: Final = "cloudrun_deleted"
OUT_OF_MEMORY: Final = "cloudrun_out_of_memory"
#: What a shell adds to the number of a signal.
_BY_SIGNAL: Final = 128
_LATE: Final = ("timeout", "timed out", "deadline")


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What is known of an end.

    Args:
        state: how it counts.
        reason: its code.
        message: one sentence.
        exit_code: of the container.
        signal: that ended it.
        began: whether its agent can have begun; None when nobody knows.
    """

    state: State
    reason: str
    message: str
    exit_code: int | None = None
    signal: int | None = None
    began: bool | None = None

    def result(
        self, *, checkpoint: str | None, started: float | None, ended: float | None
    ) -> Result:
        """Return it as a result.

        Args:
            checkpoint: where unpushed work is.
            started: when it began.
            ended: when it ended.
        """
        return Result(
            state=self.state,
            reason=self.reason,
            message=self.message,
            checkpoint=checkpoint,
            started_at=started,
            finished_at=ended,
            agent_began=self.began,
        )


def of_execution(
    execution: Execution, tasks: Sequence[Task], memory: str, *, asked: bool, claimed: bool
) -> Ending:
    """Return how an execution ended.

    Args:
        execution: it has ended.
        tasks: its tasks: one.
        memory: what its container had, for people.
        asked: its end was asked for from here.
        claimed: its container had claimed the worker.
    """
    last = execution.condition("Completed")
    task = tasks[0] if tasks else None
    words = last.message or (task.message if task is not None else "")
    if execution.cancelled or last.reason in ("CANCELLED", "CANCELLING"):
        return stopped(asked=asked, what="its execution was cancelled")
    if last.reason == "DELETED":
        return deleted(asked=asked, what="its execution")
    began = None if task is not None and task.started is not None else False
    if not began and began is not None and execution.started is None:
        return never_began(words or "its container never began")
    code = task.exit_code if task is not None else None
    number = task.signal if task is not None else None
    if _is_late(words) or _is_late(task.message if task is not None else ""):
        message = f"Google ended it at the time limit of its job: {words}"
        return Ending(state=State.FAILED, reason="timeout", message=message)
    ending = _of_container(code, number, words, memory)
    if not claimed and ending.reason == "lost_process":  # nothing runs without a claim
        return never_began(f"{ending.message.removeprefix('its container ')}, and never claimed it")
    return ending


def of_instance(condition: Condition, memory: str, *, asked: bool) -> Ending:
    """Return how an instance ended, by the condition that says so; see `of_execution`."""
    reason, words = condition.reason, condition.message
    if reason in ("INSTANCE_STOPPED", "INSTANCE_STOPPING"):
        return stopped(asked=asked, what="its instance was stopped")
    if reason == "INSTANCE_DELETED":
        return deleted(asked=asked, what="its instance")
    if reason == "INSTANCE_NON_ZERO_EXIT_CODE":
        killed = "signal 9" in words or "memory" in words.lower() or "137" in words
        return _of_container(None, signal.SIGKILL if killed else None, words, memory)
    return never_began(words or reason or "its container never began")


def _of_container(code: int | None, number: int | None, words: str, memory: str) -> Ending:
    if number is None and code == _BY_SIGNAL + signal.SIGKILL:
        number, code = int(signal.SIGKILL), None
    said = f" ({words})" if words else ""
    if number == signal.SIGKILL:
        return Ending(
            state=State.FAILED,
            reason=OUT_OF_MEMORY,
            message=f"its container was killed, most likely for its memory of {memory}: give the"
            f" outpost more `memory`, or a `disk`{said}",
            signal=number,
        )
    if number is not None:
        how = f"was ended by signal {number}"
    else:
        how = f"ended with exit code {code}" if code is not None else "ended"
    return Ending(
        state=State.LOST,
        reason="lost_process",
        message=f"its container {how} and left no result{said}",
        exit_code=code,
        signal=number,
    )


def of_unstarted(thing: Job | Instance) -> Ending | None:
    """Return why nothing of a job or instance will ever begin; None while it may."""
    failure = thing.failure
    if failure is None:
        return None
    return never_began(failure.message or failure.reason)


def never_began(words: str) -> Ending:
    """Return the end of what was never there."""
    return Ending(
        state=State.FAILED,
        reason="never_started",
        message=f"Google did not start its container: {words}",
        began=False,
    )


def stopped(*, asked: bool, what: str) -> Ending:
    """Return the end of what somebody stopped."""
    if asked:
        return Ending(state=State.STOPPED, reason="stopped", message="stopped, as was asked")
    message = f"{what} at Google, not by Outpost"
    return Ending(state=State.STOPPED, reason=CANCELLED, message=message)


def deleted(*, asked: bool, what: str) -> Ending:
    """Return the end of what somebody removed."""
    if asked:
        return stopped(asked=True, what=what)
    message = f"{what} was deleted at Google, not by Outpost, and left no result"
    return Ending(state=State.LOST, reason=DELETED, message=message)


def _is_late(words: str) -> bool:
    return any(mark in words.lower() for mark in _LATE)
