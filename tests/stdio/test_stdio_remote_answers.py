"""What the other half may answer: lists in pages, and nonsense that is its defect and no fact."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from remotekit import STATUS, Inner, Scripted, answers, raised, read, silence
from stdiokit import Bare, Peer, Served, order, served

from outpost_core.errors import PluginError, UnreachableError, UnsupportedError
from outpost_core.types import Json, State, WorkerStatus
from outpost_exec.stdio import remote


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


def test_a_server_that_never_says_how_a_worker_is_shown_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "_VIEWER", 0.3)

    async def run() -> None:
        outpost = Scripted(silence, silence)
        with pytest.raises(UnreachableError, match="did not answer viewer"):
            await asyncio.wait_for(outpost.viewer("gt-1.1"), 60)
        await outpost.end()

    asyncio.run(run())
