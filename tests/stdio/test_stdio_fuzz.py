"""Every frame and value that a stranger can send, at both ends: refused by us, or what can be."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fuzzkit import NUMBERS, TEXTS, Odd, cases, seeds
from hypothesis import given
from serverkit import Recorder
from stdiokit import order

from outpost_core import wire
from outpost_core.backend import BuildContext, OutpostOptions
from outpost_core.errors import OutpostError, UsageError
from outpost_core.types import (
    Cleaned,
    Facts,
    Finding,
    Health,
    Message,
    Result,
    State,
    Usage,
    WorkerStatus,
    split_worker_id,
)
from outpost_exec.stdio import client as client_module
from outpost_exec.stdio.client import Client, ServerHello
from outpost_exec.stdio.remote import StdioOutpost
from outpost_manager import jsonviews
from outpost_manager.cli.table import worker_lines
from outpost_manager.ledger import Ledger
from outpost_shared import border, plausible
from outpost_shared.protocol import FrameError, decode, error_from_json, frame
from outpost_worker.serving.methods import Methods

METHODS = ["spawn", "list", "ping", "logs", "stop", "clean", "viewer", "nudge", "peek", "mail",
           "inbox", "facts", "doctor", "bye"]  # fmt: skip
NOW = 1_795_541_922.0
USAGE = Usage(input_tokens=5, output_tokens=2, cost_usd=0.25, turns=1, model="m")
RESULT = Result(
    state=State.DONE, branch="outpost/gt-1", commit="a" * 40, message="pushed", exit_code=0,
    started_at=NOW, finished_at=NOW + 5, log_bytes=100, usage=USAGE, session="s-1",
    pr_url="https://example.com/1",
)  # fmt: skip
ENDED = wire.to_json(WorkerStatus(id="gt-1.1", state=State.DONE, digest="d", result=RESULT))
RUNS = wire.to_json(
    WorkerStatus(id="gt-2.1", state=State.WORKING, detail="agent", started_at=NOW, usage=USAGE,
                 tree="/srv/work")
)  # fmt: skip
GOOD: dict[str, Any] = {
    "list": {"workers": [ENDED, RUNS, {**RUNS, "id": "gt-3.1"}], "next": None},  # type: ignore[dict-item]
    "spawn": ENDED,
    "ping": wire.to_json(Health(ok=True, detail="fine", free_memory=5)),
    "facts": wire.to_json(Facts(cpus=4, memory=1 << 33, programs={"git": "/usr/bin/git"})),
    "doctor": {"findings": [wire.to_json(Finding(check="tmux", ok=True, detail="3.4"))]},
    "inbox": {
        "messages": [wire.to_json(Message(to="mayor/", subject="s", body="b", id="a1"))],
        "next": None,
    },
    "clean": wire.to_json(Cleaned(removed=True, rescued="refs/outpost/1/gt-1.1")),
    "peek": {"text": "$ _"},
    "viewer": {"argv": ["tmux", "attach"]},
    "logs": {"data": base64.b64encode(b"hello").decode(), "end": True},
}
KEYS = sorted(
    {key for value in (ENDED, RUNS, RESULT) for key in (wire.to_json(value) or {})}  # type: ignore[union-attr]
    | {
        "error",
        "result",
        "id",
        "outpost",
        "hello",
        "kind",
        "message",
        "hint",
        "sent",
        "next",
        "raw",
    }
)


class Told(StdioOutpost):
    """An outpost whose other half says what a test wants, without a channel between them."""

    type = "told"
    capabilities = frozenset({"clean", "peek", "mail", "inbox", "facts", "doctor", "nudge"})

    def __init__(self) -> None:
        super().__init__("vm1", OutpostOptions(), BuildContext(state_dir=Path("/nonexistent")))
        self.said: Any = None
        hello = ServerHello(
            server="s", capabilities=frozenset(), methods=frozenset(METHODS), inflight=4,
            max_frame=1 << 20, time=NOW, skew=0.0,
        )  # fmt: skip
        self.fake = SimpleNamespace(hello=hello)

    async def client(self) -> Client:
        return self.fake  # type: ignore[return-value]

    async def call(self, method: str, params: Any = None, *, repeat: bool = True) -> Any:
        return self.said

    async def _asked(self, method: str, params: Any, **more: Any) -> Any:
        return self.said


def sound(status: WorkerStatus) -> None:
    """Check that a status is one that nobody has to be careful with."""
    split_worker_id(status.id)
    assert isinstance(status.state, State)
    assert len(status.detail) <= 500
    assert status.detail.isprintable()
    assert (status.result is not None) or not status.state.terminal
    result = status.result
    moments = [status.started_at, status.updated_at]
    if result is not None:
        moments += [result.started_at, result.finished_at]
        assert result.state is status.state
        assert not plausible.odd_result(result)
        assert result.message.isprintable()
    assert all(at is None or 0 <= at <= time.time() + plausible.AHEAD for at in moments)
    usage = result.usage if result is not None else status.usage
    assert not plausible.odd_usage(usage)
    json.dumps(wire.to_json(status), allow_nan=False)


def asked(outpost: Told, method: str) -> Any:
    """Ask as the fleet does, and look at the answer as it does."""

    async def read() -> bytes:
        stream: AsyncIterator[bytes] = outpost.outpost_logs("gt-1.1", 0, False)
        found = b""
        async with aclosing(stream) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                found += chunk
                if len(found) > 50:  # one that never ends is its reader's to leave
                    break
        return found

    async def run() -> Any:
        if method == "list":
            found, nameless = border.statuses("vm1", await outpost.outpost_list(), {})
            assert all(len(said) < 200 for said in nameless)
            for status in found.values():
                sound(status)
            return found
        if method == "spawn":
            told = await outpost.outpost_spawn(order())
            status = border.spawned("vm1", told, "gt-1.1", wire.digest(order()))
            sound(status)
            return status
        if method == "logs":
            return await read()
        if method == "viewer":
            return await outpost.viewer("gt-1.1")
        questions: dict[str, tuple[Any, Any]] = {
            "ping": (Health, lambda: outpost.outpost_ping()),
            "facts": (Facts, lambda: outpost.outpost_facts(["git"])),
            "clean": (Cleaned, lambda: outpost.outpost_clean("gt-1.1", False)),
            "peek": (str, lambda: outpost.outpost_peek("gt-1.1", 5)),
            "doctor": (Finding, lambda: outpost.outpost_doctor(None)),
            "inbox": (Message, lambda: outpost.outpost_inbox("")),
        }
        kind, ask = questions[method]
        answer = await ask()
        if method in ("doctor", "inbox"):
            return border.answers("vm1", method, kind, answer, 1000)
        return border.answer("vm1", method, kind, answer)

    return asyncio.run(run())


def tried(step: Callable[[], Any]) -> tuple[Any, Any]:
    """Return what a step answers, or the error of ours that it raises."""
    try:
        return step(), None
    except (OutpostError, FrameError) as error:
        return None, error


def texts_of(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple):
        return [text for one in value for text in texts_of(one)]
    if isinstance(value, dict):
        return [text for pair in value.items() for text in texts_of([*pair])]
    return []


@pytest.mark.parametrize("method", [*GOOD])
def test_what_a_far_side_answers_is_an_error_of_ours_or_can_be(method: str) -> None:
    outpost = Told()
    outpost.said = GOOD[method]
    if method != "spawn":
        asked(outpost, method)

    @cases(900 if method == "list" else 250)
    @given(seed=seeds)
    def holds(seed: int) -> None:
        outpost.said = Odd(seed, KEYS).broken(GOOD[method])
        answer, error = tried(lambda: asked(outpost, method))
        if error is not None:
            border.tame(error)
            assert len(str(error)) < 6000
            assert "\x1b" not in str(error)
            return
        if method in ("ping", "facts", "doctor", "clean"):
            said = [wire.to_json(one) for one in answer] if method == "doctor" else [
                wire.to_json(answer)]  # fmt: skip
            assert all(text.isprintable() and len(text) <= 1000 for text in texts_of(said))

    holds()


def test_what_is_believed_can_be_kept_and_shown(tmp_path: Path) -> None:
    ledger, outpost = Ledger(tmp_path), Told()

    @cases(120)
    @given(seed=seeds)
    def holds(seed: int) -> None:
        outpost.said = Odd(seed, KEYS).broken(GOOD["list"])
        try:
            found = asked(outpost, "list")
        except OutpostError:
            return
        ledger.record("vm1", [*found.values()])

    holds()
    workers = ledger.workers(cleaned=True)
    assert len(workers) >= 3
    json.dumps([jsonviews.worker(worker) for worker in workers])
    assert all(line.isprintable() or "\x1b[" in line for line in worker_lines(workers))
    ledger.totals("day", 0.0)
    ledger.close()


def test_one_bad_worker_hides_no_other() -> None:
    outpost = Told()
    bad = [
        {**RUNS, "id": "bad-1.1", "state": "exploded"},  # type: ignore[dict-item]
        {**RUNS, "id": "bad-2.1", "started_at": 1e300},  # type: ignore[dict-item]
        {**ENDED, "id": "bad-3.1", "result": {"state": "done", "finished_at": 1e300}},  # type: ignore[dict-item]
        {**ENDED, "id": "bad-4.1", "result": {"state": "done", "cost_usd": -1}},  # type: ignore[dict-item]
        {**ENDED, "id": "bad-5.1", "result": {"state": "done", "branch": "--upload-pack=id"}},  # type: ignore[dict-item]
        {**ENDED, "id": "bad-6.1", "result": {"state": "done", "pr_url": "javascript:x"}},  # type: ignore[dict-item]
        {**ENDED, "id": "bad-7.1", "result": {"state": "failed"}},  # type: ignore[dict-item]
        {**ENDED, "id": "bad-8.1", "result": None},  # type: ignore[dict-item]
        {**RUNS, "id": "bad-9.1", "usage": {"input_tokens": 10**400}},  # type: ignore[dict-item]
        {**RUNS, "id": "../../x", "state": "working"},  # type: ignore[dict-item]
    ]
    outpost.said = {"workers": [ENDED, *bad, RUNS], "next": None}

    async def run() -> None:
        found, nameless = border.statuses("vm1", await outpost.outpost_list(), {})
        assert found["gt-1.1"].state is State.DONE
        assert found["gt-2.1"].detail == "agent"
        for number in range(1, 10):
            status = found[f"bad-{number}.1"]
            assert "broken" in status.detail, status
            if number in range(3, 9):
                assert status.state is State.LOST
                assert status.result is not None
                assert status.result.reason == "broken"
        assert nameless == ["'../../x' is not the id of a worker"]

    asyncio.run(run())


def test_a_worker_that_is_told_of_twice_is_broken_and_told_of_once() -> None:
    outpost = Told()
    outpost.said = {"workers": [RUNS, {**RUNS, "detail": "other"}], "next": None}  # type: ignore[dict-item]
    found = asked(outpost, "list")
    assert [*found] == ["gt-2.1"]
    assert found["gt-2.1"].detail == "broken: it is told of twice, and not the same"


@cases(1500)
@given(seed=seeds)
def test_a_line_is_an_object_or_no_line_of_the_protocol(seed: int) -> None:
    odd = Odd(seed, KEYS)
    line = frame(odd.value())[:-1] if odd.random.randrange(3) else odd.random.randbytes(60)
    if not odd.random.randrange(4):
        line = line[: odd.random.randrange(len(line) + 1)]
    line = line.replace(b"0", b"NaN") if not odd.random.randrange(9) else line
    found, error = tried(lambda: decode(line))
    assert isinstance(found, dict) if error is None else len(str(error)) < 500


@pytest.mark.parametrize(
    "line",
    [b'{"a":1' + b"0" * 5000 + b"}", b'{"a":' + b"[" * 100_000, b'{"a":1e999}', b'{"a":-Infinity}',
     b"\xff", b'"' + b"x" * 100_000, b"null", b""],
    ids=lambda line: repr(line[:12]),
)  # fmt: skip
def test_a_monstrous_line_is_no_line_of_the_protocol(line: bytes) -> None:
    with pytest.raises(FrameError):
        decode(line)


@cases(1500)
@given(seed=seeds)
def test_whatever_is_told_as_an_error_is_one(seed: int) -> None:
    said = Odd(seed, KEYS).broken(
        {"kind": "unreachable", "message": "m", "hint": "x", "sent": False, "reason": "r"}
    )
    error = error_from_json(said)
    assert isinstance(error, OutpostError)
    border.tame(error)
    assert all(one.isprintable() for one in str(error).split("\n"))


@cases(800)
@given(seed=seeds)
def test_a_hello_is_one_or_an_error_of_ours(seed: int) -> None:
    good = {"nonce": "n", "server": "s", "capabilities": ["rig"], "methods": METHODS,
            "inflight": 4, "max_frame": 1 << 20, "raw": 1 << 20, "time": NOW,
            "silence": 30.0}  # fmt: skip
    said = Odd(seed, KEYS).broken({"outpost": 1, "hello": good})
    found = client_module._hello_in(frame(said)[:-1])
    if found is None:
        return
    hello, error = tried(lambda: client_module._hello("vm1", found, "n"))
    if error is not None:
        assert len(str(error)) < 5000
        return
    assert 1 <= hello.inflight <= 1024
    assert hello.max_frame >= 4096
    assert hello.raw >= 0
    assert len(hello.server) <= 200


def test_whatever_frame_comes_ends_the_channel_or_answers_what_was_asked() -> None:
    class Nowhere:
        heard = 0.0
        rest = b""

        async def next(self) -> bytes | None:
            await asyncio.Event().wait()
            return None

        def write(self, data: bytes) -> None: ...

        async def drain(self) -> None: ...

        def close(self) -> None: ...

    async def run() -> None:
        hello = Told().fake.hello

        @cases(1200)
        @given(seed=seeds)
        def holds(seed: int) -> None:
            client = Client("vm1", Nowhere(), Nowhere(), hello)  # type: ignore[arg-type]
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            client._waiting[1] = future
            said = Odd(seed, KEYS).broken({"id": 1, "result": {"ok": True}})
            if isinstance(said, dict):
                _, error = tried(lambda: client._take(said))
                assert len(str(error)) < 500
            if future.done() and future.exception() is not None:
                assert isinstance(future.exception(), OutpostError)
            client._reading.cancel()

        holds()
        await asyncio.sleep(0)

    asyncio.run(run())


ASKED: dict[str, Any] = {
    "spawn": {"order": wire.to_json(order()), "secrets": {}, "digest": wire.digest(order())},
    "list": {"after": None, "limit": 5},
    "logs": {"worker": "gt-1.1", "offset": 0, "max": 10, "wait": 0},
    "stop": {"worker": "gt-1.1", "grace": 1},
    "clean": {"worker": "gt-1.1", "force": False},
    "nudge": {"worker": "gt-1.1", "text": "x"},
    "peek": {"worker": "gt-1.1", "lines": 3},
    "mail": {"message": wire.to_json(Message(to="mayor/", subject="s"))},
    "inbox": {"identity": "mayor/"},
    "facts": {"programs": ["git"]},
    "doctor": {"rig": None},
}


class Quick(Recorder):
    """Answers at once."""

    capabilities = Recorder.capabilities | {"facts", "doctor"}

    def __init__(self) -> None:
        super().__init__()
        self.hold.set()

    async def outpost_peek(self, worker: str, lines: int) -> str:
        return "x"

    async def outpost_mail(self, message: Message) -> None: ...

    async def outpost_nudge(self, worker: str, text: str) -> None: ...

    async def outpost_clean(self, worker: str, force: bool) -> Cleaned:
        return Cleaned(removed=True)

    async def outpost_inbox(self, identity: str) -> list[Message]:
        return []

    async def outpost_facts(self, programs: Any) -> Facts:
        return Facts(programs=dict.fromkeys(programs, ""))

    async def outpost_doctor(self, rig: str | None) -> list[Finding]:
        return []

    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> Any:
        yield b"hello"


@pytest.mark.parametrize("method", [*ASKED])
def test_whatever_is_asked_of_a_far_side_is_answered_or_refused(method: str) -> None:
    keys = sorted({*KEYS, *(key for params in ASKED.values() for key in params)})

    @cases(250)
    @given(seed=seeds)
    def holds(seed: int) -> None:
        params = Odd(seed, keys).broken(ASKED[method])
        if not isinstance(params, dict):
            return
        call = Methods(Quick(), {}, 1 << 20).get(method)
        assert call is not None

        async def run() -> None:
            async with asyncio.timeout(30):
                await call(params)

        _, error = tried(lambda: asyncio.run(run()))
        assert type(error) is not OutpostError, error  # an internal one is a defect

    holds()


def test_the_values_are_odd_enough() -> None:
    assert any(isinstance(value, int) and value > 10**300 for value in NUMBERS)
    assert "\ud800" in TEXTS
    with pytest.raises(UsageError):
        split_worker_id("../x.1")
