"""What the Admin API answers, as small frozen values; what they do not name is left alone.

Field names and enum values are those of the API's v2 schema (`run.v2.json`, and the messages of
the `google-cloud-run` package). Answers come from far away: a missing or strange field is the
value's default, never an exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from outpost_shared.protocol import clean

#: Characters of a text that are kept.
_TEXT: Final = 2000

Body = Mapping[str, Any]


def text(body: Body, name: str) -> str:
    """Return a text field, harmless and of bounded length; "" where there is none."""
    value = body.get(name)
    return clean(value, _TEXT) if isinstance(value, str) else ""


def number(body: Body, name: str) -> int | None:
    """Return a number, which 64-bit fields carry as text; None where there is none."""
    value = body.get(name)
    if isinstance(value, str) and value.lstrip("-").isdigit() and len(value) < 20:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def moment(body: Body, name: str) -> float | None:
    """Return an RFC 3339 time as seconds since the epoch; None where there is none."""
    value = body.get(name)
    if not isinstance(value, str):
        return None
    try:
        when = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def objects(body: Body, name: str) -> list[Body]:
    """Return a list of objects; what is no object in it is left out."""
    value = body.get(name)
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def inner(body: Body, name: str) -> Body:
    """Return an object within; an empty one where there is none."""
    value = body.get(name)
    return value if isinstance(value, dict) else {}


def words(body: Body, name: str) -> Mapping[str, str]:
    """Return a map of texts such as labels."""
    return {str(k): v for k, v in inner(body, name).items() if isinstance(v, str)}


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition of a resource.

    Args:
        type: `Ready`, `Completed`, `Started`, …
        state: `CONDITION_SUCCEEDED`, `CONDITION_FAILED`, `CONDITION_PENDING`, …
        reason: whichever reason it has: common, of an execution, a revision or an instance.
        message: Google's words.
        at: when it became so.
    """

    type: str = ""
    state: str = ""
    reason: str = ""
    message: str = ""
    at: float | None = None

    @property
    def failed(self) -> bool:
        """Whether it says that this will not come to be."""
        return self.state == "CONDITION_FAILED"

    @property
    def succeeded(self) -> bool:
        """Whether it says that this is so."""
        return self.state == "CONDITION_SUCCEEDED"

    @classmethod
    def read(cls, body: Body) -> Condition:
        """Return the condition of one JSON object."""
        reasons = ("executionReason", "instanceReason", "revisionReason", "reason")
        return cls(
            type=text(body, "type"),
            state=text(body, "state"),
            reason=next((found for name in reasons if (found := text(body, name))), ""),
            message=text(body, "message"),
            at=moment(body, "lastTransitionTime"),
        )


def _conditions(body: Body) -> tuple[Condition, ...]:
    found = [Condition.read(each) for each in objects(body, "conditions")]
    if "terminalCondition" in body:
        found.insert(0, Condition.read(inner(body, "terminalCondition")))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The error of an operation.

    Args:
        code: number of the canonical code (1 CANCELLED, 8 RESOURCE_EXHAUSTED …).
        message: Google's words.
    """

    code: int
    message: str


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A change that goes on at Google.

    Args:
        name: to ask for it again.
        done: it has ended.
        failure: how it failed. An operation can have this **and** a response (a cancelled
            execution has both): it is no success then.
        about: the name of the resource that it changes; "" when it does not say.
    """

    name: str
    done: bool
    failure: Failure | None = None
    about: str = ""

    @classmethod
    def read(cls, body: Body) -> Operation:
        """Return the operation of an answer."""
        failure = None
        if error := inner(body, "error"):
            failure = Failure(code=number(error, "code") or 0, message=text(error, "message"))
        about = text(inner(body, "response"), "name") or text(inner(body, "metadata"), "name")
        done = body.get("done") is True
        return cls(name=text(body, "name"), done=done, failure=failure, about=about)


@dataclass(frozen=True, kw_only=True)
class Resource:
    """What services, jobs and instances have in common.

    Args:
        name: the full name, `projects/P/locations/R/jobs/NAME`.
        labels: its labels.
        etag: its version, for a change that must not overwrite another.
        reconciling: Google is still making it so.
        created: when it was created.
        conditions: the terminal one first, where it has one.
        body: all of it, as it came.
    """

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    etag: str = ""
    reconciling: bool = False
    created: float | None = None
    conditions: tuple[Condition, ...] = ()
    body: Body = field(default_factory=dict, repr=False, compare=False)

    @property
    def short(self) -> str:
        """The last part of its name."""
        return self.name.rpartition("/")[2]

    @property
    def failure(self) -> Condition | None:
        """The condition that says why it will not become ready; None while none does."""
        return next((each for each in self.conditions if each.failed), None)

    @classmethod
    def common(cls, body: Body) -> dict[str, Any]:
        """Return these arguments out of an answer."""
        return {
            "name": text(body, "name"),
            "labels": words(body, "labels"),
            "etag": text(body, "etag"),
            "reconciling": body.get("reconciling") is True,
            "created": moment(body, "createTime"),
            "conditions": _conditions(body),
            "body": body,
        }


@dataclass(frozen=True, kw_only=True)
class Service(Resource):
    """A service.

    Args:
        url: its main address.
        audiences: custom audiences of identity tokens.
    """

    url: str = ""
    audiences: tuple[str, ...] = ()

    @classmethod
    def read(cls, body: Body) -> Service:
        """Return the service of an answer."""
        said = body.get("customAudiences")
        audiences = tuple(str(each) for each in said) if isinstance(said, list) else ()
        return cls(url=text(body, "uri"), audiences=audiences, **cls.common(body))


@dataclass(frozen=True, kw_only=True)
class Job(Resource):
    """A job.

    Args:
        executions: how many executions of it were created.
        latest: full name of the last one; "" for none.
    """

    executions: int = 0
    latest: str = ""

    @classmethod
    def read(cls, body: Body) -> Job:
        """Return the job of an answer."""
        short = text(inner(body, "latestCreatedExecution"), "name").rpartition("/")[2]
        latest = f"{text(body, 'name')}/executions/{short}" if short else ""
        count = number(body, "executionCount") or 0
        return cls(executions=count, latest=latest, **cls.common(body))


@dataclass(frozen=True, kw_only=True)
class Instance(Resource):
    """An instance: one container with an address of its own.

    Args:
        url: its address; "" until it has one.
    """

    url: str = ""

    @classmethod
    def read(cls, body: Body) -> Instance:
        """Return the instance of an answer."""
        urls = body.get("urls")
        first = urls[0] if isinstance(urls, list) and urls and isinstance(urls[0], str) else ""
        return cls(url=clean(first, _TEXT), **cls.common(body))


@dataclass(frozen=True, kw_only=True)
class Execution(Resource):
    """One execution of a job.

    Args:
        started: when it began.
        completed: when it ended; None while it runs.
        running: tasks that run.
        succeeded: tasks that exited with 0.
        failed: tasks that failed.
        cancelled: tasks that were cancelled.
    """

    started: float | None = None
    completed: float | None = None
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def ended(self) -> bool:
        """Whether it has ended, whichever way."""
        return self.completed is not None

    def condition(self, kind: str) -> Condition:
        """Return its condition of a type (`Completed`, `Started`); an empty one without it."""
        return next((each for each in self.conditions if each.type == kind), Condition())

    @classmethod
    def read(cls, body: Body) -> Execution:
        """Return the execution of an answer."""
        return cls(
            started=moment(body, "startTime"),
            completed=moment(body, "completionTime"),
            running=number(body, "runningCount") or 0,
            succeeded=number(body, "succeededCount") or 0,
            failed=number(body, "failedCount") or 0,
            cancelled=number(body, "cancelledCount") or 0,
            **cls.common(body),
        )


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of an execution.

    Args:
        name: its full name.
        started: when its container began.
        completed: when it ended.
        exit_code: of its last attempt; None when it has not ended, or a signal ended it.
        signal: that ended its last attempt; None for none.
        message: what Google says of its last attempt.
        conditions: its conditions.
    """

    name: str
    started: float | None = None
    completed: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""
    conditions: tuple[Condition, ...] = ()

    @classmethod
    def read(cls, body: Body) -> Task:
        """Return the task of an answer."""
        last = inner(body, "lastAttemptResult")
        signal = number(last, "termSignal")
        code = number(last, "exitCode")
        if "lastAttemptResult" in body and code is None and not inner(last, "status"):
            code = 0  # JSON leaves a zero out
        return cls(
            name=text(body, "name"),
            started=moment(body, "startTime"),
            completed=moment(body, "completionTime"),
            exit_code=None if signal else code,
            signal=signal or None,
            message=text(inner(last, "status"), "message"),
            conditions=_conditions(body),
        )
