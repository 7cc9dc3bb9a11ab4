"""What outposts have decides where an order goes: agents, cores, memory."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ourplugins import ours

from outpost_agents.presets import PRESETS
from outpost_core.backend import OutpostOptions
from outpost_core.discovery import PluginReport
from outpost_core.errors import PlacementError, UnreachableError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Agent, Facts, Issue, Limits, Order, Result, Secrets, State
from outpost_manager.config import load_config
from outpost_manager.fleet.overview import slots_of
from outpost_manager.fleet.resources import FILE
from outpost_manager.manager import Manager
from outpost_testing import FakeOutpost, fake_backend

GIB = 2**30


class Place(FakeOutpost):
    """A fake that says what it has, and counts how often it is asked."""

    def __init__(self, name: str, facts: Facts | None, **more: Any) -> None:
        super().__init__(name, **more)
        self.facts = facts
        self.asked = 0

    @hookimpl
    async def outpost_facts(self, programs: Sequence[str]) -> Facts:
        self.asked += 1
        if self.facts is None:
            raise UnreachableError("nobody there")
        known = self.facts.programs
        return Facts(
            cpus=self.facts.cpus,
            memory=self.facts.memory,
            programs={name: known.get(name, "") for name in programs},
            logins=self.facts.logins,
        )


def place(name: str, *programs: str, cpus: float | None = 4, memory: int | None = 8 * GIB) -> Place:
    return Place(name, Facts(cpus=cpus, memory=memory, programs={p: f"/bin/{p}" for p in programs}))


def manage(folder: Path, *outposts: FakeOutpost, slots: str = "") -> Manager:
    backend = fake_backend({outpost.name: outpost for outpost in outposts})

    class Package:
        @hookimpl
        def outpost_backends(self):
            return {"fake": backend}

    plugins = ours()
    plugins.add(Package(), PluginReport(entry_point="fake"))
    path = folder / "outposts.yaml"
    entries = ", ".join(f"{{name: {outpost.name}, type: fake{slots}}}" for outpost in outposts)
    path.write_text(f"outposts: [{entries}]\n")
    return Manager(load_config(path, plugins.backends), plugins, folder / "state", {}, folder)


def order(issue: str = "x-1", agent: str = "claude", **limits: Any) -> Order:
    argv = PRESETS[agent].headless if agent in PRESETS else (agent,)
    assert argv is not None
    return Order(issue=Issue(id=issue), agent=Agent(name=agent, argv=argv), limits=Limits(**limits))


def spawn(folder: Path, orders: Sequence[Order], *outposts: FakeOutpost, **more: Any) -> list[Any]:
    async def edge() -> list[Any]:
        async with manage(folder, *outposts, **more) as manager:
            answers = await manager.spawn_many(orders)
            return [a if isinstance(a, Exception) else a.worker.outpost for a in answers]

    return asyncio.run(edge())


def test_an_order_goes_where_its_agent_is(tmp_path: Path) -> None:
    first, second = place("first"), place("second", "claude")
    assert spawn(tmp_path, [order()], first, second) == ["second"]


def test_an_agent_that_is_nowhere_is_refused_with_its_install_command(tmp_path: Path) -> None:
    here, there = place("here"), place("there", "codex")

    async def edge() -> None:
        async with manage(tmp_path, here, there) as manager:
            (error,) = await manager.spawn_many([order()])
            assert isinstance(error, PlacementError)
            assert "here: claude is not installed there" in error.message
            assert "npm install -g @anthropic-ai/claude-code" in error.hint
            assert (await manager.ledger.workers()) == [], "nothing was reserved"

    asyncio.run(edge())


def test_a_bare_command_and_a_path_of_its_own_ask_nobody(tmp_path: Path) -> None:
    here = place("here")
    bare = Order(issue=Issue(id="x-1"), agent=Agent(argv=("nowhere",)))
    own = Order(
        issue=Issue(id="x-2"), agent=Agent(name="claude", argv=("claude",)), env={"PATH": "/x"}
    )
    assert spawn(tmp_path, [bare, own], here) == ["here", "here"]
    assert here.asked == 0


def test_what_was_answered_holds_for_the_next_program_and_missing_is_asked_again(
    tmp_path: Path,
) -> None:
    here, there = place("here"), place("there", "claude")
    assert spawn(tmp_path, [order("x-1")], here, there) == ["there"]
    assert spawn(tmp_path, [order("x-2")], here, there) == ["there"]
    assert (here.asked, there.asked) == (2, 1), "it may have been installed since"
    here.facts = Facts(programs={"claude": "/bin/claude"})
    assert spawn(tmp_path, [order("x-3")], here, there) == ["here"]
    file = tmp_path / "state" / FILE
    assert file.stat().st_mode & 0o777 == 0o600
    said = json.loads(file.read_text())
    said["here"]["at"] = time.time() - 7200
    file.write_text(json.dumps(said))
    asked = here.asked
    assert spawn(tmp_path, [order("x-4")], here, there) == ["here"]
    assert here.asked == asked + 1


@pytest.mark.parametrize("content", ["", "[]", '{"here": 5}', '{"here": {"at": "x"}}', "[" * 9999])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / FILE).write_text(content)
    assert spawn(tmp_path, [order()], place("here"), place("there", "claude")) == ["there"]


def test_who_does_not_answer_or_has_no_such_hook_is_tried(tmp_path: Path) -> None:
    assert spawn(tmp_path, [order()], Place("here", None)) == ["here"]
    assert spawn(tmp_path, [order("x-2")], FakeOutpost("plain")) == ["plain"]


def test_only_those_are_asked_that_the_orders_would_go_to(tmp_path: Path) -> None:
    places = [place(name, "claude") for name in ("a", "b", "c")]
    found = spawn(tmp_path, [order("x-1"), order("x-2")], *places, slots=", max_workers: 1")
    assert found == ["a", "b"]
    assert [one.asked for one in places] == [1, 1, 0]


def test_a_run_that_did_not_find_its_agent_makes_it_be_asked_again(tmp_path: Path) -> None:
    here = place("here", "claude")

    async def edge() -> None:
        async with manage(tmp_path, here) as manager:
            await manager.spawn_many([order("x-1")])
            assert "claude" in (await manager.presence.facts())["here"].programs
            here.finish("x-1.1", Result(state=State.FAILED, reason="command_not_found"))
            await manager.refresh()
            assert "here" not in (await manager.presence.facts())

    asyncio.run(edge())


@pytest.mark.parametrize(
    ("limits", "where"),
    [
        ({"cpu": 2.0}, "small"),
        ({"cpu": 8.0}, "large"),
        ({"memory": 16 * GIB}, "large"),
        ({"cpu": 2.0, "memory": 16 * GIB}, "large"),
    ],
)
def test_cores_and_memory_filter(tmp_path: Path, limits: dict[str, Any], where: str) -> None:
    small, large = place("small"), place("large", cpus=16, memory=64 * GIB)
    wish = Order(issue=Issue(id="x-1"), agent=Agent(argv=("x",)), limits=Limits(**limits))
    assert spawn(tmp_path, [wish], small, large) == [where]


def test_what_nobody_has_or_knows_is_refused_with_the_figures(tmp_path: Path) -> None:
    wish = Order(issue=Issue(id="x-1"), agent=Agent(argv=("x",)), limits=Limits(cpu=32.0))
    (error,) = spawn(tmp_path, [wish], place("small"), place("unknown", cpus=None))
    assert isinstance(error, PlacementError)
    assert "small: has 4 cores, and 32 were asked for" in error.message
    assert "unknown: nobody knows whether it has the 32 cores" in error.message


def test_explain_says_what_is_missing(tmp_path: Path) -> None:
    async def edge() -> dict[str, str]:
        async with manage(tmp_path, place("here"), place("there", "claude")) as manager:
            explained = await manager.explain(order())
            return {verdict.outpost: verdict.reason for verdict in explained.verdicts}

    reasons = asyncio.run(edge())
    assert reasons["here"] == "claude is not installed there"
    assert reasons["there"] == "file order"


class Sized(OutpostOptions):
    def default_slots(self) -> tuple[int, str]:
        return 4, "2 cores"


def test_slots_by_size_hold_once_there_is_somewhere_else_to_go(tmp_path: Path) -> None:
    from outpost_manager.config.model import Config, OutpostConfig

    def entry(name: str, options: OutpostOptions | None, **raw: Any) -> OutpostConfig:
        return OutpostConfig(name=name, type="t", options=options, raw=raw)

    local, other = entry("local", Sized()), entry("other", OutpostOptions())
    closed, missing = entry("closed", OutpostOptions(max_workers=0)), entry("m", None)
    said = entry("said", Sized(max_workers=9))
    assert slots_of(local, Config(outposts=(local,))) == (None, "")
    assert slots_of(local, Config(outposts=(local, closed, missing))) == (None, "")
    assert slots_of(local, Config(outposts=(local, other))) == (4, "2 cores")
    assert slots_of(other, Config(outposts=(local, other))) == (None, "")
    assert slots_of(said, Config(outposts=(said, other))) == (9, "")
    raw = entry("m", None, max_workers=3)
    assert slots_of(raw, Config(outposts=(raw, other))) == (3, "")


def test_an_attempt_goes_where_the_work_is_that_it_goes_on_from(tmp_path: Path) -> None:
    """A bundle that the rig did not take is at one outpost; elsewhere it would start anew."""
    bare = Agent(argv=("x",))
    first = Order(issue=Issue(id="x-1"), agent=bare)
    again = Order(issue=Issue(id="x-2"), agent=bare, resume_at="there")
    assert spawn(tmp_path, [first, again], place("here"), place("there")) == ["here", "there"]
    gone = Order(issue=Issue(id="x-3"), agent=bare, resume_at="elsewhere")

    async def edge() -> PlacementError:
        async with manage(tmp_path, place("here")) as manager:
            (error,) = await manager.spawn_many([gone])
            assert isinstance(error, PlacementError)
            return error

    error = asyncio.run(edge())
    assert "here: the work that it continues from is kept at elsewhere alone" in error.message
    assert "--from-base" in error.hint


def test_explain_says_that_no_login_was_seen_unless_keys_come_along(tmp_path: Path) -> None:
    facts = Facts(programs={"claude": "/bin/claude"}, logins={"claude": False})

    async def edge(wish: Order) -> str:
        async with manage(tmp_path, Place("here", facts)) as manager:
            return (await manager.explain(wish)).verdicts[0].reason

    assert asyncio.run(edge(order())).endswith("; no login of claude was seen there")
    keyed = replace(order(), secrets=Secrets({"ANTHROPIC_API_KEY": "k"}))
    assert "login" not in asyncio.run(edge(keyed))
