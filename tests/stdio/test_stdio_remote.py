"""The outpost object at the near end: repeats what may be repeated, and never guesses."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest
from stdiokit import Bare, Peer, Served, order, pair, served, start

from outpost_core import wire
from outpost_core.backend import BuildContext, OutpostOptions
from outpost_core.errors import (
    ConflictError,
    NotFoundError,
    OutpostError,
    PluginError,
    SpawnRefusedError,
    UnreachableError,
    UnsupportedError,
)
from outpost_core.plugins import Plugins
from outpost_core.stdio import caller, remote
from outpost_core.stdio.client import Client
from outpost_core.stdio.remote import StdioOutpost
from outpost_core.types import Health, Json, Message, Order, Secrets, State, WorkerStatus

REQUIRED = ["spawn", "list", "ping", "logs", "stop", "bye"]


class Inner(Bare):
    """What is served: logs from a text, spawns that are counted."""

    capabilities = frozenset({"secrets", "nudge", "mail"})

    def __init__(self) -> None:
        super().__init__()
        self.text = b""
        self.over = False
        self.spawned = 0

    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        self.spawned += 1
        return WorkerStatus(id=order.worker, state=State.WORKING, digest=wire.digest(order))

    async def outpost_ping(self) -> Health:
        return Health(ok=True)

    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
        if worker != "gt-1.1":
            raise NotFoundError(f"no {worker}")
        while True:
            over = self.over
            if piece := self.text[offset : offset + 5000]:
                offset += len(piece)
                yield piece
            elif over or not follow:
                return
            else:
                await asyncio.sleep(0.001)

    async def outpost_nudge(self, worker: str, text: str) -> None:
        self.asked.append(("nudge", {"text": text}))

    async def outpost_mail(self, message: Message) -> None:
        self.asked.append(("mail", {"message": message}))


async def read(outpost: StdioOutpost, offset: int = 0, follow: bool = False) -> bytes:
    stream = outpost.outpost_logs(worker="gt-1.1", offset=offset, follow=follow)
    async with aclosing(stream):
        return b"".join([piece async for piece in stream])


def test_it_is_an_outpost_that_registers() -> None:
    Plugins.load([]).register_outpost(Served(Inner()))


def test_callers_share_one_connection_and_one_try_to_connect() -> None:
    async def run() -> None:
        async with served(Inner()) as outpost:
            await asyncio.gather(*(outpost.outpost_ping() for _ in range(100)))
            assert outpost.connects == 1

    asyncio.run(run())


def test_one_that_leaves_while_connecting_does_not_take_it_from_the_others() -> None:
    async def run() -> None:
        async with served(Inner()) as outpost:
            first = asyncio.create_task(outpost.outpost_ping())
            second = asyncio.create_task(outpost.outpost_ping())
            await asyncio.sleep(0)
            first.cancel()
            assert (await second).ok
            assert outpost.connects == 1

    asyncio.run(run())


def test_after_a_break_the_next_call_connects_anew() -> None:
    async def run() -> None:
        async with served(Inner()) as outpost:
            await outpost.outpost_ping()
            outpost.break_line()
            assert (await outpost.outpost_ping()).ok
            assert outpost.connects == 2

    asyncio.run(run())


# --- a peer that breaks in the middle -------------------------------------------------------------


class Scripted(StdioOutpost):
    """Each connection is played by the next of a list of coroutines."""

    type = "scripted"
    capabilities = frozenset({"nudge", "mail", "attach", "peek", "clean"})

    def __init__(self, *plays: Any, **hello: Any) -> None:
        super().__init__("vm1", OutpostOptions(), BuildContext(state_dir=Path("/nonexistent")))
        self.plays = [*plays]
        self.hello = {"methods": [*REQUIRED, "nudge", "mail", "viewer", "peek"]} | hello
        self.peers: list[Peer] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.given: list[str] = []

    async def connect(self) -> Client:
        if not self.plays:
            raise UnreachableError("vm1 is off", sent=False)
        near, far = await pair()
        peer = Peer(far)
        self.peers.append(peer)

        async def play(script: Any) -> None:
            await peer.greet(**self.hello)
            await script(peer)

        self.tasks.append(asyncio.create_task(play(self.plays.pop(0))))
        return await start(near)

    def given_up(self, client: Client, why: str) -> None:
        self.given.append(why)
        super().given_up(client, why)

    async def end(self) -> None:
        await self.outpost_close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for peer in self.peers:
            peer.close()


async def breaks(peer: Peer) -> None:
    await peer.heard()
    peer.close()


def answers(result: Json) -> Any:
    async def play(peer: Peer) -> None:
        async for asked in peer.requests():
            if asked.get("method") != "bye":
                await peer.say({"id": asked["id"], "result": result})

    return play


def fails(**error: Any) -> Any:
    async def play(peer: Peer) -> None:
        async for asked in peer.requests():
            if asked.get("method") != "bye":
                await peer.say({"id": asked["id"], "error": error})

    return play


async def silence(peer: Peer) -> None:
    async for _ in peer.requests():
        pass


def raised(call: str, *plays: Any, hello: dict[str, Any] | None = None, **args: Any) -> Any:
    """What a hook raises with these plays."""

    async def run() -> OutpostError:
        outpost = Scripted(*plays, **(hello or {}))
        try:
            with pytest.raises(OutpostError) as caught:
                await getattr(outpost, call)(**args)
            assert not outpost.plays, "not all were tried"
            return caught.value
        finally:
            await outpost.end()

    return asyncio.run(run())


STATUS: Json = {"id": "gt-1.1", "state": "working", "digest": wire.digest(order())}


def test_a_spawn_whose_answer_is_lost_is_repeated_once() -> None:
    async def run() -> None:
        outpost = Scripted(breaks, answers(STATUS))
        status = await outpost.outpost_spawn(order())
        assert (status.id, status.state) == ("gt-1.1", State.WORKING)
        await outpost.end()

    asyncio.run(run())


def test_two_breaks_are_unreachable_and_the_request_may_have_arrived() -> None:
    error = raised("outpost_spawn", breaks, breaks, order=order())
    assert isinstance(error, UnreachableError)
    assert error.sent


def test_a_break_and_then_no_connection_leaves_the_doubt() -> None:
    error = raised("outpost_spawn", breaks, order=order())
    assert isinstance(error, UnreachableError)
    assert error.sent
    assert "vm1 is off" in error.message


def test_no_connection_at_all_is_certain() -> None:
    error = raised("outpost_spawn", order=order())
    assert isinstance(error, UnreachableError)
    assert not error.sent


@pytest.mark.parametrize("kind", ["refused", "usage", "unsupported", "unreachable"])
def test_a_refusal_of_the_repeated_spawn_proves_nothing(kind: str) -> None:
    second = fails(kind=kind, message="full", sent=False)
    error = raised("outpost_spawn", breaks, second, order=order())
    assert isinstance(error, UnreachableError)
    assert error.sent
    assert "full" in error.message


def test_a_refusal_of_the_first_spawn_is_what_it_is() -> None:
    error = raised("outpost_spawn", fails(kind="refused", message="full"), order=order())
    assert isinstance(error, SpawnRefusedError)


def test_a_conflict_is_one_also_at_the_second_try() -> None:
    second = fails(kind="conflict", message="another order")
    assert isinstance(raised("outpost_spawn", breaks, second, order=order()), ConflictError)


def test_a_nudge_is_never_typed_twice() -> None:
    error = raised("outpost_nudge", breaks, worker="gt-1.1", text="yes")
    assert isinstance(error, UnreachableError)
    assert error.sent


def test_mail_with_an_id_is_handed_over_again_and_without_one_is_not() -> None:
    async def run() -> None:
        outpost = Scripted(breaks, answers(None))
        await outpost.outpost_mail(Message(to="a/b", subject="s", id="m1"))
        await outpost.end()

    asyncio.run(run())
    error = raised("outpost_mail", breaks, message=Message(to="a/b", subject="s"))
    assert isinstance(error, UnreachableError)


def test_an_order_that_is_too_long_for_a_line_is_refused_for_certain() -> None:
    error = raised(
        "outpost_spawn", silence, hello={"max_frame": 5000}, order=order(prompt="x" * 6000)
    )
    assert isinstance(error, SpawnRefusedError)


def test_secrets_go_to_no_program_that_does_not_offer_them() -> None:
    async def run() -> None:
        outpost = Scripted(silence)
        with pytest.raises(UnsupportedError, match="'secrets'"):
            await outpost.outpost_spawn(order(secrets=Secrets({"A": "x"})))
        await outpost.end()

    asyncio.run(run())


def test_what_is_declared_and_not_offered_is_said_when_used_and_by_doctor() -> None:
    error = raised("outpost_clean", silence, worker="gt-1.1", force=False)
    assert isinstance(error, UnsupportedError)
    assert "'clean'" in error.message

    async def run() -> None:
        outpost = Scripted(silence)
        (program, lacking) = await outpost.outpost_doctor(rig=None)
        assert program.ok
        assert (lacking.check, lacking.ok) == ("capabilities", False)
        assert lacking.detail == "the program does not offer clean"
        await outpost.end()

    asyncio.run(run())


ODD: list[tuple[str, dict[str, Any], Json]] = [
    ("outpost_spawn", {"order": order()}, None),
    ("outpost_spawn", {"order": order()}, {"id": "gt-1.1", "state": "sleeping"}),
    ("outpost_list", {}, []),
    ("outpost_list", {}, {"workers": None, "next": None}),
    ("outpost_list", {}, {"workers": [7], "next": None}),
    ("outpost_list", {}, {"workers": [{"id": [], "state": "done"}], "next": None}),
    ("outpost_list", {}, {"workers": [STATUS], "next": 7}),
    ("outpost_list", {}, {"workers": [STATUS], "next": "again"}),
    ("outpost_list", {}, {"workers": [], "next": "more"}),
    ("outpost_ping", {}, {"ok": "yes"}),
    ("outpost_peek", {"worker": "gt-1.1", "lines": 3}, {"text": 7}),
    ("viewer", {"worker": "gt-1.1"}, {"argv": []}),
    ("viewer", {"worker": "gt-1.1"}, {"argv": "tmux"}),
    ("viewer", {"worker": "gt-1.1"}, {"argv": ["tmux", 7]}),
    ("viewer", {"worker": "gt-1.1"}, {"argv": ["tm\0ux"]}),
]


@pytest.mark.parametrize(("call", "args", "result"), ODD, ids=repr)
def test_an_odd_answer_is_the_programs_defect_and_no_fact(
    call: str, args: dict[str, Any], result: Json
) -> None:
    error = raised(call, answers(result), **args)
    assert isinstance(error, PluginError)
    assert "something odd" in error.message


@pytest.mark.parametrize(
    "result",
    [None, {"data": 7, "end": False}, {"data": "=", "end": False}, {"data": "", "end": 0},
     {"data": "é", "end": False}, {"data": "A" * 1_047_600, "end": False}],
    ids=lambda result: repr(result)[:40],
)  # fmt: skip
def test_an_odd_piece_of_a_log_is_refused(result: Json) -> None:
    async def run() -> None:
        outpost = Scripted(answers(result))
        with pytest.raises(PluginError):
            await read(outpost)
        await outpost.end()

    asyncio.run(run())


# --- half-open lines ------------------------------------------------------------------------------


def test_a_call_given_up_after_silence_drops_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller, "SILENCE", 0.05)

    async def run() -> None:
        outpost = Scripted(silence, answers({"ok": True}))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(outpost.outpost_ping(), 0.2)
        assert len(outpost.given) == 1
        assert (await outpost.outpost_ping()).ok
        await outpost.end()

    asyncio.run(run())


def test_a_call_given_up_soon_keeps_the_line() -> None:
    async def run() -> None:
        outpost = Scripted(silence)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(outpost.outpost_ping(), 0.05)
        assert outpost.given == []
        assert not (await outpost.client()).closed.is_set()
        await outpost.end()

    asyncio.run(run())


# --- lists ----------------------------------------------------------------------------------------


def test_ten_thousand_workers_are_listed_and_known_ones_are_not_built_again() -> None:
    async def run() -> None:
        inner = Inner()
        inner.statuses = [
            WorkerStatus(id=f"gt-{n}.1", state=State.DONE, digest="d" * 64) for n in range(10_000)
        ]
        async with served(inner) as outpost:
            first = await outpost.outpost_list()
            assert first == inner.statuses
            again = await outpost.outpost_list()
            assert all(one is two for one, two in zip(first, again, strict=True))

    asyncio.run(run())


def test_a_list_that_is_forgotten_between_its_pages_is_read_from_the_start() -> None:
    async def first(peer: Peer) -> None:
        asked = await peer.heard()
        await peer.say({"id": asked["id"], "result": {"workers": [STATUS], "next": "1:1"}})
        asked = await peer.heard()
        peer.close()

    async def second(peer: Peer) -> None:
        async for asked in peer.requests():
            if asked.get("params", {}).get("after"):
                told: Json = {"kind": "not_found", "message": "not known any more"}
                await peer.say({"id": asked["id"], "error": told})
            elif asked.get("method") == "list":
                await peer.say({"id": asked["id"], "result": {"workers": [], "next": None}})

    async def run() -> None:
        outpost = Scripted(first, second)
        assert await outpost.outpost_list() == []
        await outpost.end()

    asyncio.run(run())


# --- logs -----------------------------------------------------------------------------------------


def test_a_log_is_byte_exact_across_lines_that_break_at_random(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote.Pause, "longer", lambda self: asyncio.sleep(0.001))
    chance = random.Random(7)
    whole = chance.randbytes(3_000_000)

    async def grow(inner: Inner) -> None:
        while len(inner.text) < len(whole):
            inner.text = whole[: len(inner.text) + chance.randrange(1, 60_000)]
            await asyncio.sleep(0.001)
        inner.over = True

    async def cut(outpost: Served) -> None:
        while True:
            await asyncio.sleep(chance.random() * 0.01)
            outpost.break_line()

    async def run() -> None:
        inner = Inner()
        async with served(inner) as outpost:
            growing = asyncio.create_task(grow(inner))
            cutting = asyncio.create_task(cut(outpost))
            got = await asyncio.wait_for(read(outpost, follow=True), 60)
            cutting.cancel()
            await growing
            assert got == whole
            assert outpost.connects > 3

    asyncio.run(run())


def test_a_follower_waits_for_an_outpost_that_is_away_and_a_reader_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote.Pause, "longer", lambda self: asyncio.sleep(0.001))

    async def run() -> None:
        outpost = Scripted()
        with pytest.raises(UnreachableError):
            await read(outpost)
        following = asyncio.create_task(read(outpost, follow=True))
        await asyncio.sleep(0.05)
        assert not following.done()
        outpost.plays = [answers({"data": "", "end": True})]
        assert await asyncio.wait_for(following, 5) == b""
        await outpost.end()

    asyncio.run(run())


def test_an_outpost_that_was_closed_is_not_opened_again_by_those_who_still_follow_or_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote.Pause, "longer", lambda self: asyncio.sleep(0.001))

    class Slow(Inner):
        async def outpost_ping(self) -> Health:
            await asyncio.sleep(1)
            return Health(ok=True)

    async def run() -> None:
        async with served(Slow()) as outpost:
            tasks = [
                asyncio.create_task(read(outpost, follow=True)),
                asyncio.create_task(outpost.outpost_ping()),
            ]
            await asyncio.sleep(0.1)
            await outpost.outpost_close()
            for end in await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5):
                assert isinstance(end, UnreachableError)
            assert outpost.connects == 1

    asyncio.run(run())


def test_a_log_of_nobody_is_not_found_followed_or_not() -> None:
    async def run() -> None:
        async with served(Inner()) as outpost:
            for follow in (False, True):
                with pytest.raises(NotFoundError):
                    async for _ in outpost.outpost_logs(worker="x.1", offset=0, follow=follow):
                        pass

    asyncio.run(run())


def test_more_followers_than_places_leave_room_for_other_calls() -> None:
    async def run() -> None:
        inner = Inner()
        async with served(inner) as outpost:
            followers = [asyncio.create_task(read(outpost, follow=True)) for _ in range(80)]
            await asyncio.sleep(0.1)
            assert (await asyncio.wait_for(outpost.outpost_ping(), 10)).ok
            inner.text, inner.over = b"the end", True
            assert set(await asyncio.wait_for(asyncio.gather(*followers), 60)) == {b"the end"}

    asyncio.run(run())


def test_a_server_that_takes_one_request_at_a_time_is_polled() -> None:
    waits = []

    async def one_by_one(peer: Peer) -> None:
        async for asked in peer.requests():
            if asked.get("method") == "logs":
                waits.append(asked["params"]["wait"])
                over = len(waits) > 3
                await peer.say({"id": asked["id"], "result": {"data": "", "end": over}})

    async def run() -> None:
        outpost = Scripted(one_by_one, inflight=1)
        assert await read(outpost, follow=True) == b""
        assert waits == [0.0] * 4
        await outpost.end()

    asyncio.run(run())


def test_a_follower_that_leaves_breaks_its_request_off() -> None:
    async def run() -> None:
        inner = Inner()
        inner.text = b"early"
        async with served(inner) as outpost:
            stream = outpost.outpost_logs(worker="gt-1.1", offset=0, follow=True)
            async with aclosing(stream):
                assert await anext(stream) == b"early"
            client = await outpost.client()
            await asyncio.wait_for(client.call("ping"), 5)
            for _ in range(500):
                if not client._waiting:
                    break
                await asyncio.sleep(0.01)
            assert not client._waiting

    asyncio.run(run())


# --- a server that is a process, killed -----------------------------------------------------------

PROGRAM = Path(__file__).parents[2] / "plugins" / "outpost_exec" / "tests" / "served.py"


class Process(StdioOutpost):
    """An outpost in a process that a test kills."""

    type = "process"
    capabilities = frozenset({"secrets"})

    def __init__(self, root: Path, fault: str = "") -> None:
        super().__init__("vm1", OutpostOptions(), BuildContext(state_dir=root))
        self.faults = [fault]
        self.processes: list[asyncio.subprocess.Process] = []

    async def connect(self) -> Client:
        fault = self.faults.pop() if self.faults else ""
        env = {"PATH": "/usr/bin:/bin", "OUTPOST_STATE_DIR": str(self.context.state_dir)}
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(PROGRAM), "reference",
            stdin=pipe, stdout=pipe, env=env | {"OUTPOST_FAULT": fault}, limit=1 << 20,
        )  # fmt: skip
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdin is not None
        return await Client.start(
            "vm1", process.stdout, process.stdin, name="vm1", options={}, timeout=20
        )

    async def end(self) -> list[int | None]:
        await self.outpost_close()
        return [await process.wait() for process in self.processes]


async def ended(outpost: StdioOutpost, worker: str) -> WorkerStatus:
    for _ in range(1500):
        for status in await outpost.outpost_list():
            if status.id == worker and status.state.terminal:
                return status
        await asyncio.sleep(0.02)
    raise AssertionError("it did not end")


@pytest.mark.parametrize("fault", ["local.staged", "local.published", "local.launched"])
def test_a_server_killed_in_the_middle_of_a_spawn_leaves_one_worker_that_runs_once(
    fault: str, tmp_path: Path
) -> None:
    async def run() -> None:
        one, two = Process(tmp_path / "state", fault), Process(tmp_path / "state")
        runs = tmp_path / "runs"
        asked = order("gt-1", "/bin/sh", "-c", f"echo run >>{runs}")
        await one.outpost_spawn(asked)
        assert len(one.processes) == 2
        await two.outpost_spawn(asked)  # another program adopts it
        status = await ended(two, asked.worker)
        assert status.state is State.DONE
        assert runs.read_text() == "run\n"
        assert (await one.end(), await two.end()) == ([-9, 0], [0])

    asyncio.run(run())


def test_a_followed_log_survives_servers_that_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote.Pause, "longer", lambda self: asyncio.sleep(0.001))
    chance = random.Random(11)

    async def kill(outpost: Process) -> None:
        for _ in range(5):
            await asyncio.sleep(0.3 + chance.random() * 0.3)
            with suppress(ProcessLookupError):
                outpost.processes[-1].kill()

    async def run() -> None:
        outpost = Process(tmp_path / "state")
        script = 'n=0; while [ $n -lt 300 ]; do echo "line $n"; sleep 0.01; n=$((n+1)); done'
        asked = order("gt-1", "/bin/sh", "-c", script)
        await outpost.outpost_spawn(asked)
        killing = asyncio.create_task(kill(outpost))
        got = await asyncio.wait_for(read(outpost, follow=True), 60)
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
        assert got == "".join(f"line {n}\n" for n in range(300)).encode()
        assert len(outpost.processes) > 1
        await outpost.end()

    asyncio.run(run())


def test_a_list_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_MOST_ITEMS", 50)

    class Endless(Served):
        pages = 0

        async def call(self, method: str, *_: Any, **__: Any) -> Json:
            self.pages += 1
            one: Json = {"id": f"a-{self.pages}.1", "state": "working", "digest": "d"}
            return {"workers": [one] * 10, "next": str(self.pages)}

    async def run() -> None:
        outpost = Endless(Bare())
        with pytest.raises(PluginError, match="without an end"):
            await outpost.outpost_list()
        assert outpost.pages == 5

    asyncio.run(run())
