"""All things of a kind, kept up to date through what a server does to its watchers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apikit import Answer, Api, Drop, Request, Step, Stream, failure, kubeconfig, looped, reached
from peers import containers
from peers.kubelab import Lab, Options, own_lab

from outpost_k8s.api import config, process, streams
from outpost_k8s.api.client import Cluster
from outpost_k8s.api.errors import ApiError, UnavailableError
from outpost_k8s.api.paths import path
from outpost_k8s.api.watch import Change, Reflector

MAPS = path("configmaps", "ns")


def thing(name: str, version: int, uid: str = "u") -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": uid, "resourceVersion": str(version)}}


def event(kind: str, name: str, version: int) -> dict[str, Any]:
    return {"type": kind, "object": thing(name, version)}


class Script:
    """A server with lists and watches, each answered once in its order; then watches are silent."""

    def __init__(self, lists: list[Step], watches: list[Step]) -> None:
        self.lists, self.watches = lists, watches
        self.versions: list[str] = []

    def __call__(self, request: Request) -> Step:
        if request.path == "/version":
            return Answer(body={})
        if "watch" not in request.query:
            return self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
        self.versions.append(request.query["resourceVersion"])
        assert request.query["allowWatchBookmarks"] == "true"
        return self.watches.pop(0) if self.watches else Stream(end="stall")


def listed(version: int, *things: dict[str, Any]) -> Answer:
    return Answer(body={"metadata": {"resourceVersion": str(version)}, "items": list(things)})


async def told(seen: Reflector, count: int) -> list[Change]:
    changes = seen.changes()
    return [await anext(changes) for _ in range(count)]


# --- by a script ------------------------------------------------------------------------------


@looped
async def test_a_list_and_its_changes_are_told_and_a_watch_that_ends_goes_on_where_it_was(
    tmp_path: Path,
) -> None:
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}}
    halves = (b'{"type":"ADDED","object":{"meta', b'data":{"name":"c","resourceVersion":"10"}}}\n')
    script = Script(
        [listed(5, thing("a", 1), thing("b", 2))],
        [Stream(event("MODIFIED", "a", 6), event("DELETED", "b", 7), bookmark), Stream(*halves)],
    )
    async with Api(script) as api, reached(kubeconfig(tmp_path, api.url)) as cluster:
        async with Reflector(cluster, MAPS, "a=b") as seen:
            changes = seen.changes()
            found: dict[str, Any] = {}
            while "c" not in found or "b" in found or _version(found["a"]) != "6":
                change = await anext(changes)
                assert change.old == found.get(change.name)
                found[change.name] = change.new
                if change.new is None:
                    del found[change.name]
            assert found == seen.objects
            assert seen.fresh > time.monotonic() - 10
            while len(script.versions) < 3:
                await asyncio.sleep(0.02)
        assert script.versions == ["5", "9", "10"]
        assert {one.query.get("labelSelector") for one in api.requests} == {"a=b"}


def _version(thing: dict[str, Any]) -> str:
    return str(thing["metadata"]["resourceVersion"])


GONE = {"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "old"}

ENDS: dict[str, Step] = {
    "410 as an event": Stream({"type": "ERROR", "object": GONE}),
    "410 as an answer": failure(410, "Expired"),
    "another error as an event": Stream({"type": "ERROR", "object": {"code": 500}}),
    "an error": failure(500, "InternalError"),
    "a broken line": Stream(event("MODIFIED", "a", 6), end="break"),
    "no answer": Drop(),
    "what is no event": Stream(b"{}\n"),
    "what is no JSON": Stream(b"<html>\n"),
    "too deep": Stream(b"[" * 100_000 + b"\n"),
    "a line without an end": Stream(b"x" * (9 << 20)),
}


@pytest.mark.parametrize("name", ENDS)
@looped
async def test_whatever_ends_a_watch_there_is_a_list_again_and_what_was_missed_is_told(
    tmp_path: Path, name: str
) -> None:
    lists: list[Step] = [listed(5, thing("a", 1), thing("b", 2)), listed(9, thing("a", 8))]
    script = Script(lists, [ENDS[name]])
    async with (
        Api(script) as api,
        reached(kubeconfig(tmp_path, api.url)) as cluster,
        Reflector(cluster, MAPS) as seen,
    ):
        await seen.listed.wait()
        assert {change.name for change in await told(seen, 2)} == {"a", "b"}
        while set(seen.objects) != {"a"} or _version(seen.objects["a"]) != "8":
            await asyncio.sleep(0.02)
        # what changed twice meanwhile is told once, as it is
        names = {change.name: change.new for change in await told(seen, 2)}
        assert names == {"a": thing("a", 8), "b": None}
        while script.versions[-1] != "9":
            await asyncio.sleep(0.02)
        assert seen.error is None


@looped
async def test_a_server_that_wants_no_watchers_is_not_asked_without_end(tmp_path: Path) -> None:
    script = Script([listed(5)], [Stream() for _ in range(200)])
    async with Api(script) as api, reached(kubeconfig(tmp_path, api.url)) as cluster:
        async with Reflector(cluster, MAPS):
            await asyncio.sleep(2)
        assert 2 <= len(script.versions) <= 8


@looped
async def test_a_watch_that_is_silent_for_good_is_begun_anew_and_a_dead_server_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "QUIET", 0.2)
    monkeypatch.setattr(streams, "_WORD", 0.3)
    script = Script([listed(5)], [])
    async with (
        Api(script) as api,
        reached(kubeconfig(tmp_path, api.url)) as cluster,
        Reflector(cluster, MAPS, stale=1.2) as seen,
    ):
        while len(script.versions) < 3:
            await asyncio.sleep(0.02)
        assert seen.error is None
        api._decide = lambda request: Stream(end="stall") if request.query else Drop()
        while seen.error is None:
            await asyncio.sleep(0.02)


# --- a real one -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mine() -> Iterator[Lab]:
    with own_lab(Options()) as lab:
        yield lab


@pytest.fixture
def ns(mine: Lab) -> Iterator[str]:
    with mine.namespace() as name:
        yield name


def settings(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": {}}


async def _until(seen: Reflector, *names: str) -> None:
    async def look() -> None:
        while not set(names) <= set(seen.objects):
            await asyncio.sleep(0.05)

    await asyncio.wait_for(look(), 50)


@pytest.mark.kube
@pytest.mark.parametrize("fault", ["kill", "stop", "compact"])
def test_nothing_is_missed_when_the_api_server_is_away(
    mine: Lab, ns: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "QUIET", 1.0)
    monkeypatch.setattr(streams, "_WORD", 1.0)

    def away() -> None:
        if fault == "kill":
            mine.restart("apiserver")
        elif fault == "compact":
            mine.compact()
        else:
            mine.stop("apiserver")
            time.sleep(4)
            mine.cont("apiserver")

    @looped
    async def work() -> None:
        maps = path("configmaps", ns)
        api = Cluster(config.find(kubeconfig=mine.kubeconfig, namespace=ns))
        async with Reflector(api, maps) as seen:
            await seen.listed.wait()
            await api.create(maps, settings("before"))
            await _until(seen, "before")
            heard = seen.fresh
            await asyncio.to_thread(away)
            await api.create(maps, settings("after"))
            await api.delete(path("configmaps", ns, "before"))
            await _until(seen, "after")
            while "before" in seen.objects:
                await asyncio.sleep(0.05)
            assert seen.fresh > heard
            assert seen.error is None
        await api.aclose()

    work()


@pytest.mark.kube
@pytest.mark.parametrize("fault", ["kill", "stop"])
def test_a_program_in_a_pod_is_told_to_be_lost_when_the_api_server_is(
    mine: Lab, ns: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "PING", 0.6)
    monkeypatch.setattr(process, "DEAD", 3.0)
    image = mine.load_image(containers.image().tag, containers.base())
    container = {"name": "worker", "image": image, "imagePullPolicy": "Never",
                 "command": ["sleep", "600"]}  # fmt: skip
    pods = f"/api/v1/namespaces/{ns}/pods"
    spec = {"terminationGracePeriodSeconds": 1, "containers": [container]}
    mine.admin.post(pods, {"metadata": {"name": "p"}, "spec": spec})
    mine.admin.until(f"{pods}/p", lambda pod: pod["status"]["phase"] == "Running")

    @looped
    async def work() -> None:
        api = Cluster(config.find(kubeconfig=mine.kubeconfig, namespace=ns))
        running = await api.exec("p", ["cat"])
        running.stdin.write(b"hello")
        assert await running.stdout.read(5) == b"hello"
        await asyncio.sleep(4)  # silent for longer than `DEAD`: it says that it lives
        running.stdin.write(b"again")
        assert await running.stdout.read(5) == b"again"
        begun = time.monotonic()
        if fault == "kill":
            await asyncio.to_thread(mine.kill, "apiserver")
        else:
            await asyncio.to_thread(mine.stop, "apiserver")
        with pytest.raises(UnavailableError, match=r"connection to .* broke"):
            await running.stdout.read(5)
        with pytest.raises(UnavailableError):
            await running.ended()
        assert time.monotonic() - begun < 15
        with pytest.raises(ConnectionResetError):
            running.stdin.write(b"x")
        if fault == "kill":
            await asyncio.to_thread(mine.start, "apiserver")
        else:
            await asyncio.to_thread(mine.cont, "apiserver")
        await running.close()
        for _ in range(100):  # until the server reaches its node again
            try:
                running = await api.exec("p", ["true"])
                break
            except ApiError:
                await asyncio.sleep(0.2)
        assert await running.ended() == 0
        await running.close()
        await api.aclose()

    work()
