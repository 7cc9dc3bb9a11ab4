"""Services: what the Admin API does with them, and the front of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from google.cloud import run_v2
from google.protobuf import field_mask_pb2

from outpost_cloudrun.testing import rules
from outpost_cloudrun.testing.cloud import (
    FAILED,
    SUCCEEDED,
    Cloud,
    Operation,
    check_etag,
    find,
    last,
    page,
    parent_of,
    set_condition,
    stamp,
)
from outpost_cloudrun.testing.environment import variables
from outpost_cloudrun.testing.errors import GoogleError
from outpost_cloudrun.testing.front import Front
from outpost_cloudrun.testing.httpd import Server
from outpost_cloudrun.testing.pool import Pool, Revision

#: Gives a server its address for callers; TLS is put before it there.
Publish = Callable[[Server], Awaitable[str]]


class Services:
    """What the Admin API does with services.

    Args:
        cloud: the resources.
        publish: gives the front of a service its address.
    """

    def __init__(self, cloud: Cloud, publish: Publish) -> None:
        self.cloud = cloud
        self.fronts: dict[str, Front] = {}
        self._publish = publish

    async def close(self) -> None:
        """End all fronts and containers."""
        for front in self.fronts.values():
            await front.close()

    async def create_service(self, call: Any) -> Operation:
        """`services.create`."""
        name = f"{call.parent}/services/{call.service_id}"
        rules.check_service("service", call.service_id, call.service)
        if name in self.cloud.services or self._instance(name) in self.cloud.instances:
            raise GoogleError(409, f"Resource '{call.service_id}' already exists.")
        call.service.name = name
        return await self._write(call.service, None, validate_only=call.validate_only)

    async def update_service(self, call: Any) -> Operation:
        """`services.patch`, with `updateMask` and `allowMissing`."""
        cloud, service = self.cloud, call.service
        old = cloud.services.get(service.name)
        if old is None and not call.allow_missing:
            find(cloud.services, service.name, "SERVICE")
        if old is None and self._instance(service.name) in cloud.instances:
            raise GoogleError(409, f"Resource '{last(service.name)}' already exists.")
        if old is not None:
            check_etag(service.etag, old)
            if call.update_mask.paths:
                merged = run_v2.Service.pb(run_v2.Service())
                merged.CopyFrom(old)
                for path in call.update_mask.paths:
                    if path != "*" and not field_mask_pb2.FieldMask(
                        paths=[path]
                    ).IsValidForDescriptor(merged.DESCRIPTOR):
                        raise GoogleError(400, f"update_mask: '{path}' is no field of a service")
                call.update_mask.MergeMessage(service, merged, True, True)
                service = merged
        rules.check_service("service", last(service.name), service)
        return await self._write(service, old, validate_only=call.validate_only)

    async def get_service(self, call: Any) -> Any:
        """`services.get`."""
        return find(self.cloud.services, call.name, "SERVICE")

    async def list_services(self, call: Any) -> Any:
        """`services.list`."""
        names = [name for name in self.cloud.services if name.startswith(f"{call.parent}/")]
        chosen, more = page(names, call.page_size, call.page_token)
        answer = run_v2.ListServicesResponse.pb(run_v2.ListServicesResponse())
        answer.services.extend(self.cloud.services[name] for name in chosen)
        answer.next_page_token = more
        return answer

    async def delete_service(self, call: Any) -> Operation:
        """`services.delete`, with its containers."""
        cloud = self.cloud
        service = find(cloud.services, call.name, "SERVICE")
        check_etag(call.etag, service)
        if not call.validate_only:
            del cloud.services[call.name]
            cloud.policies.pop(call.name, None)
            cloud.journal.write("service.deleted", name=call.name)

        async def deleted() -> Any:
            front = None if call.validate_only else self.fronts.pop(call.name, None)
            if front is not None:
                await front.close()
            return service

        return cloud.begin(parent_of(call.name), service, deleted)

    async def _write(self, service: Any, old: Any, *, validate_only: bool) -> Operation:
        cloud = self.cloud
        _fill(service)
        self._check_secrets(service)
        if validate_only:
            return cloud.begin(parent_of(service.name), service, _giving(service))
        if old is not None:
            for kept in ("uid", "generation", "uri", "creator"):
                setattr(service, kept, getattr(old, kept))
            service.create_time.CopyFrom(old.create_time)
            del service.urls[:]
            service.urls.extend(old.urls)
        stamp(cloud, service, new=old is None)
        service.reconciling = True
        cloud.services[service.name] = service
        cloud.journal.write("service.written", name=service.name, generation=service.generation)

        async def deployed() -> Any:
            await self._deploy(service)
            return service

        return cloud.begin(parent_of(service.name), service, deployed)

    async def _deploy(self, service: Any) -> None:
        cloud = self.cloud
        template = service.template
        revision_name = template.revision or f"{last(service.name)}-{service.generation:05d}-x"
        service.latest_created_revision = f"{service.name}/revisions/{revision_name}"
        image = cloud.knobs.images.get(template.containers[0].image)
        service.reconciling = False
        service.observed_generation = service.generation
        if image is not None and image.missing:
            message = f"Image '{template.containers[0].image}' not found."
            set_condition(cloud, service.terminal_condition, "Ready", FAILED, message)
            service.terminal_condition.reason = run_v2.Condition.CommonReason.CONTAINER_MISSING
            raise GoogleError(400, message, word="INVALID_ARGUMENT")
        revision = _revision(service, revision_name)
        front = self.fronts.get(service.name)
        if front is None:
            front = Front(
                cloud, service.name, Pool(cloud, revision), lambda: self._audiences(service.name)
            )
            self.fronts[service.name] = front
            await front.server.open()
            service.uri = await self._publish(front.server)
            service.urls.append(service.uri)
        else:
            front.pool.deploy(revision)
        service.latest_ready_revision = service.latest_created_revision
        set_condition(cloud, service.terminal_condition, "Ready", SUCCEEDED)

    def _audiences(self, name: str) -> set[str] | None:
        service = self.cloud.services.get(name)
        if service is None:
            return set()
        policy = self.cloud.policies.get(name)
        everybody = policy is not None and any(
            binding.role == "roles/run.invoker" and "allUsers" in binding.members
            for binding in policy.bindings
        )
        if service.invoker_iam_disabled or everybody:
            return None
        return {*service.urls, service.uri, *service.custom_audiences}

    def _check_secrets(self, service: Any) -> None:
        for container in service.template.containers:
            try:
                variables(self.cloud, service.name, container)
            except GoogleError as error:
                raise GoogleError(400, f"spec.template.spec.containers.env: {error}") from error

    def _instance(self, name: str) -> str:
        """Return what an instance of the same name would be called: they share their names."""
        return name.replace("/services/", "/instances/")


def _revision(service: Any, name: str) -> Revision:
    template = service.template
    container = template.containers[0]
    resources = container.resources
    return Revision(
        name=name,
        service=service.name,
        container=container,
        volumes=tuple(template.volumes),
        concurrency=template.max_instance_request_concurrency,
        least=max(template.scaling.min_instance_count, service.scaling.min_instance_count),
        most=template.scaling.max_instance_count or service.scaling.max_instance_count or 100,
        timeout=template.timeout.seconds + template.timeout.nanos / 1e9,
        throttled=resources.cpu_idle if container.HasField("resources") else True,
        two=any(port.name == "h2c" for port in container.ports),
        affinity=template.session_affinity,
    )


def _fill(service: Any) -> None:
    """Set what Google sets where nothing is said."""
    template = service.template
    if not template.HasField("timeout"):
        template.timeout.seconds = 300
    if not template.max_instance_request_concurrency:
        container = template.containers[0]
        less = rules.cpu(container.resources.limits.get("cpu", "1")) < 1
        template.max_instance_request_concurrency = 1 if less else 80
    for container in template.containers:
        if not container.ports:
            container.ports.add(name="http1", container_port=8080)
    service.ingress = service.ingress or 1
    service.launch_stage = service.launch_stage or 4  # GA


def _giving(resource: Any) -> Any:
    async def give() -> Any:
        return resource

    return give
