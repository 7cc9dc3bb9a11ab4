"""An API server that is overloaded, breaks off, stands still, or is none at all."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path

import pytest
from apikit import (
    Answer,
    Api,
    Drop,
    Request,
    Stall,
    Step,
    Stream,
    certificate,
    failure,
    kubeconfig,
    looped,
    reached,
)

from outpost_core.errors import UnreachableError
from outpost_k8s.api import asking, streams, transport
from outpost_k8s.api.errors import (
    AbsentError,
    ApiError,
    ExistsError,
    RefusedError,
    UnavailableError,
)
from outpost_k8s.api.paths import path

MAPS, ONE = path("configmaps", "ns"), path("configmaps", "ns", "a")
THING = {"metadata": {"name": "a", "uid": "1"}}


# --- asked again ------------------------------------------------------------------------------


@looped
async def test_a_server_that_is_busy_is_asked_again_when_it_says(tmp_path: Path) -> None:
    busy: list[Step] = [
        failure(429, "TooManyRequests", after=1), failure(503, "ServiceUnavailable"),
        failure(500, "InternalError"), Answer(body=THING),
    ]  # fmt: skip
    async with Api(busy) as api, reached(kubeconfig(tmp_path, api.url)) as cluster:
        begun = time.monotonic()
        assert await cluster.create(MAPS, THING) == THING
        assert time.monotonic() - begun >= 1.0
    assert [one.method for one in api.requests] == ["POST"] * 4
    assert {tuple(one.body["metadata"].items()) for one in api.requests} == {
        (("name", "a"), ("uid", "1"))
    }


@looped
async def test_one_that_stays_busy_is_given_up_and_the_request_certainly_was_not_worked_on(
    tmp_path: Path,
) -> None:
    busy: list[Step] = [failure(429, "TooManyRequests", "slow down")]
    async with Api(busy) as api, reached(kubeconfig(tmp_path, api.url), patience=1.0) as cluster:
        begun = time.monotonic()
        with pytest.raises(UnavailableError, match="slow down") as error:
            await cluster.create(MAPS, THING)
        assert 0.9 < time.monotonic() - begun < 10
    assert not error.value.sent
    assert error.value.status == 429
    assert 2 < len(api.requests) < 20


@looped
async def test_a_wait_that_is_longer_than_our_patience_is_not_waited_for(tmp_path: Path) -> None:
    busy: list[Step] = [failure(503, "ServiceUnavailable", after=3600)]
    async with Api(busy) as api, reached(kubeconfig(tmp_path, api.url)) as cluster:
        begun = time.monotonic()
        with pytest.raises(UnavailableError):
            await cluster.get(ONE)
        assert time.monotonic() - begun < 5
    assert len(api.requests) == 1


@looped
async def test_a_create_whose_answer_was_lost_is_asked_again_and_says_that_the_name_is_taken(
    tmp_path: Path,
) -> None:
    lost: list[Step] = [Drop(), failure(409, "AlreadyExists", 'configmaps "a" already exists')]
    async with Api(lost) as api, reached(kubeconfig(tmp_path, api.url)) as cluster:
        with pytest.raises(ExistsError):
            await cluster.create(MAPS, THING)
    assert len(api.requests) == 2


@looped
async def test_what_is_not_harmless_twice_is_asked_once(tmp_path: Path) -> None:
    async with Api([Drop()]) as api, reached(kubeconfig(tmp_path, api.url)) as cluster:
        for once in (
            cluster.patch(ONE, [{"op": "add", "path": "/data/a", "value": "b"}], kind="json"),
            cluster.delete(ONE),
        ):
            with pytest.raises(UnavailableError, match="broke the connection") as error:
                await once
            assert error.value.sent
    assert [one.method for one in api.requests] == ["PATCH", "DELETE"]


@looped
async def test_a_delete_whose_answer_was_lost_was_ours_when_nothing_is_left(
    tmp_path: Path,
) -> None:
    lost: list[Step] = [Drop(), failure(404, "NotFound")]
    async with Api(lost) as api, reached(kubeconfig(tmp_path, api.url)) as cluster:
        assert await cluster.delete(ONE, uid="1")
        assert not await cluster.delete(ONE, uid="1")
    assert [one.body["preconditions"] for one in api.requests] == [{"uid": "1"}] * 3


# --- no answer --------------------------------------------------------------------------------


@looped
async def test_a_server_that_takes_no_connection_is_told_soon_and_nothing_was_sent(
    tmp_path: Path,
) -> None:
    async with Api([Answer()]) as api:
        pass
    async with reached(kubeconfig(tmp_path, api.url)) as cluster:
        begun = time.monotonic()
        with pytest.raises(UnavailableError, match="takes no connection") as error:
            await cluster.create(MAPS, THING)
        assert time.monotonic() - begun < 8
    assert not error.value.sent
    assert api.url in error.value.message
    assert "k1 (cluster test)" in error.value.message
    assert error.value.hint


@looped
async def test_a_server_that_comes_back_meanwhile_is_found(tmp_path: Path) -> None:
    async with Api([Answer()]) as gone:
        pass
    async with reached(kubeconfig(tmp_path, gone.url)) as cluster:
        asked = asyncio.create_task(cluster.get(ONE))
        await asyncio.sleep(0.3)
        api = Api([Answer(body=THING)])
        api._server = await asyncio.start_server(api._serve, "127.0.0.1", gone.port)
        assert await asked == THING
        await api.__aexit__()


@looped
async def test_a_server_that_stands_still_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "TOTAL", 0.5)
    async with Api([Stall()]) as api, reached(kubeconfig(tmp_path, api.url), patience=0) as cluster:
        with pytest.raises(UnavailableError, match="did not answer within") as error:
            await cluster.get(ONE)
    assert error.value.sent


@looped
async def test_an_answer_that_breaks_off_is_asked_for_again(tmp_path: Path) -> None:
    steps: list[Step] = [Stream(b'{"metadata"', end="break"), Answer(body=THING)]
    async with Api(steps) as api, reached(kubeconfig(tmp_path, api.url)) as cluster:
        assert await cluster.get(ONE) == THING


# --- what is no API server --------------------------------------------------------------------


@looped
async def test_answers_that_no_api_server_gives_are_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "LONGEST", 1 << 20)
    odd = {
        "no JSON object": Answer(body=b"<html>log in \x1b[31mhere</html>"),
        "[1": Answer(body=[1, 2]),
        "no JSON": Answer(body=b"[" * 100_000),
        "more than 1 MiB": Answer(body=b" " * (2 << 20)),
        "sends us elsewhere": Answer(302, headers={"Location": "/elsewhere"}),
    }

    def decide(request: Request) -> Step:
        return odd.get(request.query.get("n", ""), Answer(body=b"{}"))

    async with Api(decide) as api, reached(kubeconfig(tmp_path, api.url)) as cluster:
        for said, answer in odd.items():
            api._decide = lambda request, answer=answer: (
                Answer(body={}) if request.path == "/elsewhere" else answer
            )
            with pytest.raises(ApiError) as error:
                await cluster.get(ONE)
            assert said in error.value.message
            assert "\x1b" not in str(error.value)
            assert len(str(error.value)) < 1000


@looped
async def test_a_hostile_message_is_cut_and_its_control_characters_are_spelled_out(
    tmp_path: Path,
) -> None:
    words = 'admission webhook "evil" denied the request: \x1b]0;owned\x07\r\n' + "x" * 50_000
    refused = failure(403, "Forbidden", words, details={"causes": [{"message": "\x1b[2J"}, 7]})
    async with Api([refused]) as api, reached(kubeconfig(tmp_path, api.url)) as cluster:
        with pytest.raises(RefusedError) as error:
            await cluster.create(MAPS, THING)
    shown = str(error.value)
    assert "admission webhook" in shown
    assert len(shown) < 1500
    assert not any(char in shown + "".join(error.value.causes) for char in "\x1b\x07\r")


@looped
async def test_a_list_that_outlives_its_moment_goes_on_and_tells_nothing_twice(
    tmp_path: Path,
) -> None:
    def item(number: int) -> dict[str, object]:
        return {"metadata": {"name": f"m{number}", "uid": str(number)}}

    def decide(request: Request) -> Step:
        after = request.query.get("continue", "")
        if not after:
            return Answer(body={"metadata": {"continue": "old"}, "items": [item(0), item(1)]})
        if after == "old":
            return failure(410, "Expired", metadata={"continue": "new"})
        return Answer(body={"metadata": {}, "items": [item(1), item(2)]})

    async with Api(decide) as api, reached(kubeconfig(tmp_path, api.url)) as cluster:
        assert [one["metadata"]["name"] async for one in cluster.items(MAPS)] == ["m0", "m1", "m2"]


@looped
async def test_a_list_without_an_end_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from outpost_k8s.api import paging

    monkeypatch.setattr(paging, "_MOST_PAGES", 5)
    endless = Answer(body={"metadata": {"continue": "more"}, "items": []})
    async with Api([endless]) as api, reached(kubeconfig(tmp_path, api.url)) as cluster:
        with pytest.raises(UnavailableError, match="more than 5 pages"):
            assert [one async for one in cluster.items(MAPS)] == []


# --- streams ----------------------------------------------------------------------------------


@looped
async def test_a_log_is_followed_through_silence_and_a_dead_server_is_told_from_a_silent_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "QUIET", 0.2)
    monkeypatch.setattr(streams, "_WORD", 0.5)
    alive = True

    def decide(request: Request) -> Step:
        if request.path == "/version":
            return Answer(body={}) if alive else Stall()
        return Stream(b"one\n", end="stall")

    async with Api(decide) as api, reached(kubeconfig(tmp_path, api.url)) as cluster:
        log = cluster.log("p", follow=True)
        assert await anext(log) == b"one\n"
        more = asyncio.create_task(anext(log))  # type: ignore[arg-type]
        while len(api.requests) < 4:
            await asyncio.sleep(0.02)
        assert not more.done()  # asked three times whether it lives
        alive = False
        with pytest.raises(UnavailableError, match="has stopped to answer"):
            await more


@looped
async def test_a_log_that_breaks_off_says_so_and_one_that_ends_does_not(tmp_path: Path) -> None:
    steps: list[Step] = [Stream(b"one\n"), Stream(b"one\n", end="break")]
    async with Api(steps) as api, reached(kubeconfig(tmp_path, api.url)) as cluster:
        assert [piece async for piece in cluster.log("p", follow=True)] == [b"one\n"]
        log = cluster.log("p", follow=True)
        assert await anext(log) == b"one\n"
        with pytest.raises(UnavailableError, match="broke the connection"):
            await anext(log)


# --- TLS and proxies --------------------------------------------------------------------------


@looped
async def test_a_server_is_known_by_its_certificate(tmp_path: Path) -> None:
    own, other = certificate(tmp_path, "own"), certificate(tmp_path, "other")
    async with Api([Answer(body=THING)], own.server()) as api:
        for cluster, fits in (
            ({"certificate-authority-data": own.data}, True),
            ({"certificate-authority": str(own.certificate)}, True),
            ({"certificate-authority-data": other.data}, False),
            ({}, False),
            ({"certificate-authority-data": own.data, "tls-server-name": "elsewhere"}, False),
            ({"insecure-skip-tls-verify": True}, True),
        ):
            async with reached(kubeconfig(tmp_path, api.url, cluster=cluster)) as reaching:
                assert reaching.place.insecure is ("insecure-skip-tls-verify" in cluster)
                if fits:
                    assert await reaching.get(ONE) == THING
                    continue
                with pytest.raises(UnreachableError, match="certificate") as error:
                    await reaching.get(ONE)
                assert not error.value.sent


@looped
async def test_a_client_shows_its_certificate_and_no_key_stays_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    own, client = certificate(tmp_path, "own"), certificate(tmp_path, "client")
    key = certificate(tmp_path, "k").key
    key.write_bytes(client.key.read_bytes())
    import base64

    user = {"client-certificate-data": client.data,
            "client-key-data": base64.b64encode(client.key.read_bytes()).decode()}  # fmt: skip
    place = {"certificate-authority-data": own.data}
    async with Api([Answer(body=THING)], own.server(client)) as api:
        async with reached(kubeconfig(tmp_path, api.url, cluster=place, user=user)) as cluster:
            assert await cluster.get(ONE) == THING
            assert list(temporary.iterdir()) == []
        path = kubeconfig(tmp_path, api.url, cluster=place)
        async with reached(path, patience=0) as cluster:
            with pytest.raises(UnavailableError):
                await cluster.get(ONE)


@looped
async def test_a_proxy_is_heeded_unless_that_is_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Api([Answer()]) as gone:
        pass
    monkeypatch.setenv("HTTP_PROXY", gone.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with Api([Answer(body=THING)]) as api:
        path = kubeconfig(tmp_path, api.url)
        async with reached(path, use_proxy=False) as cluster:
            assert await cluster.get(ONE) == THING
        async with reached(path, patience=0.1) as cluster:
            with pytest.raises(UnavailableError, match="through the proxy") as error:
                await cluster.get(ONE)
            assert "use_proxy" in error.value.hint


@looped
async def test_a_thing_that_is_not_there_is_no_fault_of_the_server(tmp_path: Path) -> None:
    missing = failure(404, "NotFound", 'configmaps "a" not found')
    async with Api([missing]) as api, reached(kubeconfig(tmp_path, api.url)) as cluster:
        with pytest.raises(AbsentError):
            await cluster.get(ONE)
    assert len(api.requests) == 1


@looped
async def test_the_environment_is_read_when_one_connects_and_no_login_is_taken_from_netrc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password s3cret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    reads = []

    def read() -> dict[str, str]:
        reads.append("environment")
        return {}

    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(transport, "getproxies", read)
    async with Api([Answer(body=THING)] * 3) as api:
        async with reached(kubeconfig(tmp_path, api.url)) as cluster:
            for _ in range(3):
                assert await cluster.get(ONE) == THING
        assert not any("authorization" in request.headers for request in api.requests)
    assert len(reads) == 1


@looped
async def test_who_looks_after_garbage_by_himself_keeps_that(tmp_path: Path) -> None:
    long = {"metadata": {}, "items": [{"metadata": {"name": f"n{n:05}"}} for n in range(5000)]}
    async with (
        Api([Answer(body=long)] * 2) as api,
        reached(kubeconfig(tmp_path, api.url)) as cluster,
    ):
        assert len([one async for one in cluster.items(MAPS)]) == 5000
        assert gc.isenabled()
        gc.disable()
        try:
            assert len([one async for one in cluster.items(MAPS)]) == 5000
            assert not gc.isenabled()
        finally:
            gc.enable()
