"""The state of an emulated Cloud Run, and what all its parts need."""

from __future__ import annotations

import asyncio
import base64
import secrets
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from outpost_cloudrun.testing.containers import Containers
from outpost_cloudrun.testing.errors import GoogleError
from outpost_cloudrun.testing.journal import Journal
from outpost_cloudrun.testing.knobs import Knobs
from outpost_cloudrun.testing.metadata import TokenServer

#: Google's numbers for some of its words (google.rpc.Code).
_CODES = {"CANCELLED": 1, "INVALID_ARGUMENT": 3, "NOT_FOUND": 5, "FAILED_PRECONDITION": 9}
#: States of conditions, by their numbers in Google's messages.
PENDING, RECONCILING, FAILED, SUCCEEDED = 1, 2, 3, 4


@dataclass(kw_only=True)
class Cloud:
    """All resources, by their whole names; messages of Google's package.

    Attributes:
        knobs: what can be turned.
        journal: what was done.
        containers: where containers run.
        tokens: gives and checks tokens; its clock is Google's.
        surroundings: environment that every container has, such as where metadata is served.
        secrets: versions of secrets by name (`projects/P/secrets/S`), the first is version 1.
        newer: fields of a resource that Google's package does not know yet, by their paths.
    """

    knobs: Knobs
    journal: Journal
    containers: Containers
    tokens: TokenServer
    surroundings: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, list[str]] = field(default_factory=dict)
    services: dict[str, Any] = field(default_factory=dict)
    jobs: dict[str, Any] = field(default_factory=dict)
    executions: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, Any] = field(default_factory=dict)
    instances: dict[str, Any] = field(default_factory=dict)
    policies: dict[str, Any] = field(default_factory=dict)
    operations: dict[str, Operation] = field(default_factory=dict)
    newer: dict[str, dict[str, str]] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def now(self) -> Timestamp:
        """Return what Google's clock says."""
        moment = Timestamp()
        moment.FromNanoseconds(int(self.tokens.now() * 1e9))
        return moment

    def go(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something until it ends or the emulator does."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def begin(
        self, parent: str, metadata: Any, work: Callable[[], Coroutine[Any, Any, Any]]
    ) -> Operation:
        """Begin a long-running operation.

        Args:
            parent: project and location.
            metadata: the resource that it is about.
            work: does it, and returns the message that is the operation's response.
        """
        name = f"{parent}/operations/{uuid.uuid4()}"
        operation = Operation(operations_pb2.Operation(name=name))
        operation.message.metadata.Pack(metadata)
        self.operations[name] = operation
        self.go(self._operate(operation, work))
        return operation

    async def close(self) -> None:
        """End what still works."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _operate(
        self, operation: Operation, work: Callable[[], Coroutine[Any, Any, Any]]
    ) -> None:
        try:
            if self.knobs.operation:
                await asyncio.sleep(self.knobs.operation)
            response = await work()
            operation.message.response.Pack(response)
        except GoogleError as error:
            operation.message.error.CopyFrom(
                status_pb2.Status(code=_CODES.get(error.word, 2), message=error.message)
            )
        except Exception as error:
            operation.message.error.CopyFrom(status_pb2.Status(code=13, message=str(error)))
            raise
        finally:
            operation.message.done = True
            operation.finished.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.journal.write("emulator.error", error=repr(task.exception()))


class Operation:
    """A long-running operation.

    Args:
        message: as Google's servers tell it.
    """

    def __init__(self, message: Any) -> None:
        self.message = message
        self.finished = asyncio.Event()


def stamp(cloud: Cloud, resource: Any, *, new: bool) -> None:
    """Set what Google sets in every resource when it is written."""
    now = cloud.now()
    if new:
        resource.uid = str(uuid.uuid4())
        resource.create_time.CopyFrom(now)
        resource.generation = 0
    resource.generation += 1
    resource.update_time.CopyFrom(now)
    resource.etag = f'"{secrets.token_hex(8)}"'


def check_etag(given: str, resource: Any) -> None:
    """Refuse a change of what has been changed meanwhile.

    Raises:
        GoogleError: it has.
    """
    if given and given != resource.etag:
        raise GoogleError(409, "The etag does not match: it was changed", word="ABORTED")


def set_condition(cloud: Cloud, condition: Any, kind: str, state: int, message: str = "") -> None:
    """Write a condition of a resource."""
    condition.type_ = kind
    condition.state = state
    condition.message = message
    condition.last_transition_time.CopyFrom(cloud.now())


def parent_of(name: str) -> str:
    """Return project and location of a resource: `projects/P/locations/L`."""
    return "/".join(name.split("/")[:4])


def project_of(name: str) -> str:
    """Return the project of a resource."""
    return name.split("/")[1]


def region_of(name: str) -> str:
    """Return the location of a resource."""
    parts = name.split("/")
    return parts[3] if len(parts) > 3 else ""


def last(name: str) -> str:
    """Return the last word of a name."""
    return name.rpartition("/")[2]


def find(table: Mapping[str, Any], name: str, kind: str) -> Any:
    """Return a resource.

    Raises:
        GoogleError: there is none.
    """
    if name not in table:
        raise GoogleError(
            404,
            f"Resource '{last(name)}' of kind '{kind}' in region '{region_of(name)}' in project"
            f" '{project_of(name)}' does not exist.",
        )
    return table[name]


def page(names: Iterable[str], size: int, token: str) -> tuple[list[str], str]:
    """Return one page of names, and the token of the next; "" at the end.

    Raises:
        GoogleError: the token is none of ours.
    """
    ordered = sorted(names)
    if token:
        try:
            after = base64.b64decode(token, altchars=b"-_", validate=True).decode()
        except ValueError as error:
            raise GoogleError(400, "page_token is invalid") from error
        ordered = [name for name in ordered if name > after]
    size = min(size, 100) if size > 0 else 100
    chosen = ordered[:size]
    more = base64.urlsafe_b64encode(chosen[-1].encode()).decode() if len(ordered) > size else ""
    return chosen, more


def to_dict(message: Any, newer: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return a message as Google's servers write it, with fields that its package lacks."""
    document: dict[str, Any] = json_format.MessageToDict(message)

    def add(part: Any) -> None:
        if isinstance(part, dict):
            for value in list(part.values()):
                add(value)
            for path, value in newer.get(str(part.get("name", "")), {}).items():
                *heads, key = path.split(".")
                at: Any = part
                for head in heads:
                    at = at[int(head)] if isinstance(at, list) else at.setdefault(head, {})
                at[key] = value
        elif isinstance(part, list):
            for value in part:
                add(value)

    if newer:
        add(document)
    return document
