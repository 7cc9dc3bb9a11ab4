"""The Admin API v2: checks who calls, what is asked and how often, and answers."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any, Final

from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

from outpost_cloudrun.testing import rules, schema
from outpost_cloudrun.testing.cloud import (
    Cloud,
    Operation,
    find,
    page,
    project_of,
    region_of,
    to_dict,
)
from outpost_cloudrun.testing.errors import GoogleError, api_disabled, denied
from outpost_cloudrun.testing.exchanges import Reply, Request, answer
from outpost_cloudrun.testing.httpd import Server
from outpost_cloudrun.testing.instances import Instances
from outpost_cloudrun.testing.jobs import Jobs
from outpost_cloudrun.testing.services import Publish, Services

#: The permission that a call needs: `run.<kind>.<verb>` (cloud.google.com/run/docs/reference/iam).
_VERBS: Final = {"Update": "update", "Create": "create", "Delete": "delete", "Get": "get",
                 "List": "list", "Run": "run", "Cancel": "cancel", "Start": "start",
                 "Stop": "stop", "Set": "setIamPolicy", "Wait": "get", "Test": "get"}  # fmt: skip
_RESOURCE: Final = re.compile(r"/v2/(projects/[^/:?]+/locations/[^/:?]+[^:?]*)")


class AdminApi:
    """The Admin API on one port, for all projects and regions.

    Args:
        cloud: the resources.
        publish: gives services and instances their addresses.
    """

    def __init__(self, cloud: Cloud, publish: Publish) -> None:
        self.cloud = cloud
        self.jobs = Jobs(cloud)
        self.services = Services(cloud, publish)
        self.instances = Instances(cloud, publish)
        self.server = Server(self._handle)
        self._calls: deque[float] = deque()
        jobs, services, instances = self.jobs, self.services, self.instances
        self._methods: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "CreateJob": jobs.create_job,
            "GetJob": jobs.get_job,
            "ListJobs": jobs.list_jobs,
            "UpdateJob": jobs.update_job,
            "DeleteJob": jobs.delete_job,
            "RunJob": jobs.run_job,
            "GetExecution": jobs.get_execution,
            "ListExecutions": jobs.list_executions,
            "DeleteExecution": jobs.delete_execution,
            "CancelExecution": jobs.cancel_execution,
            "GetTask": jobs.get_task,
            "ListTasks": jobs.list_tasks,
            "CreateService": services.create_service,
            "UpdateService": services.update_service,
            "GetService": services.get_service,
            "ListServices": services.list_services,
            "DeleteService": services.delete_service,
            "GetInstance": instances.get_instance,
            "ListInstances": instances.list_instances,
            "StartInstance": instances.start_instance,
            "StopInstance": instances.stop_instance,
            "DeleteInstance": instances.delete_instance,
            "GetOperation": self._get_operation,
            "ListOperations": self._list_operations,
            "DeleteOperation": self._delete_operation,
            "WaitOperation": self._wait_operation,
            "GetIamPolicy": self._get_policy,
            "SetIamPolicy": self._set_policy,
            "TestIamPermissions": self._test_permissions,
        }

    async def close(self) -> None:
        """End, with all that runs."""
        await self.server.close()
        await self.services.close()
        await self.instances.close()

    async def _handle(self, request: Request, reply: Reply) -> None:
        knobs = self.cloud.knobs
        found = _RESOURCE.match(request.target)
        region = region_of(found[1]) if found else ""
        if region in knobs.regions_away:
            raise ConnectionResetError("the region is away")
        body, status = b"", 200
        try:
            call = self._check(request)
            result = await self._dispatch(call)
            # within an operation, Google's own client takes only what it knows
            operation = isinstance(result, Operation)
            document = (
                to_dict(result.message, {}) if operation else to_dict(result, self.cloud.newer)
            )
            body = json.dumps(document, indent=2).encode()
        except GoogleError as error:
            status, body = error.code, error.body()
        self.cloud.journal.write("admin", method=request.method, path=request.target, status=status)
        if status == 200 and request.method != "GET" and knobs.admin_lost_answers > 0:
            knobs.admin_lost_answers -= 1
            raise ConnectionResetError("the answer is lost")
        date = ("date", formatdate(self.cloud.tokens.now(), usegmt=True))
        kind = ("content-type", "application/json; charset=UTF-8")
        await answer(reply, status, body, [kind, date])

    def _check(self, request: Request) -> schema.Call:
        """Return the call, if it may be made.

        Raises:
            GoogleError: it may not.
        """
        knobs = self.cloud.knobs
        token = request.header("authorization").removeprefix("Bearer ")
        if knobs.access_tokens and self.cloud.tokens.check_access(token) is None:
            raise GoogleError(
                401,
                "Request had invalid authentication credentials. Expected OAuth 2 access token,"
                " login cookie or other valid authentication credential.",
            )
        if knobs.admin_failures:
            status = knobs.admin_failures.pop(0)
            raise GoogleError(status, "The service is currently unavailable.")
        self._count()
        call = schema.parse(request.method, request.target, request.body)
        found = _RESOURCE.match(request.target)
        resource = found[1] if found else request.target
        if knobs.api_disabled:
            raise api_disabled(project_of(resource))
        verb = re.match(r"[A-Z][a-z]+", call.name)
        permission = f"run.{call.kind}.{_VERBS[verb[0]] if verb else ''}"
        if call.name == "RunJob" and call.message.HasField("overrides"):
            permission = "run.jobs.runWithOverrides"
        if permission in knobs.denied:
            raise denied(permission, resource)
        return call

    def _count(self) -> None:
        """Refuse a call more than the quota of a minute allows."""
        most = self.cloud.knobs.admin_per_minute
        now = time.monotonic()
        while self._calls and self._calls[0] < now - 60:
            self._calls.popleft()
        if most is not None and len(self._calls) >= most:
            raise GoogleError(
                429,
                "Quota exceeded for quota metric 'Write requests' and limit 'Write requests per"
                " minute per region' of service 'run.googleapis.com'.",
                details=[
                    {
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": "RATE_LIMIT_EXCEEDED",
                        "domain": "googleapis.com",
                        "metadata": {
                            "service": "run.googleapis.com",
                            "quota_limit_value": str(most),
                        },
                    }
                ],
            )
        self._calls.append(now)

    async def _dispatch(self, call: schema.Call) -> Any:
        kind = {"services": "service", "jobs": "job", "instances": "instance"}.get(call.kind, "")
        if kind and call.name.startswith(("Create", "Update")):
            rules.check_stage(getattr(call.message, kind), call.newer)
        if call.name == "CreateInstance":
            return await self.instances.create_instance(call.message, call.newer)
        method = self._methods.get(call.name)
        if method is None:
            raise GoogleError(501, f"{call.name} is not emulated")
        result = await method(call.message)
        if call.newer and not call.message.validate_only:
            self.cloud.newer[getattr(call.message, kind).name] = dict(call.newer)
        return result

    async def _get_operation(self, message: Any) -> Any:
        return self._operation(message.name)

    async def _wait_operation(self, message: Any) -> Any:
        operation = self._operation(message.name)
        seconds = message.timeout.seconds + message.timeout.nanos / 1e9
        try:
            async with asyncio.timeout(seconds or 30):
                await operation.finished.wait()
        except TimeoutError:
            pass
        return operation

    async def _list_operations(self, message: Any) -> Any:
        names = [name for name in self.cloud.operations if name.startswith(message.name)]
        chosen, more = page(names, message.page_size, message.page_token)
        return operations_pb2.ListOperationsResponse(
            operations=[self.cloud.operations[name].message for name in chosen],
            next_page_token=more,
        )

    async def _delete_operation(self, message: Any) -> Any:
        self._operation(message.name)
        del self.cloud.operations[message.name]
        return empty_pb2.Empty()

    async def _get_policy(self, message: Any) -> Any:
        self._resource(message.resource)
        return self.cloud.policies.get(message.resource, policy_pb2.Policy(version=1))

    async def _set_policy(self, message: Any) -> Any:
        self._resource(message.resource)
        self.cloud.policies[message.resource] = message.policy
        return message.policy

    async def _test_permissions(self, message: Any) -> Any:
        allowed = [each for each in message.permissions if each not in self.cloud.knobs.denied]
        return iam_policy_pb2.TestIamPermissionsResponse(permissions=allowed)

    def _operation(self, name: str) -> Operation:
        operation = self.cloud.operations.get(name)
        if operation is None:
            raise GoogleError(404, f"Operation '{name}' was not found")
        return operation

    def _resource(self, name: str) -> None:
        kind = name.split("/")[4]
        find(self.cloud.services if kind == "services" else self.cloud.jobs, name, kind.upper())
