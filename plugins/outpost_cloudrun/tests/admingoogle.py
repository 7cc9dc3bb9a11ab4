"""A small Google for the tests of the admin room: routes and messages are the vendor's own.

Requests are read and refused as by the emulator. Jobs and instances are no programs here, but
records that a test moves.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf import json_format

from outpost_cloudrun.testing import rules, schema
from outpost_cloudrun.testing.errors import GoogleError

PROJECT, REGION = "proj-1", "us-central1"
PARENT = f"projects/{PROJECT}/locations/{REGION}"
#: What a request is about.
HOLDERS = {"service", "job", "instance"}


class RefusedError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, word: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"code": status, "status": word, "message": message, **more}}


def named(thing: dict[str, Any]) -> dict[str, Any]:
    """Return the name of a thing, which is in the path of its request."""
    return {key: value for key, value in thing.items() if key == "name"}


def parse(method: str, url: str, body: bytes) -> tuple[str, dict[str, Any]]:
    """Return the method's name and its request, which Google's own messages have taken."""
    call = schema.parse(method, url, body)
    document: dict[str, Any] = json_format.MessageToDict(call.message)
    for kind in HOLDERS & document.keys():  # as it was said: a message forgets a `false`
        document[kind] = {**json.loads(body), **named(document[kind])}
    if call.name == "CreateJob":
        rules.check_job(document["jobId"], call.message.job)
    elif call.name == "CreateInstance":
        rules.check_instance(document["instanceId"], call.message.instance)
    return call.name, document


def now() -> str:
    return datetime.now(UTC).isoformat()


class Google:
    """The Admin API on loopback.

    Attributes:
        url: its address.
        calls: `(method, parsed request)` of each call that was taken.
        faults: called before each call with its name and request; may raise RefusedError, or
            return True to end the connection without an answer **after** the call was done.
        tokens: access tokens that are taken; empty: any.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.things: dict[str, dict[str, Any]] = {}
        self.operations: dict[str, dict[str, Any]] = {}
        self.faults: Callable[[str, dict[str, Any]], bool | None] = lambda _name, _request: None
        self.tokens: set[str] = set()
        self.operations_end = True
        self.permissions: set[str] = {"run.routes.invoke"}
        self.page = 2
        self.clock = 0.0
        self._lock = threading.RLock()
        google = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                answer = google.answer(
                    self.command, self.path, body, self.headers.get("authorization") or ""
                )
                if answer is None:
                    self.close_connection = True
                    self.connection.close()
                    return
                status, said = answer
                data = json.dumps(said).encode()
                self.send_response_only(status)
                self.send_header("Date", formatdate(time.time() + google.clock, usegmt=True))
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815 - as the library calls

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a connection that a test cut

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def count(self, name: str) -> int:
        return sum(called == name for called, _ in self.calls)

    def answer(
        self, method: str, path: str, body: bytes, login: str
    ) -> tuple[int, dict[str, Any]] | None:
        with self._lock:
            try:
                if self.tokens and login.removeprefix("Bearer ") not in self.tokens:
                    raise RefusedError(401, "UNAUTHENTICATED", "invalid authentication credentials")
                name, request = parse(method, path, body)
                self.calls.append((name, request))
                cut = self.faults(name, request)
                said = getattr(self, f"_{_snake(name)}")(request)
            except RefusedError as refused:
                return refused.status, refused.body
            except GoogleError as error:
                return error.code, json.loads(error.body())
            return None if cut else (200, said)

    # --- what a test moves --------------------------------------------------------------------

    def execution(self, job: str) -> dict[str, Any]:
        """Return the one execution of a job."""
        (found,) = [
            thing for name, thing in self.things.items()
            if name.startswith(f"{PARENT}/jobs/{job}/executions/") and "/tasks/" not in name
        ]  # fmt: skip
        return found

    def end(self, job: str, *, exit_code: int = 0, signal: int = 0, reason: str = "",
            message: str = "") -> None:  # fmt: skip
        """End the execution of a job as Google tells it."""
        with self._lock:
            execution = self.execution(job)
            good = not (exit_code or signal or reason)
            state = "CONDITION_SUCCEEDED" if good else "CONDITION_FAILED"
            condition: dict[str, Any] = {"type": "Completed", "state": state, "message": message}
            if not good:
                condition["executionReason"] = reason or "NON_ZERO_EXIT_CODE"
            last: dict[str, Any] = {}
            if exit_code:
                last["exitCode"] = exit_code
            if signal:
                last["termSignal"] = signal
            if not good:
                last["status"] = {"code": 2, "message": message}
            cancelled = reason == "CANCELLED"
            execution |= {
                "completionTime": now(), "conditions": [condition], "reconciling": False,
                ("succeededCount" if good else "cancelledCount" if cancelled else "failedCount"): 1,
            }  # fmt: skip
            execution.pop("runningCount", None)
            self.things[f"{execution['name']}/tasks/0"] |= {
                "completionTime": now(),
                "lastAttemptResult": last,
            }

    # --- methods ------------------------------------------------------------------------------

    def _operation(self, about: dict[str, Any], kind: str) -> dict[str, Any]:
        name = f"{PARENT}/operations/{len(self.operations) + 1}"
        said = {"@type": f"type.googleapis.com/google.cloud.run.v2.{kind}", **about}
        operation: dict[str, Any] = {"name": name, "metadata": said}
        if self.operations_end:
            operation |= {"done": True, "response": said}
        self.operations[name] = operation
        return operation

    def _thing(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return self.things[request["name"]]
        except KeyError:
            raise RefusedError(404, "NOT_FOUND", f"{request['name']} was not found") from None

    def _listed(self, request: dict[str, Any], kind: str) -> dict[str, Any]:
        found = [
            thing for name, thing in self.things.items()
            if name.startswith(f"{request['parent']}/{kind}/")
            and "/" not in name.removeprefix(f"{request['parent']}/{kind}/")
        ]  # fmt: skip
        begin = int(request.get("pageToken", 0))
        page: dict[str, Any] = {kind: found[begin : begin + self.page]}
        if begin + self.page < len(found):
            page["nextPageToken"] = str(begin + self.page)
        return page

    def _create(self, request: dict[str, Any], kind: str) -> dict[str, Any]:
        short = request[f"{kind}Id"]
        name = f"{request['parent']}/{kind}s/{short}"
        if name in self.things:
            raise RefusedError(409, "ALREADY_EXISTS", f"Resource '{short}' already exists.")
        made = {**request[kind], "name": name, "uid": "u", "etag": "1", "createTime": now()}
        self.things[name] = made
        return made

    def _create_job(self, request: dict[str, Any]) -> dict[str, Any]:
        job = self._create(request, "job")
        if token := job.get("startExecutionToken"):
            short = f"{request['jobId']}-{token}"
            name = f"{job['name']}/executions/{short}"
            self.things[name] = {
                "name": name, "job": job["name"], "labels": job["template"].get("labels", {}),
                "createTime": now(), "startTime": now(), "runningCount": 1, "reconciling": True,
                "conditions": [{"type": "Completed", "state": "CONDITION_RECONCILING"}],
            }  # fmt: skip
            self.things[f"{name}/tasks/0"] = {"name": f"{name}/tasks/0", "startTime": now()}
            job |= {"executionCount": 1, "latestCreatedExecution": {"name": short}}
        return self._operation(job, "Job")

    def _get_job(self, request: dict[str, Any]) -> dict[str, Any]:
        return self._thing(request)

    _get_execution = _get_instance = _get_service = _get_job

    def _list_jobs(self, request: dict[str, Any]) -> dict[str, Any]:
        return self._listed(request, "jobs")

    def _list_executions(self, request: dict[str, Any]) -> dict[str, Any]:
        return self._listed(request, "executions")

    def _list_tasks(self, request: dict[str, Any]) -> dict[str, Any]:
        return self._listed(request, "tasks")

    def _list_instances(self, request: dict[str, Any]) -> dict[str, Any]:
        return self._listed(request, "instances")

    def _delete_job(self, request: dict[str, Any]) -> dict[str, Any]:
        thing = self._thing(request)
        for name in [each for each in self.things if each.startswith(f"{request['name']}/")]:
            del self.things[name]
        del self.things[request["name"]]
        return self._operation(thing, "Job")

    def _delete_instance(self, request: dict[str, Any]) -> dict[str, Any]:
        thing = self._thing(request)
        del self.things[request["name"]]
        return self._operation(thing, "Instance")

    def _cancel_execution(self, request: dict[str, Any]) -> dict[str, Any]:
        execution = self._thing(request)
        if "completionTime" not in execution:
            self.end(execution["job"].rpartition("/")[2], reason="CANCELLED", message="cancelled")
        operation = self._operation(execution, "Execution")
        operation["error"] = {"code": 1, "message": "The execution was cancelled."}
        return operation

    def _create_instance(self, request: dict[str, Any]) -> dict[str, Any]:
        made = self._create(request, "instance")
        made["urls"] = [f"{self.url}/instances/{request['instanceId']}"]
        made["terminalCondition"] = {"type": "Ready", "state": "CONDITION_SUCCEEDED"}
        return self._operation(made, "Instance")

    def _stop_instance(self, request: dict[str, Any]) -> dict[str, Any]:
        thing = self._thing(request)
        thing["terminalCondition"] = {
            "type": "Ready", "state": "CONDITION_FAILED", "instanceReason": "INSTANCE_STOPPED",
        }  # fmt: skip
        return self._operation(thing, "Instance")

    def _start_instance(self, request: dict[str, Any]) -> dict[str, Any]:
        thing = self._thing(request)
        thing["terminalCondition"] = {"type": "Ready", "state": "CONDITION_SUCCEEDED"}
        return self._operation(thing, "Instance")

    def _update_service(self, request: dict[str, Any]) -> dict[str, Any]:
        said = request["service"]
        name = said["name"]
        there = self.things.get(name)
        if there is None and not request.get("allowMissing"):
            raise RefusedError(404, "NOT_FOUND", name)
        if there is not None and said.get("etag") not in (None, "", there["etag"]):
            raise RefusedError(409, "ABORTED", "Conflict for resource: version mismatch")
        masked = [part for part in request.get("updateMask", "").split(",") if part]
        made = dict(there or {})
        for key, value in said.items():
            if not masked or key in masked or key == "name":
                made[key] = value
        version = str(int(made.get("etag") or 0) + 1) if there else "1"
        made |= {
            "etag": version, "uri": f"https://{name.rpartition('/')[2]}-x.a.run.app",
            "terminalCondition": {"type": "Ready", "state": "CONDITION_SUCCEEDED"},
        }  # fmt: skip
        self.things[name] = made
        return self._operation(made, "Service")

    def _get_operation(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["name"] not in self.operations:
            raise RefusedError(404, "NOT_FOUND", request["name"])
        return self.operations[request["name"]]

    _wait_operation = _get_operation

    def _test_iam_permissions(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"permissions": [p for p in request["permissions"] if p in self.permissions]}


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
