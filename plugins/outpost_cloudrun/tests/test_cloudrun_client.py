"""What a client of a container shows to whom, and what it makes of refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from h2peer import Call, h2peer, looped

from outpost_cloudrun.connection.client import Affinity, front_error, open_client
from outpost_cloudrun.connection.identity import Identity
from outpost_cloudrun.options import Auth, CloudRunOptions
from outpost_cloudrun.testing.metadata import TokenServer, token_server
from outpost_core.errors import UnreachableError, UsageError

OPTIONS = CloudRunOptions(auth=Auth.METADATA, url="https://worker.example")


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[TokenServer]:
    with token_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


class Front:
    """Takes a token once it is right, as Google's front does."""

    def __init__(self, google: TokenServer) -> None:
        self.google = google
        self.refuse = 0
        self.bodies: list[bytes] = []
        self.shown: list[str] = []

    async def __call__(self, call: Call) -> None:
        await call.complete.wait()
        self.bodies.append(bytes(call.body))
        token = call.headers.get("authorization", "").removeprefix("Bearer ")
        self.shown.append(token)
        audience = f"http://127.0.0.1:{call.client.peer.port}"
        if self.refuse or not self.google.check_id(token, audience):
            self.refuse = max(0, self.refuse - 1)
            call.answer(401, ("www-authenticate", 'Bearer error="invalid_token"'), end=True)
        else:
            call.answer(200)
            await call.send(b"fine")
            call.end()


@looped
async def test_a_refused_token_is_renewed_once_and_the_request_repeated(google) -> None:
    front = Front(google)
    front.refuse = 1
    async with h2peer(front) as peer, open_client(OPTIONS, peer.url) as client:
        google.life = 3000
        answer = await client.post("/work", content=b"order")
        assert (answer.status_code, answer.content) == (200, b"fine")
        assert front.bodies == [b"order", b"order"]
        assert google.asked["/computeMetadata/v1/instance/service-accounts/default/identity"] == 2
        front.refuse = 2
        assert (await client.get("/healthz")).status_code == 401
        assert len(front.shown) == 4
        assert not peer.faults


@looped
async def test_a_token_that_ended_while_a_stream_was_open_is_renewed_for_the_next_request(
    google,
) -> None:
    front = Front(google)
    google.life = 300
    who = Identity(OPTIONS)
    async with h2peer(front) as peer, open_client(OPTIONS, peer.url, identity=who) as client:
        assert (await client.get("/")).status_code == 200
        google.ahead += 600  # by the front's clock it is over; ours says that it lives
        assert (await client.get("/")).status_code == 200
        assert len(front.shown) == 3
        assert front.shown[0] == front.shown[1] != front.shown[2]


@looped
async def test_many_refused_at_once_renew_once(google) -> None:
    front = Front(google)
    async with h2peer(front) as peer, open_client(OPTIONS, peer.url) as client:
        await client.get("/")
        google.ahead += 7200
        google.delay = 0.2
        answers = await asyncio.gather(*(client.get("/") for _ in range(50)))
        assert {answer.status_code for answer in answers} == {200}
        assert google.asked["/computeMetadata/v1/instance/service-accounts/default/identity"] == 2


@looped
async def test_a_body_that_is_gone_is_not_repeated(google) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"once"

    front = Front(google)
    front.refuse = 1
    async with h2peer(front) as peer, open_client(OPTIONS, peer.url) as client:
        assert (await client.post("/", content=pieces())).status_code == 401
        assert front.bodies == [b"once"]


@looped
async def test_the_token_is_shown_to_nobody_else(google) -> None:
    async def moved(call: Call) -> None:
        call.answer(307, ("location", f"{stranger.url}/work"), ("set-cookie", "a=b"), end=True)

    async def strange(call: Call) -> None:
        call.answer(200, end=True)

    async with (
        h2peer(strange) as stranger,
        h2peer(moved) as peer,
        open_client(OPTIONS, peer.url) as client,
    ):
        answer = await client.post("/work", content=b"secret order")
        assert answer.status_code == 307
        with pytest.raises(UsageError, match=r"not sent to 127\.0\.0\.1"):
            await client.post("/work", content=b"secret order", follow_redirects=True)
        with pytest.raises(UsageError):
            await client.get(stranger.url)
        assert not stranger.calls
        assert "cookie" not in peer.calls[-1].headers


def test_a_token_is_not_sent_in_the_clear() -> None:
    with pytest.raises(UsageError, match="in the clear") as refused:
        open_client(OPTIONS, "http://worker.example")
    assert "https" in refused.value.hint
    open_client(
        CloudRunOptions(auth=Auth.NONE, url="https://worker.example"), "http://worker.example"
    )
    for url in (
        "",
        "worker.run.app",
        "ftp://x",
        "https://",
        "https://a:b@c",
        "http://[::1",
        "\x1b",
    ):
        with pytest.raises(UsageError):
            open_client(OPTIONS, url)


@pytest.mark.parametrize(
    ("status", "said", "hint"),
    [
        (401, "did not take the token of ada@example.com", "audience"),
        (403, "ada@example.com may not call http://", "roles/run.invoker"),
        (404, "there is no service at http://", "ingress"),
    ],
)
@looped
async def test_what_the_front_refuses_is_told_with_the_mend(google, status, said, hint) -> None:
    async def handler(call: Call) -> None:
        if call.path == "/ours":
            call.answer(status, ("content-type", "application/json"))
            await call.send(b'{"error": {"kind": "not_found", "message": "no such worker"}}')
        else:
            call.answer(status, ("content-type", "text/html"))
            await call.send(b"<html>error</html>")
        call.end()

    async with h2peer(handler) as peer, open_client(OPTIONS, peer.url) as client:
        error = front_error(await client.get("/"), whose="ada@example.com", region="us-central1")
        assert isinstance(error, UnreachableError)
        assert said in error.message
        assert hint in error.hint
        assert not error.sent
        assert front_error(await client.get("/ours")) is None
    assert front_error(httpx.Response(503)) is None


@looped
async def test_each_worker_has_its_own_affinity() -> None:
    async def handler(call: Call) -> None:
        cookie = ("set-cookie", f"GAESA={call.path[1:]}; expires=Mon, 01-Jan-2035; path=/")
        call.answer(200, cookie, ("set-cookie", "bad=\x01"), ("set-cookie", "x"), end=True)

    options = CloudRunOptions(auth=Auth.NONE, url="https://worker.example")
    async with h2peer(handler) as peer, open_client(options, peer.url) as client:
        workers = {name: Affinity() for name in ("one", "two")}
        for _ in range(2):
            for name, affinity in workers.items():
                affinity.learn(await client.get(f"/{name}", headers=affinity.headers()))
        assert [call.headers.get("cookie") for call in peer.calls] == [
            None,
            None,
            "GAESA=one",
            "GAESA=two",
        ]
        assert Affinity(workers["one"].cookie).headers() == {"cookie": "GAESA=one"}
        huge = httpx.Response(200, headers={"set-cookie": "GAESA=" + "x" * 5000})
        workers["one"].learn(huge)
        assert workers["one"].cookie == "GAESA=one"
