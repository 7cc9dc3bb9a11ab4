"""Cloud Run instances (preview): one container with an address and without a time limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any

import httpx
from google.cloud import run_v2

from outpost_cloudrun.testing import borders, ports, rules, tokens
from outpost_cloudrun.testing.cloud import (
    FAILED,
    RECONCILING,
    SUCCEEDED,
    Cloud,
    Operation,
    check_etag,
    find,
    last,
    page,
    parent_of,
    region_of,
    set_condition,
    stamp,
)
from outpost_cloudrun.testing.containers import Container
from outpost_cloudrun.testing.environment import spec, variables
from outpost_cloudrun.testing.errors import GoogleError
from outpost_cloudrun.testing.exchanges import Reply, Request, answer
from outpost_cloudrun.testing.forward import Line, relay
from outpost_cloudrun.testing.httpd import Server
from outpost_cloudrun.testing.services import Publish


class Instances:
    """What the Admin API does with instances.

    Args:
        cloud: the resources.
        publish: gives an instance its address.
    """

    def __init__(self, cloud: Cloud, publish: Publish) -> None:
        self.cloud = cloud
        self._publish = publish
        self._running: dict[str, _Running] = {}

    async def close(self) -> None:
        """End all of them."""
        for running in self._running.values():
            await running.close()

    async def create_instance(self, call: Any, newer: Mapping[str, str]) -> Operation:
        """`instances.create`; an image starts at once."""
        cloud, instance = self.cloud, call.instance
        identity = call.instance_id
        if region_of(call.parent) in cloud.knobs.no_instances:
            raise GoogleError(
                400, f"Cloud Run instances are not available in {region_of(call.parent)}."
            )
        rules.check_instance(identity, instance)
        name = f"{call.parent}/instances/{identity}"
        if name in cloud.instances or name.replace("/instances/", "/services/") in cloud.services:
            raise GoogleError(409, f"Resource '{identity}' already exists.")
        image = cloud.knobs.images.get(instance.containers[0].image)
        if image is not None and image.missing:
            raise GoogleError(400, f"Image '{instance.containers[0].image}' not found.")
        try:
            variables(cloud, name, instance.containers[0])
        except GoogleError as error:
            raise GoogleError(400, f"spec.containers.env: {error}") from error
        instance.name = name
        if call.validate_only:
            return cloud.begin(call.parent, instance, _giving(instance))
        stamp(cloud, instance, new=True)
        cloud.instances[name] = instance
        cloud.newer[name] = dict(newer)
        instance.reconciling = True
        set_condition(cloud, instance.terminal_condition, "Ready", RECONCILING)
        cloud.journal.write("instance.created", name=name)
        running = _Running(cloud, instance, newer.get("restartPolicy", "ON_FAILURE"))
        self._running[name] = running
        await running.server.open()
        instance.urls.append(await self._publish(running.server))

        async def ready() -> Any:
            await running.start()
            return instance

        return cloud.begin(call.parent, instance, ready)

    async def get_instance(self, call: Any) -> Any:
        """`instances.get`."""
        return find(self.cloud.instances, call.name, "INSTANCE")

    async def list_instances(self, call: Any) -> Any:
        """`instances.list`."""
        names = [name for name in self.cloud.instances if name.startswith(f"{call.parent}/")]
        chosen, more = page(names, call.page_size, call.page_token)
        listed = run_v2.ListInstancesResponse.pb(run_v2.ListInstancesResponse())
        listed.instances.extend(self.cloud.instances[name] for name in chosen)
        listed.next_page_token = more
        return listed

    async def start_instance(self, call: Any) -> Operation:
        """`instances.start`."""
        instance = find(self.cloud.instances, call.name, "INSTANCE")
        check_etag(call.etag, instance)

        async def started() -> Any:
            await self._running[call.name].start()
            return instance

        return self.cloud.begin(parent_of(call.name), instance, started)

    async def stop_instance(self, call: Any) -> Operation:
        """`instances.stop`: SIGTERM, then SIGKILL."""
        instance = find(self.cloud.instances, call.name, "INSTANCE")
        check_etag(call.etag, instance)

        async def stopped() -> Any:
            await self._running[call.name].stop()
            return instance

        return self.cloud.begin(parent_of(call.name), instance, stopped)

    async def delete_instance(self, call: Any) -> Operation:
        """`instances.delete`."""
        cloud = self.cloud
        instance = find(cloud.instances, call.name, "INSTANCE")
        check_etag(call.etag, instance)
        if call.validate_only:
            return cloud.begin(parent_of(call.name), instance, _giving(instance))

        async def deleted() -> Any:
            running = self._running.pop(call.name, None)
            if running is not None:
                await running.stop()
                await running.close()
            cloud.instances.pop(call.name, None)
            cloud.newer.pop(call.name, None)
            cloud.journal.write("instance.deleted", name=call.name)
            return instance

        return cloud.begin(parent_of(call.name), instance, deleted)

    def servers(self) -> list[Server]:
        """Return the addresses of all of them."""
        return [running.server for running in self._running.values()]

    def kill(self, name: str) -> None:
        """Kill a container, as a machine that is lost does."""
        self._running[name].kill()


class _Running:
    """An instance: its address, and its container while there is one.

    Args:
        cloud: where it belongs.
        instance: as the API tells it.
        policy: when it is started again: `ALWAYS`, `ON_FAILURE` or `NEVER`.
    """

    def __init__(self, cloud: Cloud, instance: Any, policy: str) -> None:
        self.cloud = cloud
        self.instance = instance
        self.server = Server(self._handle)
        self._policy = policy
        self._container: Container | None = None
        self._line: Line | None = None
        self._stopping = False
        cloud.go(borders.cut_while_away(cloud, instance.name, self.server))

    async def start(self) -> None:
        """Start the container, and wait until it listens.

        Raises:
            GoogleError: it did not.
        """
        if self._container is not None:
            return
        cloud, instance = self.cloud, self.instance
        self._stopping = False
        port = ports.free()
        order = spec(cloud, instance.name, instance.containers[0], {}, instance.volumes, port=port)
        if cloud.knobs.cold_start:
            await asyncio.sleep(cloud.knobs.cold_start)
        try:
            container = await cloud.containers.start(order)
        except OSError as error:
            self._condition(FAILED, str(error))
            raise GoogleError(400, str(error), word="FAILED_PRECONDITION") from error
        self._container = container
        two = any(each.name == "h2c" for each in instance.containers[0].ports)
        self._line = Line(port, two=two)
        cloud.journal.write("instance.started", name=instance.name, container=order.id)
        cloud.go(self._watch(container, self._line))
        end = time.monotonic() + cloud.knobs.startup
        while self._container is container and time.monotonic() < end:
            if await ports.listens(port):
                self._condition(SUCCEEDED, "")
                cloud.journal.write("instance.ready", name=instance.name)
                return
            await asyncio.sleep(0.02)
        raise GoogleError(
            400, "The user-provided container failed to start and listen on the port defined"
            " provided by the PORT environment variable.", word="FAILED_PRECONDITION",
        )  # fmt: skip

    async def stop(self) -> None:
        """End the container in peace, or after the grace by force."""
        container = self._container
        self._stopping = True
        if container is not None:
            self._condition(RECONCILING, "", "INSTANCE_STOPPING")
            self.cloud.journal.write("instance.sigterm", name=self.instance.name)
            container.terminate()
            try:
                async with asyncio.timeout(self.cloud.knobs.grace):
                    await container.ended()
            except TimeoutError:
                self.cloud.journal.write("instance.sigkill", name=self.instance.name)
                container.kill()
                await container.ended()
        self._condition(FAILED, "Instance stopped.", "INSTANCE_STOPPED")

    def kill(self) -> None:
        """Kill the container."""
        if self._container is not None:
            self._container.kill()

    async def close(self) -> None:
        """End all at once."""
        self._stopping = True
        await self.server.close()
        if self._container is not None:
            self._container.kill()
            await self._container.ended()

    async def _watch(self, container: Container, line: Line) -> None:
        ended = await container.ended()
        if self._container is container:
            self._container = self._line = None
        await line.close()
        name = self.instance.name
        self.cloud.journal.write(
            "instance.ended", name=name, code=ended.code, signal=ended.signal, memory=ended.memory
        )
        if self._stopping or name not in self.cloud.instances:
            return
        again = self._policy == "ALWAYS" or (self._policy != "NEVER" and not ended.well)
        if again:
            self.cloud.journal.write("instance.restarted", name=name)
            await self.start()
        elif ended.well:
            self._condition(FAILED, "Instance stopped.", "INSTANCE_STOPPED")
        else:
            code = ended.code or 128 + ended.signal
            why = f"Instance exited with a non-zero exit code: {code}."
            if ended.memory:
                why = f"Memory limit of {container.spec.memory >> 20} MiB exceeded."
            self._condition(FAILED, why, "INSTANCE_NON_ZERO_EXIT_CODE")

    def _condition(self, state: int, message: str, reason: str = "") -> None:
        instance = self.instance
        instance.reconciling = state == RECONCILING
        instance.observed_generation = instance.generation
        set_condition(self.cloud, instance.terminal_condition, "Ready", state, message)
        newer = self.cloud.newer.setdefault(instance.name, {})
        newer.pop("terminalCondition.instanceReason", None)
        if reason:
            newer["terminalCondition.instanceReason"] = reason

    async def _handle(self, request: Request, reply: Reply) -> None:
        cloud = self.cloud
        always = [
            ("date", formatdate(cloud.tokens.now(), usegmt=True)),
            ("server", "Google Frontend"),
        ]
        refusal = borders.refuse(cloud, self.instance.name, request)
        if refusal is not None:
            await answer(reply, refusal.status, refusal.body, [*refusal.headers, *always])
            return
        if cloud.knobs.tokens and not self.instance.invoker_iam_disabled:
            refusal = tokens.check(cloud, request, set(self.instance.urls))
            if refusal is not None:
                await answer(reply, refusal.status, refusal.body, [*refusal.headers, *always])
                return
        line = self._line
        try:
            if line is None:
                raise httpx.ConnectError("no container")
            async with line.ask(request, request.header("host")) as response:
                cloud.journal.write(
                    "request", instance=last(self.instance.name), method=request.method,
                    path=request.target, status=response.status_code,
                )  # fmt: skip
                await relay(response, reply, always)
        except httpx.HTTPError as error:
            if reply.started:
                raise ConnectionResetError("the container is gone") from error
            await answer(reply, 503, b"Service Unavailable", always)


def _giving(resource: Any) -> Any:
    async def give() -> Any:
        return resource

    return give
