"""What plugins may answer, and what nonsense of theirs breaks: nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from managerkit import Make, order, run

from outpost_core.agents import AgentPreset
from outpost_core.discovery import PluginReport
from outpost_core.errors import (
    NotFoundError,
    OutpostError,
    PlacementError,
    PluginError,
    SpawnRefusedError,
)
from outpost_core.hookspecs import hookimpl
from outpost_core.names import RIG_CREDENTIAL
from outpost_core.types import Agent, Candidate, Issue, Order, Result, Secrets, State, WorkerStatus
from outpost_core.wire import digest
from outpost_manager.doctor import examine
from outpost_manager.manager import Manager
from outpost_manager.orders.making import OrderRequest
from outpost_testing import FakeOutpost


@pytest.mark.parametrize("answer", [None, "text", [None]])
def test_an_answer_that_is_none_is_its_outposts_error(make: Make, answer: Any) -> None:
    class Odd(FakeOutpost):
        @hookimpl
        async def outpost_list(self) -> Any:
            return answer

        @hookimpl
        async def outpost_spawn(self, order: Order) -> Any:
            return answer

    a, b = Odd("a"), FakeOutpost("b")

    async def body(manager: Manager) -> None:
        with pytest.raises(OutpostError, match="'a' answered"):
            await manager.spawn(order("gt-1"))
        await manager.spawn(order("gt-2"), on="b")
        assert {v.name: v.state for v in await manager.refresh()}["b"] == "ready"

    run(make(a, b), body)


def test_a_worker_that_is_told_of_oddly_is_there_and_is_not_started_elsewhere(make: Make) -> None:
    class Odd(FakeOutpost):
        @hookimpl
        async def outpost_list(self) -> Any:
            return [WorkerStatus(id="gt-1.1", state="sleeping")]  # type: ignore[arg-type]

        @hookimpl
        async def outpost_spawn(self, order: Order) -> Any:
            return None

    b = FakeOutpost("b")

    async def body(manager: Manager) -> None:
        worker = (await manager.spawn(order("gt-1"))).worker
        assert worker.outpost == "a"
        assert worker.detail == "broken: it says what cannot be as its state, 'sleeping'"
        assert not b.calls

    run(make(Odd("a"), b), body)


@pytest.mark.parametrize("verb", ["clean", "peek", "doctor"])
def test_a_verb_that_answers_nothing_is_its_outposts_error(make: Make, verb: str) -> None:
    class Empty(FakeOutpost):
        @hookimpl
        async def outpost_clean(self, worker: str, force: bool) -> Any: ...

        @hookimpl
        async def outpost_peek(self, worker: str, lines: int) -> Any: ...

        @hookimpl
        async def outpost_doctor(self) -> Any: ...

    a = Empty("a")

    async def body(manager: Manager) -> None:
        await manager.spawn(order())
        a.finish("gt-1.1")
        if verb == "doctor":
            found = await examine(manager, "a")
            assert any("outpost_doctor" in finding.detail for _, finding in found)
        else:
            with pytest.raises(PluginError, match=f"outpost_{verb} of 'a' answered a NoneType"):
                await getattr(manager, verb)("gt-1")

    run(make(a), body)


@pytest.mark.parametrize(
    "field", [{"detail": None}, {"digest": 7}, {"id": 7}, {"started_at": "now"}, {"result": {}}]
)
def test_a_status_with_an_odd_field_breaks_only_its_worker(
    make: Make, field: dict[str, Any]
) -> None:
    class Odd(FakeOutpost):
        @hookimpl
        async def outpost_list(self) -> Sequence[WorkerStatus]:
            odd: dict[str, Any] = {"id": "gt-9.1", "state": State.WORKING, **field}
            return [WorkerStatus(**odd)]

    a, b = Odd("a"), FakeOutpost.holding("b", 2)

    async def body(manager: Manager) -> None:
        workers = {worker.id: worker for worker in await manager.workers()}
        named = "id" not in field
        assert len(workers) == 2 + named
        if named:
            assert workers["gt-9.1"].state is State.WORKING
            said = workers["gt-9.1"].detail
            assert said.startswith("broken: it says what cannot be")
        else:
            said = (await manager.outposts())[0].detail
            assert said == "it tells of what is no worker: 7 is not the id of a worker"
        assert next(iter(field)) in said

    run(make(a, b), body)


def test_a_result_that_cannot_be_kept_poisons_no_listing(make: Make) -> None:
    a = FakeOutpost("a")
    odd: Any = "0"

    async def body(manager: Manager) -> None:
        await manager.spawn(order("gt-1"))
        await manager.spawn(order("gt-2"))
        a.finish("gt-1.1", Result(state=State.FAILED, exit_code=odd))
        a.finish("gt-2.1", Result(state=State.DONE, branch=b"x"))  # type: ignore[arg-type]
        workers = {w.id: w for w in await manager.workers(all=True)}
        assert [workers[i].state for i in ("gt-1.1", "gt-2.1")] == [State.LOST, State.LOST]
        result = workers["gt-1.1"].result
        assert result is not None
        assert (result.reason, "exit_code" in result.message) == ("broken", True)

    run(make(a), body)


def test_what_is_no_unicode_breaks_no_ledger(make: Make) -> None:
    half = "caf\udce9 \ud800"
    a, b = FakeOutpost("a"), FakeOutpost("b")
    wanted = Order(issue=Issue(id="gt-1", title=half), agent=Agent(argv=("true",), name=half))

    async def body(manager: Manager) -> None:
        await manager.spawn(wanted, on="b")
        b.put(WorkerStatus(id="gt-1.1", state=State.WORKING, detail=half, digest=digest(wanted)))
        b.put(WorkerStatus(id=half, state=State.WORKING))
        a.cut(half)
        await manager.refresh()
        (worker,) = await manager.workers()
        assert (worker.title, worker.detail) == ("caf? ?", "caf? ?")
        assert (await manager.outposts())[0].state == "unreachable"
        assert (await manager.spawn(wanted)).adopted

    run(make(a, b), body)


def test_an_outpost_that_breaks_off_breaks_nobody(make: Make) -> None:
    class Breaks(FakeOutpost):
        @hookimpl
        async def outpost_list(self) -> Sequence[WorkerStatus]:
            raise asyncio.CancelledError

        @hookimpl
        async def outpost_close(self) -> None:
            raise RuntimeError("no")

    async def body(manager: Manager) -> None:
        await manager.refresh()
        assert [v.state for v in (await manager.outposts())] == ["unreachable", "ready"]

    run(make(Breaks("a"), FakeOutpost("b")), body)


def test_a_secret_in_a_plugins_error_is_masked(make: Make) -> None:
    class Talks(FakeOutpost):
        @hookimpl
        async def outpost_spawn(self, order: Order) -> WorkerStatus:
            raise SpawnRefusedError(f"env was {dict(order.secrets)}")

    async def body(manager: Manager) -> None:
        with pytest.raises(PlacementError) as caught:
            await manager.spawn(order(secrets=Secrets({"KEY": "hunter22"})))
        assert "hunter22" not in str(caught.value)
        assert "***" in str(caught.value)
        assert "hunter22" not in str(await manager.ledger.events())

    run(make(Talks("a")), body)


def test_a_secret_in_the_error_of_a_price_or_a_policy_is_masked(make: Make) -> None:
    secrets = Secrets(
        {"SHORT": "hunter", "LONG": "hunter22", RIG_CREDENTIAL: "https://me:passw0rd@h"}
    )

    class Talks(FakeOutpost):
        @hookimpl
        def outpost_price(self, order: Order) -> float:
            raise RuntimeError(f"{dict(order.secrets)} and passw0rd alone")

    class Policy:
        @hookimpl
        def outpost_assign(self, order: Order, candidates: Sequence[Candidate]) -> Any:
            if order.issue.id == "gt-2":
                raise RuntimeError(f"{dict(order.secrets)} and passw0rd alone")

    async def body(manager: Manager) -> None:
        spawned = await manager.spawn(order(secrets=secrets))
        passed_over = await manager.spawn(order("gt-2", secrets=secrets))
        assert "the policy of extra failed and was passed over" in passed_over.explanation.notes[0]
        kept = str(await manager.ledger.explanation("gt-1.1"))
        file = (manager.state / "plugin-errors.json").read_text()
        assert "outpost_assign" in file
        assert "outpost_price" in file
        for text in (str(spawned.explanation), kept, str(passed_over.explanation), file):
            assert "***" in text
            for secret in ("hunter", "***22", "passw0rd"):
                assert secret not in text

    run(make(Talks("a"), FakeOutpost("b"), plugin=Policy()), body)


def test_presets_of_plugins_win_in_pluggys_order_and_odd_ones_are_left_out(make: Make) -> None:
    def preset(word: str) -> AgentPreset:
        return AgentPreset(name="own", headless=(word,), interactive=None)

    class First:
        @hookimpl(tryfirst=True)
        def outpost_agents(self) -> Any:
            return {"own": preset("first"), "claude": preset("mine"), "odd": "text"}

    class Later:
        @hookimpl
        def outpost_agents(self) -> Any:
            return {"own": preset("later"), "more": preset("more")}

    class Nonsense:
        @hookimpl
        def outpost_agents(self) -> Any:
            return 7

    manager = make(FakeOutpost("a"), plugin=First())
    for number, plugin in enumerate((Later(), Nonsense())):
        manager.plugins.add(plugin, PluginReport(entry_point=f"more{number}"))
    found = manager.agents()
    assert (found["own"].headless, found["claude"].headless) == (("first",), ("mine",))
    assert {"more", "codex"} <= found.keys()
    assert "odd" not in found
    assert len(manager.observer_errors) == 2
    manager.close()


def test_an_error_of_a_source_of_issues_is_its_answer_and_a_mistake_is_not(make: Make) -> None:
    class Source:
        error: Exception = NotFoundError("x-1 is not a whole id", hint="outpost spawn x-1a")

        @hookimpl
        def outpost_issue(self, issue_id: str, rig: str | None) -> Any:
            raise self.error

    source = Source()
    request = OrderRequest(issue="x-1", no_rig=True, agent="claude")

    async def body(manager: Manager) -> None:
        with pytest.raises(NotFoundError, match="not a whole id"):
            await manager.order(request)
        assert not manager.observer_errors
        for mistake in (ValueError("no"), PluginError("no")):
            source.error = mistake
            told = replace(request, prompt="do it")
            assert (await manager.order(told)).issue.id == "x-1"
        assert len(manager.observer_errors) == 2

    run(make(FakeOutpost("a"), plugin=source), body)


def test_beads_is_asked_by_the_hook_of_all_sources_and_as_the_last(make: Make) -> None:
    class Source:
        @hookimpl
        def outpost_issue(self, issue_id: str, rig: str | None) -> Any:
            return None

    manager = make(FakeOutpost("a"), plugin=Source())
    hooks = manager.plugins.pm.hook.outpost_issue.get_hookimpls()
    names = [implementation.plugin_name for implementation in reversed(hooks)]
    assert names == ["package:extra", "package:manager"]
    manager.close()
