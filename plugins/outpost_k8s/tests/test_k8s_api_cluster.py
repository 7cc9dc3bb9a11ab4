"""The API server in dicts, against a real one with a real node."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from peers import containers
from peers.kubelab import Cluster as Lab
from peers.kubelab import User

from outpost_core.errors import ConflictError, NotFoundError, SpawnRefusedError, UnreachableError
from outpost_k8s.api import config
from outpost_k8s.api.client import Cluster
from outpost_k8s.api.errors import (
    AbsentError,
    ApiError,
    ChangedError,
    DeniedError,
    ExistsError,
    RefusedError,
)
from outpost_k8s.api.paths import path
from outpost_k8s.api.watch import Reflector

pytestmark = pytest.mark.kube

T = TypeVar("T")
DEADLINE = 120.0


def within(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, DEADLINE))


@asynccontextmanager
async def reached(kubeconfig: Path, namespace: str) -> AsyncIterator[Cluster]:
    cluster = Cluster(config.find(kubeconfig=kubeconfig, namespace=namespace), outpost="k1")
    try:
        yield cluster
    finally:
        await cluster.aclose()


@pytest.fixture
def ns(cluster: Lab) -> Iterator[str]:
    with cluster.namespace() as name:
        yield name


@pytest.fixture(scope="module")
def image(cluster: Lab) -> str:
    return cluster.load_image(containers.image().tag, containers.base())


def settings(name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {"test": "yes"}}, "data": data}


def pod(image: str, *argv: str, name: str = "p") -> dict[str, Any]:
    container = {"name": "worker", "image": image, "imagePullPolicy": "Never", "command": [*argv]}
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}
    return {"metadata": {"name": name}, "spec": spec}


async def running(cluster: Cluster, image: str, *argv: str) -> None:
    pods = path("pods", cluster.namespace)
    await cluster.create(pods, pod(image, *argv))
    async with Reflector(cluster, pods) as seen:
        async for change in seen.changes():
            if change.new and change.new["status"].get("phase") in ("Running", "Succeeded"):
                return


async def whole(cluster: Cluster, *argv: str, **more: Any) -> tuple[bytes, bytes, int]:
    process = await cluster.exec("p", argv, **more)
    try:
        out = b""
        while data := await process.stdout.read(1 << 16):
            out += data
        return out, process.stderr, await process.ended()
    finally:
        await process.close()


# --- verbs ------------------------------------------------------------------------------------


def test_a_thing_is_made_read_changed_and_removed(cluster: Lab, ns: str) -> None:
    maps, one = path("configmaps", ns), path("configmaps", ns, "a")

    async def work() -> None:
        async with reached(cluster.kubeconfig, ns) as api:
            assert (await api.create(maps, settings("a", x="1"), dry_run=True))["data"] == {
                "x": "1"
            }
            with pytest.raises(AbsentError) as absent:
                await api.get(one)
            assert isinstance(absent.value, NotFoundError)
            assert 'configmaps "a" not found' in str(absent.value)
            made = await api.create(maps, settings("a", x="1"))
            uid = made["metadata"]["uid"]
            with pytest.raises(ExistsError) as exists:
                await api.create(maps, settings("a", x="2"))
            assert isinstance(exists.value, ConflictError)
            assert (await api.patch(one, {"data": {"y": "2"}}))["data"] == {"x": "1", "y": "2"}
            operations = [{"op": "remove", "path": "/data/x"}]
            assert (await api.patch(one, operations, kind="json"))["data"] == {"y": "2"}
            whole = {"apiVersion": "v1", "kind": "ConfigMap", **settings("a", y="3")}
            with pytest.raises(ChangedError, match="conflict"):
                await api.patch(one, {**whole, "metadata": {"name": "a"}}, kind="apply")
            applied = await api.patch(one, whole, kind="apply", force=True)
            assert applied["data"] == {"y": "3"}
            with pytest.raises(ChangedError):
                await api.delete(one, uid="0" * 36)
            with pytest.raises(ChangedError):
                await api.delete(one, uid=uid, version=made["metadata"]["resourceVersion"])
            assert await api.delete(one, uid=uid, dry_run=True)
            assert (await api.get(one))["data"] == {"y": "3"}
            assert await api.delete(one, uid=uid)
            assert not await api.delete(one, uid=uid)

    within(work())


def test_a_list_comes_in_pages_and_each_thing_once(cluster: Lab, ns: str) -> None:
    maps = path("configmaps", ns)

    async def work() -> None:
        async with reached(cluster.kubeconfig, ns) as api:
            names = [f"m{number:02}" for number in range(23)]
            await asyncio.gather(*(api.create(maps, settings(name, a="b")) for name in names))
            found = [
                item["metadata"]["name"] async for item in api.items(maps, labels="test", page=5)
            ]
            assert found == names
            only = [item async for item in api.items(maps, fields="metadata.name=m07")]
            assert [item["data"] for item in only] == [{"a": "b"}]
            lean = [item async for item in api.items(maps, labels="test", metadata_only=True)]
            assert [item["metadata"]["name"] for item in lean] == names
            assert not any("data" in item for item in lean)
            assert {item["kind"] for item in lean} == {"PartialObjectMetadata"}
            for lean_too in (False, True):
                none = api.items(maps, labels="no=such", metadata_only=lean_too)
                assert [item async for item in none] == []

    within(work())


def test_what_admission_is_against_is_refused_and_nothing_is_made(cluster: Lab, ns: str) -> None:
    quota = {"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "1"}}}

    async def work() -> None:
        async with reached(cluster.kubeconfig, ns) as api:
            await api.create(path("resourcequotas", ns), quota)
            here = path("resourcequotas", ns, "q")
            while "count/configmaps" not in (await api.get(here)).get("status", {}).get("hard", {}):
                await asyncio.sleep(0.1)
            for number in range(50):  # until the quota has counted what there is
                try:
                    await api.create(path("configmaps", ns), settings(f"m{number}"))
                except RefusedError as error:
                    refused = error
                    break
            assert isinstance(refused, SpawnRefusedError)
            assert "exceeded quota: q" in refused.message
            assert refused.status == 403
            with pytest.raises(RefusedError) as invalid:
                await api.create(path("jobs", ns), {"metadata": {"name": "A B"}, "spec": {}})
            assert invalid.value.status == 422
            assert any("metadata.name" in cause for cause in invalid.value.causes)
            with pytest.raises(AbsentError, match="namespaces"):
                await api.create(path("configmaps", "nowhere"), settings("a"))

    within(work())


def test_who_may_little_is_told_what_they_may_not(cluster: Lab, ns: str) -> None:
    rules = [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["list"]}]
    user: User = cluster.user(ns, rules)

    async def work() -> None:
        async with reached(user.kubeconfig, ns) as api:
            assert await api.may("list", "jobs", group="batch")
            assert not await api.may("create", "jobs", group="batch")
            assert not await api.may("create", "pods", "exec")
            assert not await api.may("list", "nodes", namespace="")
            assert [item async for item in api.items(path("jobs", ns))] == []
            for refused in (
                api.create(path("jobs", ns), {"metadata": {"name": "j"}}),
                api.get(path("secrets", ns, "s")),
                api.exec("p", ["true"]),
            ):
                with pytest.raises(DeniedError) as denied:
                    await refused
                assert user.name in denied.value.message
                assert "outpost doctor k1" in denied.value.hint
                assert isinstance(denied.value, UnreachableError)
                assert not denied.value.sent

    within(work())


def test_what_there_is_is_told(cluster: Lab, ns: str) -> None:
    async def work() -> None:
        async with reached(cluster.kubeconfig, ns) as api:
            assert (await api.version()).startswith("v1.")
            assert await api.serves("batch") == "batch/v1"
            assert await api.serves("nothing.example.com") == ""
            assert api.heard > 0

    within(work())


# --- programs in a pod ------------------------------------------------------------------------


def test_a_program_in_a_pod_has_its_streams_and_its_exit_status(
    cluster: Lab, ns: str, image: str
) -> None:
    async def work() -> None:
        async with reached(cluster.kubeconfig, ns) as api:
            await running(api, image, "sleep", "600")
            said = await whole(api, "sh", "-c", "echo out; echo err >&2; exit 7")
            assert said == (b"out\n", b"err\n", 7)
            assert await whole(api, "sh", "-c", "kill -9 $$") == (b"", b"", 137)
            with pytest.raises(ApiError, match="executable file not found"):
                await whole(api, "no-such-program")
            with pytest.raises(AbsentError, match='pods "other" not found'):
                await api.exec("other", ["true"])
            with pytest.raises(ApiError, match="container other"):
                await api.exec("p", ["true"], container="other")
            process = await api.exec("p", ["sh", "-c", "read a; stty size; read b"], tty=True)
            process.resize(101, 31)
            await asyncio.sleep(0.3)
            process.stdin.write(b"\n")
            out = b""
            while b"31 101" not in out:
                out += await process.stdout.read(100)
            process.stdin.write(b"\n")
            assert await process.ended() == 0
            await process.close()
            with pytest.raises(ConnectionResetError):
                process.stdin.write(b"late")

    within(work())


def test_64_mebibytes_go_both_ways_at_once_and_come_back_exact(
    cluster: Lab, ns: str, image: str
) -> None:
    blob = os.urandom(1 << 20) * 64

    async def work() -> None:
        async with reached(cluster.kubeconfig, ns) as api:
            await running(api, image, "sleep", "600")
            process = await api.exec("p", ["cat"])

            async def feed() -> None:
                for start in range(0, len(blob), 300_000):
                    process.stdin.write(blob[start : start + 300_000])
                    await process.stdin.drain()
                process.stdin.close()

            feeding = asyncio.create_task(feed())
            seen, size = hashlib.sha256(), 0
            while data := await process.stdout.read(1 << 20):
                seen.update(data)
                size += len(data)
            await feeding
            assert await process.ended() == 0
            await process.close()
            assert size == len(blob)
            assert seen.digest() == hashlib.sha256(blob).digest()

    within(work())


def test_a_program_that_nobody_reads_is_held_up_and_nothing_piles_up(
    cluster: Lab, ns: str, image: str
) -> None:
    async def work() -> None:
        async with reached(cluster.kubeconfig, ns) as api:
            await running(api, image, "sleep", "600")
            process = await api.exec("p", ["sh", "-c", "head -c 50000000 /dev/zero; echo done >&2"])
            while process.stdout.room.is_set():
                await asyncio.sleep(0.05)
            await asyncio.sleep(1.0)
            assert b"done" not in process.stderr
            size = 0
            while data := await process.stdout.read(1 << 20):
                size += len(data)
            assert size == 50_000_000
            assert await process.ended() == 0
            await process.close()

    within(work())


def test_the_far_program_sees_the_end_of_its_input_when_we_close(
    cluster: Lab, ns: str, image: str
) -> None:
    script = "cat > /tmp/got; echo ended > /tmp/state"

    async def work() -> None:
        async with reached(cluster.kubeconfig, ns) as api:
            await running(api, image, "sleep", "600")
            process = await api.exec("p", ["sh", "-c", script])
            process.stdin.write(b"hello")
            await process.stdin.drain()
            await asyncio.sleep(0.3)
            await process.close()  # without a word
            state = b""
            while state != b"ended\n":
                with contextlib.suppress(ApiError):
                    state, *_ = await whole(api, "cat", "/tmp/state")
            assert (await whole(api, "cat", "/tmp/got"))[0] == b"hello"

    within(work())


# --- logs -------------------------------------------------------------------------------------


def test_a_log_is_followed_to_its_last_byte(cluster: Lab, ns: str, image: str) -> None:
    script = "for i in 1 2 3; do echo line $i; sleep 0.3; done; printf 'no\\377newline'"

    async def work() -> None:
        async with reached(cluster.kubeconfig, ns) as api:
            with pytest.raises(AbsentError):
                await anext(api.log("p"))
            await running(api, image, "sh", "-c", script)
            begun = time.monotonic()
            log = b"".join([piece async for piece in api.log("p", follow=True)])
            assert log == b"line 1\nline 2\nline 3\nno\xffnewline"
            assert time.monotonic() - begun < DEADLINE / 2
            assert b"".join([piece async for piece in api.log("p")]) == log
            assert b"".join([piece async for piece in api.log("p", limit=9)]) == log[:9]
            last = b"".join([piece async for piece in api.log("p", tail=1, timestamps=True)])
            moment, _, rest = last.partition(b" ")
            assert rest == b"no\xffnewline"
            since = b"".join([piece async for piece in api.log("p", since=moment.decode())])
            assert since.endswith(b"no\xffnewline")

    within(work())
