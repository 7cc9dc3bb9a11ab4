"""What a stream does with a far side that is slow, broken, elsewhere, or lies."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from farkit import order

from outpost_cloudrun.keeper.far import Far
from outpost_cloudrun.keeper.records import Records
from outpost_cloudrun.keeper.runs import Runs
from outpost_cloudrun.keeper.stream import Stream
from outpost_cloudrun.keeper.terms import Patience, Terms
from outpost_cloudrun.keeper.workerrecord import WorkerRecord
from outpost_cloudrun.options import CloudRunOptions
from outpost_core import wire
from outpost_core.errors import (
    ConflictError,
    OutpostError,
    SpawnRefusedError,
    UnreachableError,
)
from outpost_core.types import Order, Result, State

#: So that nothing takes long.
QUICK = Patience(silent=2, busy=1, doubt=1, lease=0.6, gone=0.3, rescue=1, short=300)
URL = "http://127.0.0.1:1"

Lines = list[dict[str, Any] | bytes | float]
Script = Callable[[dict[str, Any]], "Lines | httpx.Response | Exception"]


class Told:
    """A far side that answers by a script, and remembers what it was asked."""

    def __init__(self, script: Script, ahead: float = 0.0) -> None:
        self.script = script
        self.ahead = ahead
        self.bodies: list[dict[str, Any]] = []
        self.cookies: list[str] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else {}
        body["path"] = request.url.path
        self.bodies.append(body)
        self.cookies.append(request.headers.get("cookie", ""))
        said = self.script(body)
        if isinstance(said, Exception):
            raise said
        if isinstance(said, httpx.Response):  # one that was not read yet
            told = said.content

            async def whole() -> AsyncIterator[bytes]:
                yield told

            kind = {"content-type": said.headers.get("content-type", "text/html")}
            return httpx.Response(said.status_code, content=whole(), headers=kind)

        async def content() -> AsyncIterator[bytes]:
            for one in said:
                if isinstance(one, float):
                    await asyncio.sleep(one)
                else:
                    yield one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n"

        date = format_datetime(datetime.fromtimestamp(time.time() + self.ahead, UTC), usegmt=True)
        headers = {"set-cookie": "GAESA=abc; Path=/", "date": date}
        return httpx.Response(200, content=content(), headers=headers)


class World:
    def __init__(self, folder: Path, one: Order) -> None:
        self.records = Records(folder / "burst")
        self.record: WorkerRecord = self.records.create(one)
        self.digest = wire.digest(one)
        self.folder = folder

    def line(self, status: str = "working", **more: Any) -> dict[str, Any]:
        return {"seq": 1, "status": status, "digest": self.digest, "instance": "i1", **more}

    def result(self, **more: Any) -> dict[str, Any]:
        result = Result(state=State.DONE, **more)
        return self.line("done", result=wire.to_json(result))

    def elsewhere(self, seen: str, claim: str = "c1") -> dict[str, Any]:
        return self.line(claimed_by="i2", claim=claim, seen=seen)

    def stream(self, script: Script, ahead: float = 0.0, **terms: Any) -> tuple[Stream, Told]:
        told = Told(script, ahead)
        client = httpx.AsyncClient(transport=httpx.MockTransport(told))
        far = Far("burst", URL, client)

        async def reach() -> Far:
            return far

        async def nothing(_: WorkerRecord) -> str:
            return ""

        options = CloudRunOptions(project="my-gcp-project", region="us-central1", service="w")
        values: dict[str, Any] = {
            "name": "burst", "request_timeout": None, "resume": False, "credentials": nothing,
            "runs": Runs(options, self.folder / "burst"), "patience": QUICK, **terms,
        }  # fmt: skip
        return Stream(self.record, Terms(**values), reach), told


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, order("gt-1", "true"))


def run(work: Awaitable[Any]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(work, 30)

    return asyncio.run(bounded())


def in_order(*answers: Lines | httpx.Response | Exception) -> Script:
    """One answer after the other; the last for ever."""
    left = [*answers]
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def both(stream: Stream) -> Any:
    async def work() -> None:
        await stream.start({})
        await stream.follow()

    return run(work())


def test_a_stream_that_breaks_goes_on_at_its_byte(world: World) -> None:
    stream, told = world.stream(
        in_order(
            [world.line(offset=0, logs="hello "), b'{"seq": 2, "sta'],
            [world.line(offset=0, logs="hello wor")],
            httpx.ReadError("reset"),
            [world.line(), {"seq": 2, "beat": True}, world.line(offset=9, data="bGQ=", logs="?")],
            [world.result(branch="b", commit="a" * 40)],
        )
    )
    both(stream)
    assert world.record.read_log(0) == b"hello world"
    assert world.record.result is not None
    assert world.record.result.branch == "b"
    assert [body["offset"] for body in told.bodies] == [0, 6, 9, 9, 11]
    assert [body.get("attach", False) for body in told.bodies] == [False, True, True, True, True]
    assert told.cookies == ["", *["GAESA=abc"] * 4], "to the container that has it"
    assert world.record.result.cost_usd is not None


def test_a_line_that_is_silent_is_dead(world: World) -> None:
    stream, told = world.stream(in_order([world.line(), 60.0], [world.result()]))
    both(stream)
    assert len(told.bodies) == 2


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(401),
        httpx.Response(403, text="<html>Forbidden</html>"),
        httpx.Response(404, text="<html>Not Found</html>"),
        httpx.ConnectError("refused"),
    ],
)
def test_what_no_container_has_seen_was_certainly_not_asked(world: World, answer: Any) -> None:
    stream, _ = world.stream(in_order(answer))
    with pytest.raises(UnreachableError) as raised:
        run(stream.start({}))
    assert raised.value.sent is False
    assert world.record.course.get("asked") is None
    assert raised.value.hint or isinstance(answer, Exception)


@pytest.mark.parametrize(("status", "kind"), [(400, "usage"), (422, "refused"), (413, "usage")])
def test_a_refusal_is_certain(world: World, status: int, kind: str) -> None:
    said = {"error": {"kind": kind, "message": "no \x1b[2J", "hint": "do that"}}
    stream, _ = world.stream(in_order(httpx.Response(status, json=said)))
    with pytest.raises(SpawnRefusedError) as raised:
        run(stream.start({}))
    assert "\x1b" not in raised.value.message
    assert raised.value.hint == "do that"


def test_no_container_is_free_for_long_enough_that_another_outpost_takes_it(world: World) -> None:
    states = []

    def script(_: dict[str, Any]) -> httpx.Response:
        states.append((world.record.status.state, world.record.status.detail))
        return httpx.Response(429)

    stream, told = world.stream(script)
    with pytest.raises(SpawnRefusedError, match="no container is free"):
        run(stream.start({}))
    assert len(told.bodies) > 1, "it was tried for a while"
    assert states[-1] == (State.QUEUED, "no instance free")


def test_a_container_that_is_free_at_last_takes_it(world: World) -> None:
    stream, _ = world.stream(in_order(httpx.Response(429), [world.line(), world.result()]))
    both(stream)
    assert world.record.result is not None


@pytest.mark.parametrize("broken", [503, 502, 504, 500])
def test_an_answer_that_says_nothing_is_asked_again(world: World, broken: int) -> None:
    stream, told = world.stream(in_order(httpx.Response(broken), [world.result()]))
    both(stream)
    assert [body.get("attach", False) for body in told.bodies] == [False, False]


def test_after_doubt_a_refusal_proves_nothing(world: World) -> None:
    """What was sent first may be acted upon still: no other outpost may have the order."""
    stream, _ = world.stream(
        in_order(httpx.ReadError("reset"), httpx.Response(429), httpx.Response(429))
    )
    with pytest.raises(UnreachableError) as raised:
        run(stream.start({}))
    assert raised.value.sent
    assert world.record.course.get("asked") is True
    again, _ = world.stream(in_order(httpx.ConnectError("refused")))
    with pytest.raises(UnreachableError) as raised:
        run(again.start({}))
    assert raised.value.sent, "the next keeper knows it too"


def test_another_order_of_that_id_is_a_conflict(world: World) -> None:
    stream, _ = world.stream(in_order([{**world.line(), "digest": "0" * 64}]))
    with pytest.raises(ConflictError):
        run(stream.start({}))
    said = {"error": {"kind": "conflict", "message": "another"}}
    stream, _ = world.stream(in_order(httpx.Response(409, json=said)))
    with pytest.raises(ConflictError):
        run(stream.start({}))
    stream, _ = world.stream(in_order(httpx.ReadError("reset"), httpx.Response(409, json=said)))
    with pytest.raises(UnreachableError, match="another; whether an earlier request has started"):
        run(stream.start({}))
    assert world.record.course.get("asked") is True


@pytest.mark.parametrize(
    "odd",
    [
        b"\xff\xfe\n",
        b"[1]\n",
        b"[" * 100_000 + b"\n",
        b"x" * (5 << 20) + b"\n",
        b'{"status": "happy"}\n',
        b'{"status": "working", "logs": "x"}\n',
        b'{"status": "working", "logs": "x", "offset": -1}\n',
        b'{"status": "working", "logs": "x", "offset": 1e30}\n',
        b'{"status": "working", "data": "!!", "offset": 0}\n',
        b'{"status": "done", "result": {"state": 5}}\n',
        b'{"status": "working", "usage": {"turns": "many"}}\n',
        b'{"status": "working", "claimed_by": {"a": 1}}\n',
    ],
)
def test_what_is_no_line_is_not_believed_and_the_next_stream_is(world: World, odd: bytes) -> None:
    stream, told = world.stream(in_order([world.line(), odd], [world.result()]))
    both(stream)
    assert world.record.result is not None
    assert world.record.result.state is State.DONE
    assert len(told.bodies) == 2


def test_output_with_a_hole_is_asked_for_again(world: World) -> None:
    stream, told = world.stream(
        in_order(
            [world.line(offset=0, logs="ab"), world.line(offset=5, logs="fg")],
            [world.line(offset=2, logs="cdefg"), world.result()],
        )
    )
    both(stream)
    assert world.record.read_log(0) == b"abcdefg"
    assert told.bodies[1]["offset"] == 2


def test_a_result_that_cannot_be_is_broken(world: World) -> None:
    odd = world.result(commit="nonsense", branch="--evil", cost_usd=1e9)
    stream, _ = world.stream(in_order([world.line(), odd]))
    both(stream)
    result = world.record.result
    assert result is not None
    assert (result.state, result.reason) == (State.LOST, "broken")


def test_what_a_container_says_that_it_cost_does_not_count(world: World) -> None:
    stream, _ = world.stream(in_order([world.line(), world.result(cost_usd=1000.0)]))
    both(stream)
    result = world.record.result
    assert result is not None
    assert result.cost_usd is not None
    assert result.cost_usd < 0.1


def test_a_worker_that_another_container_has_is_looked_for(world: World) -> None:
    beats = iter(range(100))
    tries = iter([*["no"] * 6, "yes"])

    def script(_: dict[str, Any]) -> Lines:
        if next(tries) == "no":
            return [world.elsewhere(str(next(beats)))]
        return [world.line(), world.result()]

    stream, told = world.stream(script)
    both(stream)
    assert world.record.accepted
    assert not any("take_over" in body for body in told.bodies)


def test_an_owner_that_gives_no_sign_of_life_is_dead(world: World) -> None:
    """Without `resume`, whoever answers ends the worker in the record."""

    def script(body: dict[str, Any]) -> Lines:
        if body.get("take_over") == "c1":
            assert body["attach"] is True
            lost = Result(state=State.LOST, reason="lost_process", checkpoint="refs/outpost/gt-1.1")
            return [world.line("lost", result=wire.to_json(lost))]
        return [world.elsewhere("the same")]

    stream, told = world.stream(script)
    both(stream)
    result = world.record.result
    assert result is not None
    assert (result.state, result.checkpoint) == (State.LOST, "refs/outpost/gt-1.1")
    assert sum("take_over" in body for body in told.bodies) == 1


def test_with_resume_another_container_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path, order("gt-1", "true", timeout=1000.0))

    def script(body: dict[str, Any]) -> Lines:
        if body["leg"] == 2 and body.get("take_over") == "c1":
            assert "attach" not in body
            assert 990 < body["timeout_left"] <= 1000
            return [world.line(offset=3, logs="def", claim="c2"), world.result(message="done")]
        if "attach" in body:
            return [world.elsewhere("the same")]
        return [world.line(offset=0, logs="abc", claim="c1")]

    stream, _ = world.stream(script, resume=True)
    both(stream)
    result = world.record.result
    assert result is not None
    assert result.state is State.DONE
    assert "continued once from its checkpoint" in result.message
    assert world.record.read_log(0) == b"abcdef"


def test_a_container_that_goes_away_says_so(world: World) -> None:
    moving = world.line("moving", claim="c1", checkpoint="refs/outpost/gt-1.1")
    stream, told = world.stream(in_order([world.line(claim="c1"), moving]))
    both(stream)
    result = world.record.result
    assert result is not None
    assert (result.state, result.reason) == (State.STOPPED, "terminated")
    assert result.checkpoint == "refs/outpost/gt-1.1"
    assert len(told.bodies) == 1


def test_after_a_move_the_next_leg_begins_at_once(world: World) -> None:
    moving = world.line("moving", claim="c1", checkpoint="refs/outpost/gt-1.1")
    stream, told = world.stream(
        in_order(
            [world.line(claim="c1"), moving],
            httpx.Response(503),
            [world.line(claim="c2", instance="i2"), world.result()],
        ),
        resume=True,
    )
    both(stream)
    assert [(body["leg"], body.get("take_over")) for body in told.bodies[1:]] == [(2, "c1")] * 2
    assert world.record.result is not None
    assert "continued once" in world.record.result.message


def test_a_worker_that_gets_nowhere_is_not_continued_for_ever(world: World) -> None:
    moving = world.line("moving", claim="c1", checkpoint="refs/outpost/gt-1.1")
    stream, told = world.stream(in_order([world.line(claim="c1"), moving]), resume=True)
    both(stream)
    result = world.record.result
    assert result is not None
    assert (result.state, result.reason) == (State.STOPPED, "terminated")
    assert len(told.bodies) == 3


def test_killed_between_a_move_and_the_next_leg_it_goes_on(world: World) -> None:
    moving = world.line("moving", claim="c1", checkpoint="refs/outpost/gt-1.1")
    stream, _ = world.stream(in_order([world.line(), moving], httpx.Response(503)), resume=True)

    async def until_moved() -> None:
        await stream.start({})
        task = asyncio.create_task(stream.follow())
        while "moved" not in world.record.course:
            await asyncio.sleep(0.01)
        task.cancel()

    run(until_moved())
    world.record = world.records.open("gt-1.1")
    stream, told = world.stream(in_order([world.line(), world.result()]), resume=True)
    run(stream.follow())
    assert told.bodies[0]["leg"] == 2
    assert world.record.result is not None


def test_what_nobody_knows_any_more_is_lost(world: World) -> None:
    gone = httpx.Response(404, json={"error": {"kind": "not_found", "message": "no such worker"}})
    stream, told = world.stream(in_order([world.line()], gone))
    both(stream)
    result = world.record.result
    assert result is not None
    assert (result.state, result.reason) == (State.LOST, "lost_process")
    assert len(told.bodies) > 2, "it was asked for a while"


def test_a_front_that_knows_no_service_says_nothing_of_a_worker(world: World) -> None:
    stream, _ = world.stream(
        in_order([world.line()], httpx.Response(404), httpx.Response(403), [world.result()])
    )
    both(stream)
    assert world.record.result is not None
    assert world.record.result.state is State.DONE


def test_a_request_is_renewed_before_it_times_out(world: World) -> None:
    long: Lines = [world.line(offset=0, logs="ab"), 1.0, world.line(offset=2, logs="cd"), 20.0]
    busy = httpx.Response(429)
    stream, told = world.stream(
        in_order(long, busy, [world.line(offset=0, logs="ab"), 0.3, world.result()]),
        request_timeout=0.5,
    )
    both(stream)
    assert len(told.bodies) == 3
    assert world.record.read_log(0).startswith(b"ab")
    assert world.record.result is not None


def test_a_log_without_an_end_is_cut_at_its_cap(tmp_path: Path) -> None:
    world = World(tmp_path, order("gt-1", "true", log_bytes=1000))
    many: Lines = [world.line(offset=n * 4096, logs="y" * 4096) for n in range(200)]
    stream, _ = world.stream(in_order([*many, world.result()]))
    both(stream)
    assert world.record.log_size < 100_000
    assert world.record.result is not None
    assert world.record.result.log_truncated


@pytest.mark.parametrize("ahead", [0.0, 1.5, 86400.0, -5 * 86400.0])
def test_moments_are_told_by_our_clock(world: World, ahead: float) -> None:
    now = time.time()
    moments = {"started_at": now + ahead - 10, "finished_at": now + ahead}
    stream, _ = world.stream(in_order([world.line(), world.result(**moments)]), ahead)
    both(stream)
    result = world.record.result
    assert result is not None
    assert result.started_at == pytest.approx(now - 10, abs=3)
    assert result.finished_at == pytest.approx(now, abs=3)


def test_git_credentials_go_in_the_body_alone(tmp_path: Path) -> None:
    world = World(tmp_path, order("gt-1", "true", "https://example.com/rig"))

    async def token(_: WorkerRecord) -> str:
        return "canary-token"

    stream, told = world.stream(in_order([world.line(), world.result()]), credentials=token)
    both(stream)
    assert told.bodies[0]["git_credentials"] == "canary-token"
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"canary" not in path.read_bytes()


def test_a_running_worker_is_followed_though_the_command_for_credentials_fails(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, order("gt-1", "true", "https://example.com/rig"))
    asked = []

    async def logged_out(_: WorkerRecord) -> str:
        asked.append(1)
        if len(asked) > 1:
            raise SpawnRefusedError("git_credentials (gh): it ended with 1")
        return "canary-token"

    stream, told = world.stream(
        in_order([world.line()], [world.line(), world.result()]), credentials=logged_out
    )
    both(stream)
    assert [body["git_credentials"] for body in told.bodies] == ["canary-token", ""]
    assert world.record.result is not None
    other = World(tmp_path / "other", order("gt-2", "true", "https://example.com/rig"))
    fresh, _ = other.stream(in_order([other.line()]), credentials=logged_out)
    with pytest.raises(SpawnRefusedError, match="it ended with 1"):
        run(fresh.start({}))


def test_an_error_of_the_order_is_an_error(world: World) -> None:
    stream, _ = world.stream(in_order(httpx.Response(400)))
    with pytest.raises(OutpostError):
        run(stream.start({}))
