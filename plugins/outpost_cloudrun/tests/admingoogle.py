"""A small Google for the tests of the admin room: routes and messages are the vendor's own.

Every request is parsed into the message of `google-cloud-run`, so that a wrong field, type, enum,
verb or query is refused here as it is there. Jobs and instances are records that a test moves.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from google.cloud import run_v2
from google.iam.v1 import iam_policy_pb2
from google.protobuf import json_format

PROJECT, REGION = "proj-1", "us-central1"
PARENT = f"projects/{PROJECT}/locations/{REGION}"
#: Fields that the API's schema of 2026-10-31 (`run.v2.json`) has, and the package does not yet.
NEWER = {"restartPolicy": {"ALWAYS", "ON_FAILURE", "NEVER"}}
_KINDS = ("jobs", "services", "executions", "tasks", "instances")
_LABEL = re.compile(r"[a-z][a-z0-9_-]{0,62}=[a-z0-9_-]{0,63}")


def _routes() -> Iterator[tuple[str, re.Pattern[str], str | None, str, Any]]:
    for kind in _KINDS:
        base = importlib.import_module(f"google.cloud.run_v2.services.{kind}.transports.rest_base")
        found = next(
            c for n, c in inspect.getmembers(base, inspect.isclass)
            if n.startswith("_Base") and n.endswith("RestTransport")
        )  # fmt: skip
        for name, member in vars(found).items():
            if not (inspect.isclass(member) and hasattr(member, "_get_http_options")):
                continue
            rpc = name.removeprefix("_Base")
            request = getattr(run_v2, rpc + "Request", None)
            for option in member._get_http_options() if request else ():
                pattern = re.sub(
                    r"\{([\w.]+)=([^}]+)\}",
                    lambda m: f"(?P<{m[1].replace('.', '__')}>{m[2].replace('*', '[^/:]+')})",
                    option["uri"],
                )
                method = option["method"].upper()
                yield method, re.compile(pattern + "$"), option.get("body"), rpc, request


ROUTES = list(_routes())


class RefusedError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, word: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"code": status, "status": word, "message": message, **more}}


def parse(method: str, url: str, body: bytes) -> tuple[str, dict[str, Any]]:
    """Return the method's name and its request, which Google's own messages have taken."""
    at = urlsplit(url)
    if method == "POST" and at.path.endswith(":testIamPermissions"):
        said = json.loads(body)
        json_format.ParseDict(
            {**said, "resource": at.path}, iam_policy_pb2.TestIamPermissionsRequest()
        )
        return "TestIamPermissions", said
    if "/operations/" in at.path:
        name, _, verb = at.path.removeprefix("/v2/").partition(":")
        assert (method, verb) in (("GET", ""), ("POST", "wait")), (method, url)
        assert set(json.loads(body or b"{}")) <= {"timeout"}
        return "WaitOperation" if verb else "GetOperation", {"name": name}
    for verb, pattern, holder, rpc, request in ROUTES:
        hit = pattern.match(at.path) if verb == method else None
        if hit is None:
            continue
        said = json.loads(body or b"{}")
        document: dict[str, Any] = (
            {} if holder is None else said if holder == "*" else {holder: said}
        )
        for key, value in [*parse_qsl(at.query), *hit.groupdict().items()]:
            if key.startswith("$"):  # what Google's own client says of the answer's form
                continue
            inner = document
            *path, last = key.replace("__", ".").split(".")
            for part in path:
                inner = inner.setdefault(part, {})
            inner[last] = value == "true" if value in ("true", "false") else value
        json_format.ParseDict(_known(document), request.pb(request()))
        _rules(document)
        return rpc, document
    raise RefusedError(404, "NOT_FOUND", f"no method {method} {at.path}")


def _known(document: Any) -> Any:
    """Return a request without what is newer than the package; its values are checked here."""
    if isinstance(document, list):
        return [_known(each) for each in document]
    if not isinstance(document, dict):
        return document
    known = {}
    for key, value in document.items():
        if key in NEWER:
            assert value in NEWER[key], (key, value)
        elif not (key == "medium" and value == "DISK"):
            known[key] = _known(value)
    return known


def _rules(document: dict[str, Any]) -> None:
    """Refuse what the messages cannot: what is required, and which values are allowed."""
    job, instance = document.get("job"), document.get("instance")
    holder = job or instance or document.get("service") or {}
    for key, value in holder.get("labels", {}).items():
        if not _LABEL.fullmatch(f"{key}={value}"):
            raise RefusedError(400, "INVALID_ARGUMENT", f"label {key}={value}")
    template = holder.get("template", {})
    inner = template.get("template", template) if job else instance or template
    for container in inner.get("containers", ()):
        if not container.get("image"):
            raise RefusedError(400, "INVALID_ARGUMENT", "containers[0].image: required")
    if job:
        token = job.get("startExecutionToken", "")
        if len(document["jobId"]) + len(token) >= 63:
            raise RefusedError(400, "INVALID_ARGUMENT", "job name and token are too long")
        if not 1 <= float(inner.get("timeout", "600s")[:-1]) <= 168 * 3600:
            raise RefusedError(400, "INVALID_ARGUMENT", "template.timeout")
    if instance and len(document["instanceId"]) > 49:
        raise RefusedError(400, "INVALID_ARGUMENT", "instance_id")


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
            except json_format.ParseError as error:
                return 400, RefusedError(400, "INVALID_ARGUMENT", str(error)).body
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
