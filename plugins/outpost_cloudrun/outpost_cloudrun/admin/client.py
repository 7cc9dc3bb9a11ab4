"""Google's Cloud Run Admin API v2, as far as Outpost needs it: REST over httpx.

https://cloud.google.com/run/docs/reference/rest. Google's own client costs 700 ms and 61 MB to
import, so that it belongs into tests, where it checks every request of this one.

What is repeated, and what is not: questions are repeated while Google is in trouble. Creating
under a name that says what is created is repeated, too: 409 means that it is there already.
`jobs.run` is **never** sent: a repeated one runs a job twice. Executions begin with their job, by
its `startExecutionToken`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote, urlencode

import httpx

from outpost_cloudrun.admin import errors
from outpost_cloudrun.admin.answers import (
    Body,
    Execution,
    Instance,
    Job,
    Operation,
    Service,
    Task,
    objects,
    text,
)
from outpost_core.errors import ConflictError, NotFoundError, OutpostError, UnreachableError
from outpost_shared.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    R = TypeVar("R")

#: Seconds for one answer; `operations.wait` may hold its answer back for `_HELD` longer.
ANSWER: Final = 30.0
#: Seconds for which a question is repeated while Google does not answer it.
PATIENCE: Final = 20.0
_HELD: Final = 30.0
#: Bytes of an answer that are read; a page of 100 jobs has less than 1 MB.
MOST: Final = 16 << 20
#: Things on one page, and pages that are asked for: 1,000 jobs is the quota of a region.
_PAGE: Final = 100
_PAGES: Final = 100
#: Answers after which a question is asked again.
_AGAIN: Final = frozenset((429, 500, 502, 503, 504))


class Tokens(Protocol):
    """Where access tokens come from: an `outpost_cloudrun.connection.identity.Identity`."""

    async def access_token(self, fresh: bool = False) -> str:
        """Return an OAuth access token; a new one with `fresh`."""


class AdminClient:
    """The Admin API of one project and region.

    Args:
        project: id of the project.
        region: the region.
        http: what requests go through; closed by `aclose`.
        tokens: whose access tokens are sent; None for none (an emulator).
        endpoint: address of the API; "" for Google's own in that region.
        patience: seconds for which a question is repeated.
    """

    def __init__(
        self,
        project: str,
        region: str,
        *,
        http: httpx.AsyncClient,
        tokens: Tokens | None = None,
        endpoint: str = "",
        patience: float = PATIENCE,
    ) -> None:
        self.project = project
        self.region = region
        self.parent = f"projects/{project}/locations/{region}"
        self.endpoint = (endpoint or f"https://{region}-run.googleapis.com").rstrip("/")
        #: Google's clock minus ours in seconds, by the last answer; None before one.
        self.skew: float | None = None
        self._http = http
        self._tokens = tokens
        self._patience = patience

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def reach(self, kind: str, *, once: bool = False) -> None:
        """Look whether things of a kind can be seen: the API is on, and the caller may.

        Args:
            kind: `services`, `jobs` or `instances`.
            once: the question is not repeated.
        """
        at, what, query = f"{self.parent}/{kind}", f"look at {kind}", {"pageSize": "1"}
        if not once:
            await self._read(what, at, query)
            return
        try:
            await self._call("GET", at, what, query=query)
        except _ComeAgainError as again:
            raise again.error from None

    # --- services ---------------------------------------------------------------------------

    async def service(self, name: str) -> Service:
        """Return a service; raises NotFoundError where there is none."""
        found = await self._read(f"look at the service {name}", self._at("services", name))
        return Service.read(found)

    async def patch_service(
        self, name: str, body: Body, mask: tuple[str, ...] = (), *, validate: bool = False
    ) -> Operation:
        """Deploy a service: it is created where it is missing, else changed. Sent once.

        Args:
            name: its short name.
            body: the service; with an `etag` it must not have been changed by somebody else.
            mask: paths of the fields that are to be as in `body`; () for all of them.
            validate: only have it checked; nothing is changed.

        Raises:
            ConflictError: it was changed meanwhile.
            UsageError: Google does not take the body; it names the field.
            SpawnRefusedError: it was not allowed, or a quota is used up.
            UnreachableError: nobody knows whether it was done, unless it says `sent=False`.
        """
        at = self._at("services", name)
        query = {"allowMissing": "true"}
        if mask:
            query["updateMask"] = ",".join(mask)
        if validate:
            query["validateOnly"] = "true"
        what = f"deploy the service {name}"
        return Operation.read(
            await self._once("PATCH", at, what, body={**body, "name": at}, query=query)
        )

    async def delete_service(self, name: str) -> Operation | None:
        """Delete a service with its containers; None when there is none."""
        return await self._delete(f"delete the service {name}", self._at("services", name))

    async def allowed(self, kind: str, name: str, permissions: tuple[str, ...]) -> frozenset[str]:
        """Return which of some permissions the caller has on a resource (`testIamPermissions`)."""
        at = f"{self._at(kind, name)}:testIamPermissions"
        what = f"say what you may do with {name}"
        said = await self._repeat("POST", at, what, body={"permissions": list(permissions)})
        given = said.get("permissions")
        return frozenset(str(each) for each in given) if isinstance(given, list) else frozenset()

    # --- jobs -------------------------------------------------------------------------------

    async def create_job(self, name: str, body: Body) -> Operation | None:
        """Create a job under a name that says what it is; repeated until it is certain.

        Returns:
            the operation, or None when the job was there already: compare its labels.
        """
        return await self._create("jobs", "jobId", name, body)

    async def try_job(self, name: str, body: Body) -> None:
        """Have a job checked, and create none.

        Raises:
            OutpostError: what is wrong with it, as of `create_job`.
        """
        await self._try("jobs", "jobId", name, body)

    async def job(self, name: str) -> Job:
        """Return a job; raises NotFoundError where there is none."""
        return Job.read(await self._read(f"look at the job {name}", self._at("jobs", name)))

    async def jobs(self) -> list[Job]:
        """Return all jobs of the project in the region."""
        return await self._list(f"{self.parent}/jobs", "jobs", "list jobs", Job.read)

    async def delete_job(self, name: str) -> Operation | None:
        """Delete a job with its executions; None when there is none."""
        return await self._delete(f"delete the job {name}", self._at("jobs", name))

    async def executions(self, job: str) -> list[Execution]:
        """Return the executions of a job, the latest first."""
        at = f"{self._at('jobs', job)}/executions"
        what = f"list the executions of the job {job}"
        return await self._list(at, "executions", what, Execution.read)

    async def execution(self, job: str, name: str) -> Execution:
        """Return an execution; raises NotFoundError where there is none."""
        at = f"{self._at('jobs', job)}/executions/{_part(name)}"
        return Execution.read(await self._read(f"look at the execution {name}", at))

    async def cancel_execution(self, job: str, name: str) -> Operation | None:
        """Cancel an execution (its container gets SIGTERM); None when there is none any more.

        Repeated while Google is in trouble: cancelling twice is cancelling once.
        """
        at = f"{self._at('jobs', job)}/executions/{_part(name)}:cancel"
        try:
            said = await self._repeat("POST", at, f"cancel the execution {name}", body={})
        except NotFoundError:
            return None
        return Operation.read(said)

    async def tasks(self, job: str, execution: str) -> list[Task]:
        """Return the tasks of an execution."""
        at = f"{self._at('jobs', job)}/executions/{_part(execution)}/tasks"
        what = f"list the tasks of the execution {execution}"
        return await self._list(at, "tasks", what, Task.read)

    # --- instances ----------------------------------------------------------------------------

    async def create_instance(self, name: str, body: Body) -> Operation | None:
        """Create an instance, as `create_job` does."""
        return await self._create("instances", "instanceId", name, body)

    async def try_instance(self, name: str, body: Body) -> None:
        """Have an instance checked, and create none; see `try_job`."""
        await self._try("instances", "instanceId", name, body)

    async def instance(self, name: str) -> Instance:
        """Return an instance; raises NotFoundError where there is none."""
        at = self._at("instances", name)
        return Instance.read(await self._read(f"look at the instance {name}", at))

    async def instances(self) -> list[Instance]:
        """Return all instances of the project in the region."""
        at = f"{self.parent}/instances"
        return await self._list(at, "instances", "list instances", Instance.read)

    async def start_instance(self, name: str) -> Operation:
        """Start a stopped instance; sent once."""
        at = f"{self._at('instances', name)}:start"
        return Operation.read(await self._once("POST", at, f"start the instance {name}", body={}))

    async def stop_instance(self, name: str) -> Operation | None:
        """Stop an instance (its container gets SIGTERM); None when there is none any more."""
        at = f"{self._at('instances', name)}:stop"
        try:
            said = await self._repeat("POST", at, f"stop the instance {name}", body={})
        except NotFoundError:
            return None
        return Operation.read(said)

    async def delete_instance(self, name: str) -> Operation | None:
        """Delete an instance; None when there is none."""
        return await self._delete(f"delete the instance {name}", self._at("instances", name))

    # --- operations ---------------------------------------------------------------------------

    async def operation(self, name: str) -> Operation:
        """Return an operation as it is now."""
        return Operation.read(await self._read("look at an operation", name))

    async def wait(self, operation: Operation, within: float) -> Operation:
        """Return an operation when it has ended.

        Args:
            operation: which.
            within: seconds.

        Raises:
            UnreachableError: it had not ended by then, or nobody answered.
        """
        pauses = Backoff(0.2, 5.0, within=within)
        async for _ in pauses.rounds():
            if operation.done:
                return operation
            began = time.monotonic()
            operation = await self._wait_once(operation.name)
            if time.monotonic() - began > 1.0:
                pauses.reset()  # Google held its answer back: there is no need to wait here, too
        if operation.done:
            return operation
        raise UnreachableError(
            f"an operation of Cloud Run had not ended after {within:.0f} s ({operation.name})",
            hint="it may still end: look again later",
        )

    async def _wait_once(self, name: str) -> Operation:
        """Ask Google to answer when an operation has ended, or after half a minute."""
        at = f"{name}:wait"
        with contextlib.suppress(NotFoundError):  # an operation whose kind cannot be waited for
            body = {"timeout": f"{_HELD:.0f}s"}
            timeout = ANSWER + _HELD
            said = await self._repeat("POST", at, "wait", body=body, timeout=timeout)
            return Operation.read(said)
        return await self.operation(name)

    # --- requests -----------------------------------------------------------------------------

    def _at(self, kind: str, name: str) -> str:
        return f"{self.parent}/{kind}/{_part(name)}"

    async def _create(self, kind: str, id_name: str, name: str, body: Body) -> Operation | None:
        what = f"create the {kind.removesuffix('s')} {name}"
        try:
            said = await self._repeat(
                "POST", f"{self.parent}/{kind}", what, body=body, query={id_name: name},
                starting=True,
            )  # fmt: skip
        except ConflictError:
            return None
        return Operation.read(said)

    async def _try(self, kind: str, id_name: str, name: str, body: Body) -> None:
        what = f"take such {'an' if kind[0] in 'aeiou' else 'a'} {kind.removesuffix('s')}"
        query = {id_name: name, "validateOnly": "true"}
        await self._once("POST", f"{self.parent}/{kind}", what, body=body, query=query)

    async def _delete(self, what: str, at: str) -> Operation | None:
        try:
            return Operation.read(await self._repeat("DELETE", at, what))
        except NotFoundError:
            return None

    async def _read(self, what: str, at: str, query: Mapping[str, str] | None = None) -> Body:
        return await self._repeat("GET", at, what, query=query)

    async def _list(self, at: str, key: str, what: str, read: Callable[[Body], R]) -> list[R]:
        found: list[R] = []
        query = {"pageSize": str(_PAGE)}
        for _ in range(_PAGES):
            page = await self._read(what, at, query)
            found += [read(each) for each in objects(page, key)]
            token = text(page, "nextPageToken")
            if not token:
                return found
            query = {**query, "pageToken": token}
        raise errors.strange(what, f"more than {_PAGES} pages")

    async def _once(
        self,
        method: str,
        at: str,
        what: str,
        *,
        body: Body,
        query: Mapping[str, str] | None = None,
    ) -> Body:
        """Send what is not sent again: whoever asked looks what came of it."""
        try:
            return await self._call(method, at, what, body=body, query=query, starting=True)
        except _ComeAgainError as again:
            raise again.error from None

    async def _repeat(
        self,
        method: str,
        at: str,
        what: str,
        *,
        body: Body | None = None,
        query: Mapping[str, str] | None = None,
        starting: bool = False,
        timeout: float = ANSWER,
    ) -> Body:
        """Send what may be sent again, until it is answered or `patience` has passed.

        A change that was once answered by 5xx, or not at all, may have happened: when patience
        ends that is what is said, whatever the last try met.
        """
        pauses = Backoff(0.5, 8.0, jitter=0.3, within=self._patience)
        unknown: UnreachableError | None = None
        while True:
            try:
                return await self._call(
                    method, at, what, body=body, query=query, starting=starting, timeout=timeout
                )
            except _ComeAgainError as again:
                error = again.error
                if isinstance(error, UnreachableError) and error.sent:
                    unknown = error
                if pauses.over:
                    raise (unknown or error) from None
                pause = pauses.pause()
                await asyncio.sleep(max(pause, min(again.after, self._patience)))

    async def _call(
        self,
        method: str,
        at: str,
        what: str,
        *,
        body: Body | None = None,
        query: Mapping[str, str] | None = None,
        starting: bool = False,
        timeout: float = ANSWER,
    ) -> Body:
        """Send one request; with a token that is refused, once more with a new one.

        Raises:
            _ComeAgainError: it may help to send it again.
        """
        url = f"{self.endpoint}/v2/{at}" + (f"?{urlencode(query)}" if query else "")
        content = None if body is None else json.dumps(body).encode()
        status, headers, data = 401, httpx.Headers(), b""
        for fresh in (False, True):
            token = "" if self._tokens is None else await self._tokens.access_token(fresh)
            status, headers, data = await self._send(method, url, content, token, what, timeout)
            if status != 401 or self._tokens is None:
                break
        if 200 <= status < 300:
            return _object(what, data)
        found = errors.trouble(status, data)
        error = errors.refusal(
            what, found, starting=starting, project=self.project, region=self.region
        )
        if status in _AGAIN:
            raise _ComeAgainError(error, _seconds(headers.get("retry-after")))
        raise error

    async def _send(
        self, method: str, url: str, content: bytes | None, token: str, what: str, timeout: float
    ) -> tuple[int, httpx.Headers, bytes]:
        headers = {"accept": "application/json"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        if content is not None:
            headers["content-type"] = "application/json"
        try:
            async with (
                asyncio.timeout(timeout + ANSWER),  # httpx's own is for each read
                self._http.stream(
                    method, url, content=content, headers=headers, timeout=timeout
                ) as answer,
            ):
                data = bytearray()
                async for chunk in answer.aiter_bytes():
                    data += chunk
                    if len(data) > MOST:
                        raise errors.strange(what, bytes(data[:80]))
                self._note_clock(answer.headers.get("date"))
                return answer.status_code, answer.headers, bytes(data)
        except TimeoutError:
            late = httpx.ReadTimeout("no answer in time")
            raise _ComeAgainError(errors.not_answered(what, late, region=self.region)) from None
        except httpx.TransportError as error:
            raise _ComeAgainError(errors.not_answered(what, error, region=self.region)) from error
        except (httpx.InvalidURL, httpx.HTTPError) as error:
            raise errors.strange(what, str(error)) from error

    def _note_clock(self, date: str | None) -> None:
        """Remember how far Google's clock is from ours, by an answer's `Date`."""
        from email.utils import parsedate_to_datetime

        with contextlib.suppress(TypeError, ValueError):
            if date:
                self.skew = parsedate_to_datetime(date).timestamp() - time.time()


class _ComeAgainError(Exception):
    """A request that may be repeated if it is harmless.

    Args:
        error: what to raise where it is not repeated.
        after: seconds that Google asked to wait.
    """

    def __init__(self, error: OutpostError, after: float = 0.0) -> None:
        super().__init__(error.message)
        self.error = error
        self.after = after


def _part(name: str) -> str:
    """Return one part of a path; what comes from an answer may hold anything."""
    return quote(name.rpartition("/")[2], safe="")


def _object(what: str, data: bytes) -> Body:
    try:
        said = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise errors.strange(what, data[:80])
    return said


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isascii() and text.isdigit() and len(text) < 6 else 0.0
