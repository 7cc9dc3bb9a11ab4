"""What answers at the address of a service may be anybody: a container that its agent has taken
over, or a front that lies. The real keeper asks it, and stays well, truthful and on time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from h2peer import Call, H2Peer, frame
from keeperkit import Desk, order, runtime, until
from liarkit import Hostile, Part, begin, ended, honest, hostile, line, tell

from outpost_cloudrun import price
from outpost_cloudrun.connection.client import open_client
from outpost_cloudrun.keeper import far as far_module
from outpost_cloudrun.keeper.far import Far
from outpost_cloudrun.keeper.records import Records
from outpost_cloudrun.keeper.runs import Runs
from outpost_cloudrun.options import Auth, CloudRunOptions
from outpost_cloudrun.testing.metadata import token_server
from outpost_core.errors import ConflictError, OutpostError, SpawnRefusedError, UnreachableError
from outpost_core.names import checkpoint_ref
from outpost_core.types import State

Served = Callable[..., Any]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    """Gives a desk before a server that does what it is told."""

    @contextmanager
    def serve(work: Part, **options: Any) -> Iterator[tuple[Desk, Hostile]]:
        with runtime(monkeypatch) as run, hostile(work) as one:
            yield Desk(one.url, tmp_path, run, **options), one

    return serve


def memory_of(desk: Desk) -> int:
    """The most memory that the keeper has had, in KiB."""
    (pid,) = desk.keepers()
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def heal_after(asked: int, wrong: Part) -> Part:
    """Be wrong for so many requests, then honest."""

    async def work(one: Hostile, call: Call, body: dict[str, Any]) -> None:
        await (wrong if one.count("POST /work") <= asked else honest)(one, call, body)

    return work


# --- who is told what -----------------------------------------------------------------------------


def test_neither_token_nor_order_follows_a_redirect(served, monkeypatch) -> None:
    async def strange(_: Hostile, call: Call, body: dict[str, Any]) -> None:
        call.answer(200, end=True)

    with token_server() as google, hostile(strange) as stranger:
        for name, value in google.environment.items():
            monkeypatch.setenv(name, value)

        async def moved(one: Hostile, call: Call, body: dict[str, Any]) -> None:
            if one.count("POST /work") > 3:
                await honest(one, call, body)
            else:
                call.answer((301, 307, 308)[one.count("POST /work") - 1],
                            ("location", f"{stranger.url}/work"), end=True)  # fmt: skip

        with served(moved, auth="metadata") as (desk, one):
            audience = one.url
            desk.spawn(order("gt-1", "true"))
            assert desk.result("gt-1.1").state is State.DONE
            tokens = [said["authorization"].removeprefix("Bearer ") for said in one.headers]
            assert len(tokens) == 4
            assert all(google.check_id(token, audience) == google.email for token in tokens)
        assert not stranger.asked
        assert stranger.peer is not None
        assert not stranger.peer.clients


def test_a_refusal_without_an_end_takes_no_memory(served, monkeypatch) -> None:
    async def refuse(one: Hostile, call: Call, body: dict[str, Any]) -> None:
        if one.count("POST /work") > 4:
            await honest(one, call, body)
            return
        call.answer(401, ("content-type", "text/html"))
        while not call.reset.is_set():
            await call.send(b"x" * 65536)

    with token_server() as google:
        for name, value in google.environment.items():
            monkeypatch.setenv(name, value)
        with served(refuse, auth="metadata") as (desk, one):
            for _ in range(2):
                with pytest.raises(UnreachableError, match="did not take the token"):
                    desk.spawn(order("gt-1", "true"))
            desk.spawn(order("gt-1", "true"))
            assert desk.result("gt-1.1").state is State.DONE
            assert memory_of(desk) < 100_000
            assert one.count("POST /work") == 5


def test_a_refusal_says_its_text_harmlessly(served) -> None:
    said = {"kind": "refused", "message": "no\x1b[2J\u202e\nroom", "hint": "x\x1b]0;owned\x07"}

    async def refuse(_: Hostile, call: Call, body: dict[str, Any]) -> None:
        call.answer(422, ("content-type", "application/json"))
        await call.send(json.dumps({"error": said}).encode())
        call.end()

    with served(refuse) as (desk, _), pytest.raises(SpawnRefusedError) as refused:
        desk.spawn(order("gt-1", "true"))
    shown = str(refused.value)
    assert shown.startswith("no")
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "\u202e" not in shown


def test_cookies_are_sent_back_in_one_piece_or_not_at_all(served) -> None:
    async def work(one: Hostile, call: Call, body: dict[str, Any]) -> None:
        begin(
            call,
            ("set-cookie", "big=" + "y" * 5000),
            ("set-cookie", "GAESA=abc; Path=/; HttpOnly"),
            ("set-cookie", "no value"),
        )
        if one.count("POST /work") > 1:
            await call.send(line(body, **ended()))
        else:
            await call.send(line(body))
        call.end()

    with served(work) as (desk, one):
        desk.spawn(order("gt-1", "true"))
        desk.result("gt-1.1")
        assert [said.get("cookie") for said in one.headers] == [None, "GAESA=abc"]


# --- what is no protocol --------------------------------------------------------------------------


async def garbage(_: Hostile, call: Call, body: dict[str, Any]) -> None:
    await tell(call, b"\x1b[2J<html>\n")
    call.end()


async def empty(_: Hostile, call: Call, body: dict[str, Any]) -> None:
    begin(call)
    call.end()


async def half(_: Hostile, call: Call, body: dict[str, Any]) -> None:
    await tell(call, line(body)[:-20])
    call.end()


async def deep(_: Hostile, call: Call, body: dict[str, Any]) -> None:
    await tell(call, b"[" * 100_000 + b"\n")
    call.end()


async def digits(_: Hostile, call: Call, body: dict[str, Any]) -> None:
    await tell(call, b'{"offset": ' + b"9" * 100_000 + b"}\n")
    call.end()


async def no_digest(_: Hostile, call: Call, body: dict[str, Any]) -> None:
    await tell(call, line(body, digest=""))
    call.end()


async def odd_claim(_: Hostile, call: Call, body: dict[str, Any]) -> None:
    await tell(call, line(body, status="moving", claim="c" * 300))
    call.end()


async def hole(_: Hostile, call: Call, body: dict[str, Any]) -> None:
    await tell(call, line(body, logs="later", offset=5))
    call.end()


async def big_header(_: Hostile, call: Call, body: dict[str, Any]) -> None:
    begin(call, ("x-big", "x" * 70_000))


async def two_lengths(_: Hostile, call: Call, body: dict[str, Any]) -> None:
    call.answer(200, ("content-length", "3"))
    await call.send(line(body))


async def broken_frames(_: Hostile, call: Call, body: dict[str, Any]) -> None:
    call.client.raw(frame(1, 4, call.number, b"\xff" * 30))


@pytest.mark.parametrize(
    "wrong",
    [garbage, empty, half, deep, digits, no_digest, odd_claim, hole, big_header, two_lengths,
     broken_frames],
    ids=lambda part: part.__name__,
)  # fmt: skip
def test_what_is_no_protocol_is_asked_again_until_somebody_speaks_it(served, wrong) -> None:
    with served(heal_after(2, wrong)) as (desk, one):
        desk.spawn(order("gt-1", "true"))
        assert desk.result("gt-1.1").state is State.DONE
        assert desk.log("gt-1.1") == b"hello\n"
        assert one.count("POST /work") == 3


def test_an_endless_line_takes_no_memory(served) -> None:
    async def endless(_: Hostile, call: Call, body: dict[str, Any]) -> None:
        begin(call)
        for _n in range(1024):
            await call.send(b"x" * 65536)
            if call.reset.is_set():
                return

    with served(heal_after(3, endless)) as (desk, _):
        desk.spawn(order("gt-1", "true"))
        assert desk.result("gt-1.1").state is State.DONE
        assert memory_of(desk) < 100_000


def test_another_order_s_digest_is_a_conflict_and_nothing_is_believed(served) -> None:
    async def other(_: Hostile, call: Call, body: dict[str, Any]) -> None:
        await tell(call, line(body, digest="0" * 64, logs="not yours"))
        call.end()

    with served(other) as (desk, _):
        with pytest.raises(ConflictError):
            desk.spawn(order("gt-1", "true"))
        status = desk.status("gt-1.1")
        assert status is None or status.result is None


def test_an_answer_that_never_begins_holds_up_nobody_else(served) -> None:
    async def work(one: Hostile, call: Call, body: dict[str, Any]) -> None:
        if body["issue_id"] == "gt-silent":
            await call.reset.wait()
        else:
            await honest(one, call, body)

    with served(work) as (desk, _):

        async def both(outpost: Any) -> None:
            silent = asyncio.create_task(outpost.outpost_spawn(order=order("gt-silent", "true")))
            await asyncio.sleep(0.5)
            await asyncio.wait_for(outpost.outpost_spawn(order=order("gt-2", "true")), 20)
            assert not silent.done()
            silent.cancel()
            await asyncio.gather(silent, return_exceptions=True)

        desk.asked(both)
        assert desk.result("gt-2.1").state is State.DONE


# --- lies of a worker -----------------------------------------------------------------------------


def test_output_that_is_here_is_not_written_again(served) -> None:
    async def work(one: Hostile, call: Call, body: dict[str, Any]) -> None:
        if one.count("POST /work") == 1:
            await tell(call, line(body, logs="what was said\n", offset=0))
        else:
            assert body["offset"] == 14
            await tell(
                call,
                line(body, logs="WHAT WAS LIED\nand more\n", offset=0),
                line(body, seq=2, **ended(log_bytes=7)),
            )
        call.end()

    with served(work) as (desk, _):
        desk.spawn(order("gt-1", "true"))
        result = desk.result("gt-1.1")
        assert desk.log("gt-1.1") == b"what was said\nand more\n"
        assert result.log_bytes == 23


@pytest.mark.parametrize("offset", [-1, 1 << 62, True, 1.5, "0", None])
def test_an_offset_that_cannot_be_is_not_believed(served, offset) -> None:
    async def wrong(_: Hostile, call: Call, body: dict[str, Any]) -> None:
        await tell(call, line(body, logs="x", offset=offset))
        call.end()

    with served(heal_after(1, wrong)) as (desk, _):
        desk.spawn(order("gt-1", "true"))
        desk.result("gt-1.1")
        assert desk.log("gt-1.1") == b"hello\n"


@pytest.mark.parametrize(
    ("claimed", "what"),
    [
        ({"branch": "a\nb"}, "branch"),
        ({"commit": "zz"}, "commit"),
        ({"pr_url": "javascript:alert(1)"}, "pr_url"),
        ({"reason": "Because I Say So"}, "reason"),
        ({"log_bytes": -1}, "log_bytes"),
        ({"usage": {"input_tokens": -5}}, "usage.input_tokens"),
        ({"started_at": 1e300}, "started_at"),
    ],
)
def test_a_result_that_cannot_be_is_shown_as_broken(served, claimed, what) -> None:
    async def work(_: Hostile, call: Call, body: dict[str, Any]) -> None:
        await tell(call, line(body), line(body, seq=2, **ended(**claimed)))
        call.end()

    with served(work) as (desk, _):
        desk.spawn(order("gt-1", "true"))
        result = desk.result("gt-1.1")
        assert (result.state, result.reason) == (State.LOST, "broken")
        assert what in result.message


def test_what_a_worker_cost_is_our_own_account_and_its_words_are_harmless(served) -> None:
    async def work(_: Hostile, call: Call, body: dict[str, Any]) -> None:
        last = ended(cost_usd=900_000.0, message="all \x1b[2J well")
        await tell(call, line(body), line(body, seq=2, **last))
        call.end()

    with served(work) as (desk, _):
        desk.spawn(order("gt-1", "true"))
        result = desk.result("gt-1.1")
        assert result.cost_usd is None or result.cost_usd < 1
        assert "\x1b" not in result.message


@pytest.mark.parametrize("named", ["refs/outpost/../../heads/main", "refs/outpost/gt-2.1"])
@pytest.mark.parametrize("moving", [False, True])
def test_a_checkpoint_of_somebody_else_is_not_taken(served, named, moving) -> None:
    async def work(_: Hostile, call: Call, body: dict[str, Any]) -> None:
        last = ended(state="failed", reason="push_failed", checkpoint=named)
        if moving:
            last = {"status": "moving", "checkpoint": named}
        await tell(call, line(body), line(body, seq=2, **last))
        call.end()

    with served(work) as (desk, _):
        desk.spawn(order("gt-1", "true"))
        result = desk.result("gt-1.1")
        assert result.checkpoint is None
        assert result.state in (State.FAILED, State.STOPPED)


def test_its_own_checkpoint_is_taken(served) -> None:
    async def work(_: Hostile, call: Call, body: dict[str, Any]) -> None:
        own = checkpoint_ref("gt-1.1")
        last = ended(state="failed", reason="push_failed", checkpoint=own)
        await tell(call, line(body), line(body, seq=2, **last))
        call.end()

    with served(work) as (desk, _):
        desk.spawn(order("gt-1", "true"))
        assert desk.result("gt-1.1").checkpoint == "refs/outpost/gt-1.1"


def test_a_bundle_that_is_none_is_told_and_nothing_of_it_is_kept(served, tmp_path) -> None:
    async def work(_: Hostile, call: Call, body: dict[str, Any]) -> None:
        last = ended(state="failed", reason="push_failed", checkpoint="/etc/passwd")
        await tell(call, line(body), line(body, seq=2, **last))
        call.end()

    async def lies(_: Hostile, call: Call, body: dict[str, Any]) -> None:
        call.answer(200)
        await call.send(b"# v2 git bundle\n" + b"0" * 40 + b" refs/heads/evil\n\nPACK" + b"x" * 99)
        call.end()

    with served(work) as (desk, one):
        one.other["GET /work/gt-1.1/rescue"] = lies
        desk.spawn(order("gt-1", "true"))
        result = desk.result("gt-1.1")
        assert result.checkpoint is None
        assert "cannot be used" in result.message
        assert not [*tmp_path.rglob("*.bundle")]


def test_a_container_that_ends_each_stream_is_not_asked_all_the_time(served) -> None:
    async def work(one: Hostile, call: Call, body: dict[str, Any]) -> None:
        begin(call)
        await call.send(line(body, instance=f"i{len(one.asked)}"))
        call.end()

    with served(work) as (desk, one):
        desk.spawn(order("gt-1", "true"))
        time.sleep(10)
        assert 2 <= one.count("POST /work") <= 12


def test_a_container_with_many_names_is_paid_for_and_timed_from_its_first(tmp_path) -> None:
    options = CloudRunOptions(
        project="my-project-1", region="us-central1", service="worker", billing="request"
    )
    record = Records(tmp_path).create(order("gt-1", "true"))
    runs = Runs(options, tmp_path)
    begun = time.time() - 1000
    for n in range(1000):
        runs.asked(record, f"container-{n}", begun + n, begun + n)
    assert runs.begun(record) == begun
    cost, again = runs.cost(record), Runs(options, tmp_path).cost(record)
    honest = 1000 * (2 * 0.000024 + 4 * 0.0000025)
    assert cost is not None
    assert cost == again
    assert honest * 0.99 <= cost <= honest * 1.3


def test_containers_that_say_one_name_do_not_share_a_bill() -> None:
    options = CloudRunOptions(
        project="my-project-1", region="us-central1", service="worker", concurrency=2
    )
    now = 1_000_000.0
    lies = [
        price.Run(worker=f"gt-{n}.1", container="same", begun=now - 300, ended=now)
        for n in range(10)
    ]
    truth = [
        price.Run(worker=run.worker, container=str(n // 2), begun=run.begun, ended=now)
        for n, run in enumerate(lies)
    ]
    told, real = (sum(price.bill(options, runs, now=now).values()) for runs in (lies, truth))
    assert told == pytest.approx(real, rel=0.01)


def test_a_flood_of_lines_keeps_no_command_waiting(served) -> None:
    async def flood(_: Hostile, call: Call, body: dict[str, Any]) -> None:
        begin(call)
        some = line(body, beat=True) * 100
        while not call.reset.is_set():
            await call.send(some)

    with served(flood) as (desk, _):
        desk.spawn(order("gt-1", "true"))
        took = []
        for _n in range(5):
            began = time.monotonic()
            assert desk.status("gt-1.1") is not None
            took.append(time.monotonic() - began)
        assert min(took) < 5
        assert memory_of(desk) < 100_000


# --- lies about the rest --------------------------------------------------------------------------


def test_lies_about_a_clean_and_a_stop_stay_short_and_harmless(served) -> None:
    async def work(_: Hostile, call: Call, body: dict[str, Any]) -> None:
        await tell(call, line(body))
        while not stopped:
            await asyncio.sleep(0.02)
        await call.send(line(body, seq=2, **ended(state="stopped", reason="stopped")))
        call.end()

    async def stop(_: Hostile, call: Call, body: dict[str, Any]) -> None:
        stopped.append(True)
        call.answer(202)
        await call.send(b"[" * 2_000_000)
        call.end()

    async def clean(_: Hostile, call: Call, body: dict[str, Any]) -> None:
        call.answer(200)
        told = {"removed": True, "rescued": "/a\x1b[2J", "detail": "\x1b[2J" * 50_000}
        await call.send(json.dumps(told).encode())
        call.end()

    stopped: list[bool] = []
    with served(work) as (desk, one):
        one.other |= {"POST /work/gt-1.1/stop": stop, "DELETE /work/gt-1.1": clean}
        desk.spawn(order("gt-1", "sleep 60"))
        desk.asked(lambda o: o.outpost_stop(worker="gt-1.1", grace=1.0))
        assert desk.result("gt-1.1").state is State.STOPPED
        cleaned = desk.asked(lambda o: o.outpost_clean(worker="gt-1.1", force=False))
        assert "\x1b" not in f"{cleaned.rescued}{cleaned.detail}"
        assert len(cleaned.detail) <= 1000


def test_a_bundle_that_stops_coming_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr(far_module, "_PATIENCE", 0.3)

    async def slow(_: Hostile, call: Call, body: dict[str, Any]) -> None:
        call.answer(200)
        await call.send(b"# v2 git bundle\n")
        await call.reset.wait()

    async def read(url: str) -> bytes:
        options = CloudRunOptions(auth=Auth.NONE, url=url)
        got = b""
        async with open_client(options, url) as client:
            async for piece in Far("burst", url, client).bundle(
                "gt-1.1", "", owner="", digest="ab"
            ):
                got += piece
        return got

    with hostile(honest) as one:
        one.other["GET /work/gt-1.1/rescue"] = slow
        with pytest.raises(UnreachableError, match="nothing more of a bundle"):
            asyncio.run(read(one.url))


def test_a_server_of_something_else_is_an_error_with_a_hint(served) -> None:
    async def hang_up(_: Hostile, call: Call, body: dict[str, Any]) -> None:
        call.client.transport.abort()

    with served(hang_up) as (desk, one):
        assert isinstance(one.peer, H2Peer)

        async def ask(outpost: Any) -> None:
            with pytest.raises((OutpostError, TimeoutError)):
                await asyncio.wait_for(outpost.outpost_spawn(order=order("gt-1", "true")), 3)

        desk.asked(ask)
        until(lambda: one.count("POST /work") >= 2, "it is asked again")
        assert desk.keepers()


def test_an_order_that_was_refused_is_not_sent_in_place_of_the_next(served) -> None:
    async def work(one: Hostile, call: Call, body: dict[str, Any]) -> None:
        if one.count("POST /work") == 1:
            call.answer(413, end=True)
        else:
            await honest(one, call, body)

    with served(work) as (desk, one):
        with pytest.raises(SpawnRefusedError):
            desk.spawn(order("gt-1", "echo the first"))
        desk.spawn(order("gt-1", "echo the second"))
        assert desk.result("gt-1.1").state is State.DONE
        orders = [body["order"]["agent"]["argv"][-1] for _, body in one.asked]
        assert orders == ["echo the first", "echo the second"]
