"""The manager over fake outposts: placing, falling back, adopting, following, and crashes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from outpost_core.agents import AgentPreset
from outpost_core.errors import (
    ConflictError,
    LedgerError,
    NotFoundError,
    OutpostError,
    PlacementError,
    PluginError,
    SpawnRefusedError,
    UnreachableError,
    UnsupportedError,
    UsageError,
)
from outpost_core.hookspecs import hookimpl
from outpost_core.ledger import Reservation
from outpost_core.manager import Manager
from outpost_core.orders import OrderRequest
from outpost_core.plugins import PluginReport, Plugins
from outpost_core.testing import FakeOutpost, fake_backend
from outpost_core.testing.fake import FakeOptions, Script
from outpost_core.ticket import Spawned
from outpost_core.types import (
    Agent,
    Candidate,
    Event,
    Issue,
    Order,
    Result,
    Secrets,
    State,
    WorkerStatus,
)
from outpost_core.wire import digest
from outpost_core.worker.files import RIG_CREDENTIAL

Make = Callable[..., Manager]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a maker of managers; calling it again is another process on the same state."""

    def build(
        *fakes: FakeOutpost,
        config: str = "",
        environ: dict[str, str] | None = None,
        plugin: Any = None,
    ) -> Manager:
        backend = fake_backend({fake.name: fake for fake in fakes})
        plugins = Plugins.load([])
        plugins.backends["fake"] = backend
        plugins.homes["fake"] = PluginReport(
            entry_point="fake", package="outpost-fake", version="1"
        )
        if plugin is not None:
            plugins.add(plugin, PluginReport(entry_point="extra"))
        names = "".join(
            f"  - {{name: {f.name}, type: fake, max_workers: {f.options.max_workers or 99}}}\n"
            for f in fakes
        )
        file = tmp_path / "outposts.yaml"
        file.write_text(config or f"outposts:\n{names}")
        return Manager.open(
            config=file,
            state=tmp_path / "state",
            environ=environ or {},
            cwd=tmp_path,
            plugins=plugins,
        )

    return build


def order(issue: str = "gt-1", **more: Any) -> Order:
    return Order(issue=Issue(id=issue), agent=Agent(argv=("true",)), **more)


def run(manager: Manager, coroutine: Callable[[Manager], Any]) -> Any:
    async def body() -> Any:
        async with manager:
            return await coroutine(manager)

    return asyncio.run(body())


def test_the_first_in_the_file_takes_it_and_the_reason_is_kept(make: Make) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")
    seen: list[Event] = []

    async def body(manager: Manager) -> None:
        spawned = await manager.spawn(order(), progress=seen.append)
        assert (spawned.worker.outpost, spawned.adopted) == ("a", False)
        kept = manager.ledger.explanation("gt-1.1")
        assert kept is not None
        assert [(v.outpost, v.rank) for v in kept.verdicts] == [("a", 1), ("b", 2)]

    run(make(a, b), body)
    assert [event.kind for event in seen] == ["placed", "reserved", "starting", "spawned"]


def test_a_refusal_and_a_cut_line_fall_back_with_their_reasons(make: Make) -> None:
    a, b, c = FakeOutpost("a"), FakeOutpost("b"), FakeOutpost("c")
    a.refuse("no memory")
    b.cut("no route")

    async def body(manager: Manager) -> None:
        spawned = await manager.spawn(order())
        assert spawned.worker.outpost == "c"
        assert [name for name, _ in spawned.explanation.attempts] == ["a", "b"]
        assert "no memory" in spawned.explanation.attempts[0][1]
        assert manager.ledger.active() == {"c": 1}
        assert [v.state for v in manager.outposts()] == ["unknown", "unreachable", "unknown"]

    run(make(a, b, c), body)


def test_an_unreachable_outpost_is_avoided_for_a_while(make: Make) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")
    a.cut()

    async def body(manager: Manager) -> None:
        await manager.spawn(order("gt-1"))
        asked = len(a.calls)
        await manager.spawn(order("gt-2"))
        assert len(a.calls) == asked, "it was not asked again"

    run(make(a, b), body)


def test_when_nobody_takes_it_nothing_stays_and_each_reason_is_said(make: Make) -> None:
    a, b = FakeOutpost("a", FakeOptions(capabilities=())), FakeOutpost("b")
    b.refuse("full house")

    async def body(manager: Manager) -> None:
        with pytest.raises(PlacementError) as caught:
            await manager.spawn(order(rig="https://example.com/x.git"))
        assert "full house" in str(caught.value)
        assert "a: cannot" in str(caught.value)
        assert caught.value.exit_code == 3
        assert manager.ledger.worker("gt-1.1") is None
        assert manager.ledger.active() == {}
        b.refuse("")
        assert (await manager.spawn(order(rig="https://example.com/x.git"))).worker.outpost == "b"

    run(make(a, b), body)


def test_the_same_order_is_the_same_worker_and_another_is_a_conflict(make: Make) -> None:
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        await manager.spawn(order())
        again = await manager.spawn(order())
        assert again.adopted
        with pytest.raises(ConflictError, match="another order"):
            await manager.spawn(order(prompt="something else"))
        assert [hook for hook, _ in a.calls].count("outpost_spawn") == 1

    run(make(a), body)


def test_many_at_once_fill_the_slots_in_order(make: Make) -> None:
    a, b = (
        FakeOutpost("a", FakeOptions(max_workers=3)),
        FakeOutpost("b", FakeOptions(max_workers=4)),
    )

    async def body(manager: Manager) -> None:
        answers = await manager.spawn_many([order(f"gt-{i}") for i in range(10)])
        places = [x.worker.outpost for x in answers if isinstance(x, Spawned)]
        assert (places.count("a"), places.count("b")) == (3, 4)
        refused = [x for x in answers if isinstance(x, OutpostError)]
        assert len(refused) == 3
        assert all("4 of 4" in str(x) for x in refused)

    run(make(a, b), body)


def test_a_slot_is_free_as_soon_as_its_worker_has_ended(make: Make) -> None:
    """Although nobody has looked since."""
    a = FakeOutpost("a", FakeOptions(max_workers=1))

    async def body(manager: Manager) -> None:
        await manager.spawn(order("gt-1"))
        with pytest.raises(PlacementError):
            await manager.spawn(order("gt-2"))
        a.finish("gt-1.1")
        assert (await manager.spawn(order("gt-2"))).worker.state is State.WORKING

    run(make(a), body)


def test_the_same_order_ten_times_at_once_is_one_worker(make: Make) -> None:
    a = FakeOutpost("a")
    a.slow(0.05)

    async def body(manager: Manager) -> None:
        answers = await asyncio.gather(*(manager.spawn(order()) for _ in range(10)))
        assert len({x.worker.id for x in answers}) == 1
        assert [x.adopted for x in answers].count(False) == 1
        assert [hook for hook, _ in a.calls].count("outpost_spawn") == 1

    run(make(a), body)


class Riddle(FakeOutpost):
    """Starts the worker, and then its answer is lost."""

    error: Exception | None = UnreachableError("the line dropped")
    starts = True

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        if self.starts:
            status = await super().outpost_spawn(order)
        if self.error is None:
            return status
        raise self.error


def test_a_lost_answer_is_settled_by_asking(make: Make) -> None:
    a, b = Riddle("a"), FakeOutpost("b")

    async def body(manager: Manager) -> None:
        assert (await manager.spawn(order())).worker.outpost == "a"
        assert b.calls == []

    run(make(a, b), body)


def test_a_backend_that_raises_something_of_its_own_proves_nothing(make: Make) -> None:
    a, b = Riddle("a"), FakeOutpost("b")
    a.error, a.starts = RuntimeError("a defect"), False

    async def body(manager: Manager) -> None:
        with pytest.raises(UnreachableError, match="a defect"):
            await manager.spawn(order())
        assert b.calls == []

    run(make(a, b), body)


def test_a_spawn_that_may_have_started_goes_nowhere_else_and_is_finished_later(make: Make) -> None:
    a, b = Riddle("a"), FakeOutpost("b")
    a.starts = False

    async def body(manager: Manager) -> None:
        with pytest.raises(UnreachableError, match="not known"):
            await manager.spawn(order())
        assert b.calls == []
        assert manager.ledger.active() == {"a": 1}
        a.starts, a.error = True, None  # the line is back
        await manager.refresh()
        assert (await manager.worker("gt-1")).state is State.WORKING
        assert b.calls == [("outpost_list", "")]

    run(make(a, b), body)


def test_a_hanging_outpost_delays_nobody_beyond_its_timeout(make: Make, tmp_path: Path) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")
    a.slow(3600)
    config = (
        "outposts:\n  - {name: a, type: fake}\n  - {name: b, type: fake}\n"
        "defaults: {answer_timeout: 0.2, spawn_timeout: 0.2}\n"
    )

    async def body(manager: Manager) -> None:
        begun = time.monotonic()
        answers = await manager.ping()
        assert time.monotonic() - begun < 60
        assert isinstance(answers["a"], UnreachableError)
        assert not isinstance(answers["b"], OutpostError)
        views = {v.name: v.state for v in await manager.refresh()}
        assert views == {"a": "unreachable", "b": "ready"}

    run(make(a, b, config=config), body)


def test_unreachable_is_not_dead(make: Make) -> None:
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        await manager.spawn(order())
        a.cut("gone fishing")
        (worker,) = await manager.workers()
        assert worker.state is State.WORKING
        assert worker.unreachable_since is not None
        with pytest.raises(UnreachableError, match="gone fishing"):
            await manager.stop("gt-1")
        a.restore()
        (worker,) = await manager.workers()
        assert worker.unreachable_since is None

    run(make(a), body)


def test_a_worker_that_its_outpost_forgot_is_lost_and_its_slot_free(make: Make) -> None:
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        await manager.spawn(order())
        a._world.statuses.clear()
        a._world.listed = None
        assert (await manager.worker("gt-1")).state is State.WORKING, "one look may be wrong"
        worker = await manager.worker("gt-1")
        assert worker.state is State.LOST
        assert worker.result is not None
        assert "no longer knows" in worker.result.message
        assert manager.ledger.active() == {}

    run(make(a), body)


def test_workers_that_others_started_are_taken_in(make: Make) -> None:
    a = FakeOutpost.holding("a", 3)

    async def body(manager: Manager) -> None:
        assert len(await manager.workers()) == 3
        assert manager.outposts()[0].active == 3

    run(make(a), body)


def test_waiting_tells_each_change_and_ends(make: Make) -> None:
    a = FakeOutpost("a")
    a.script("gt-1.1", Script(after=0.1, result=Result(state=State.FAILED, reason="timeout")))
    seen: list[State] = []

    async def body(manager: Manager) -> None:
        await manager.spawn(order())
        (worker,) = await manager.wait(["gt-1"], on_change=lambda w: seen.append(w.state))
        assert worker.result is not None
        assert worker.result.reason == "timeout"
        (still,) = await manager.wait(["gt-1"], timeout=0)
        assert still.state is State.FAILED

    run(make(a), body)
    assert seen == [State.WORKING, State.FAILED]


def test_stop_ends_it_and_is_idempotent(make: Make) -> None:
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        await manager.spawn(order())
        assert (await manager.stop("gt-1")).state is State.STOPPED
        assert (await manager.stop("gt-1")).state is State.STOPPED
        with pytest.raises(NotFoundError):
            await manager.stop("gt-9")

    run(make(a), body)


@pytest.mark.parametrize("ref", ["gt-1", "gt-1.1"])
def test_a_damaged_ledger_keeps_nobody_from_a_stop(make: Make, tmp_path: Path, ref: str) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def start(manager: Manager) -> None:
        await manager.spawn(order("gt-1"))
        await manager.spawn(order("gt-11"))

    async def stop(manager: Manager) -> None:
        with pytest.raises(LedgerError, match=r"gt-1\.1 was told to stop all the same"):
            await manager.stop(ref)

    run(make(a, b), start)
    for path in (tmp_path / "state").glob("ledger.db*"):
        path.write_bytes(b"garbage" * 1000)
    run(make(a, b), stop)
    assert [call for call in a.calls if call[0] == "outpost_stop"] == [("outpost_stop", "gt-1.1")]


def test_clean_refuses_what_runs_and_hides_what_is_gone(make: Make) -> None:
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        await manager.spawn(order())
        with pytest.raises(UsageError, match="has not ended"):
            await manager.clean("gt-1")
        a.finish("gt-1.1")
        assert (await manager.clean("gt-1")).removed
        assert await manager.workers(all=True) == []
        assert (await manager.spawn(order())).adopted, "a cleaned worker still is that order's"

    run(make(a), body)


def test_an_undeclared_verb_is_refused_in_words(make: Make) -> None:
    a = FakeOutpost("a", FakeOptions(capabilities=("clean",)))

    async def body(manager: Manager) -> None:
        await manager.spawn(order())
        with pytest.raises(UnsupportedError, match="cannot nudge") as caught:
            await manager.nudge("gt-1", "hello")
        assert "clean" in caught.value.mend

    run(make(a), body)


def test_a_policy_plugin_decides_within_the_hard_limits(make: Make) -> None:
    class Last:
        @hookimpl
        def outpost_assign(self, order: Order, candidates: Sequence[Candidate]) -> list[str]:
            return [c.name for c in reversed(candidates)]

    a, b, c = FakeOutpost("a"), FakeOutpost("b"), FakeOutpost("c", FakeOptions(capabilities=()))

    async def body(manager: Manager) -> None:
        spawned = await manager.spawn(order(rig="https://example.com/x.git"))
        assert spawned.worker.outpost == "b", "c cannot do it, whatever the plugin says"

    run(make(a, b, c, plugin=Last()), body)


def test_a_broken_policy_plugin_is_named(make: Make) -> None:
    class Broken:
        @hookimpl
        def outpost_assign(self, order: Order, candidates: Sequence[Candidate]) -> list[str]:
            raise RuntimeError("no idea")

    async def body(manager: Manager) -> None:
        with pytest.raises(OutpostError, match="RuntimeError: no idea"):
            await manager.spawn(order())

    run(make(FakeOutpost("a"), plugin=Broken()), body)


def test_observers_hear_everything_and_break_nothing(make: Make) -> None:
    class Observer:
        def __init__(self) -> None:
            self.kinds: list[str] = []

        @hookimpl
        def outpost_event(self, event: Event) -> None:
            self.kinds.append(event.kind)
            raise RuntimeError("tired")

    observer = Observer()

    async def body(manager: Manager) -> None:
        await manager.spawn(order())
        assert "tired" in manager.observer_errors[0]
        assert any("tired" in f.detail for _, f in await manager.doctor())

    run(make(FakeOutpost("a"), plugin=observer), body)
    assert "spawned" in observer.kinds


def test_a_missing_type_is_listed_with_advice_and_passed_over(make: Make) -> None:
    config = "outposts:\n  - {name: far, type: ssh, host: 10.0.0.5}\n  - {name: a, type: fake}\n"

    async def body(manager: Manager) -> None:
        far = manager.outposts()[0]
        assert (far.state, far.mend) == ("missing", "pip install outpost-ssh")
        assert (await manager.spawn(order())).worker.outpost == "a"
        assert [v.state for v in await manager.refresh()] == ["missing", "ready"]

    run(make(FakeOutpost("a"), config=config), body)


def test_on_names_the_outpost_and_an_unknown_one_is_said(make: Make) -> None:
    a, b = FakeOutpost("alpha"), FakeOutpost("beta")

    async def body(manager: Manager) -> None:
        assert (await manager.spawn(order(), on="beta")).worker.outpost == "beta"
        with pytest.raises(NotFoundError, match="bet") as caught:
            await manager.spawn(order("gt-2"), on="bet")
        assert "beta" in caught.value.mend

    run(make(a, b), body)


def test_explain_asks_everyone_and_changes_nothing(make: Make) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")
    a.cut("no route")

    async def body(manager: Manager) -> None:
        told = await manager.explain(order())
        assert [(v.outpost, v.eligible) for v in told.verdicts] == [("b", True), ("a", False)]
        assert "no route" in told.verdicts[1].reason
        assert manager.ledger.workers() == []

    run(make(a, b), body)


# --- crashes: another process finds what is left ---------------------------------------------


def dead_reservation(manager: Manager, wanted: Order, outpost: str) -> None:
    """Leave the row that a killed process leaves after `manager.reserved`."""
    manager.ledger.reserve(
        [
            Reservation(
                order=wanted, outpost=outpost, digest=digest(wanted), owner="other-boot:1:1/x"
            )
        ]
    )


def test_a_spawn_whose_process_died_is_finished_by_whoever_asks(make: Make) -> None:
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        dead_reservation(manager, order(), "a")
        await manager.refresh()
        assert (await manager.worker("gt-1")).state is State.WORKING
        assert a.order("gt-1.1") == order()

    run(make(a), body)


def test_a_dead_spawn_is_finished_by_the_same_order_too(make: Make) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")
    a.refuse("no more")

    async def body(manager: Manager) -> None:
        dead_reservation(manager, order(), "a")
        spawned = await manager.spawn(order())
        assert (spawned.worker.outpost, spawned.adopted) == ("b", False)

    run(make(a, b), body)


def test_secrets_of_a_dead_spawn_come_from_the_environment_or_it_waits(make: Make) -> None:
    from outpost_core.types import Secrets

    a = FakeOutpost("a")
    wanted = order(secrets=Secrets({"KEY": "s3cret"}))

    async def leave(manager: Manager) -> None:
        dead_reservation(manager, wanted, "a")
        await manager.refresh()
        assert a.calls == [("outpost_list", "")], "without the value it waits"

    async def finish(manager: Manager) -> None:
        await manager.refresh()
        assert a.order("gt-1.1").secrets["KEY"] == "s3cret"

    run(make(a), leave)
    run(make(a, environ={"KEY": "s3cret"}), finish)


def test_a_living_spawn_of_another_process_is_left_alone(make: Make) -> None:
    from outpost_core.worker.identity import me

    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        manager.ledger.reserve(
            [Reservation(order=order(), outpost="a", digest=digest(order()), owner=f"{me()}/other")]
        )
        await manager.refresh()
        assert a.calls == [("outpost_list", "")]

    run(make(a), body)


def test_stopping_an_unfinished_spawn_gives_it_up(make: Make) -> None:
    a = Riddle("a")
    a.starts = False

    async def body(manager: Manager) -> None:
        with pytest.raises(UnreachableError):
            await manager.spawn(order())
        worker = await manager.stop("gt-1")
        assert worker.state is State.STOPPED
        assert manager.ledger.active() == {}

    run(make(a), body)


def test_stopping_a_spawn_whose_answer_was_lost_keeps_its_worker(make: Make) -> None:
    class Silent(Riddle):
        @hookimpl
        async def outpost_list(self) -> Sequence[WorkerStatus]:
            if self.error is not None:
                raise UnreachableError("still no line")
            return await super().outpost_list()

    a = Silent("a")

    async def body(manager: Manager) -> None:
        with pytest.raises(UnreachableError):
            await manager.spawn(order())
        with pytest.raises(UnreachableError):
            await manager.stop("gt-1")
        a.error = None
        worker = await manager.stop("gt-1")
        assert worker.state is State.STOPPED
        assert worker.agent == "command", "it is the row that was reserved"

    run(make(a), body)


def test_in_doubt_a_second_try_does_not_go_elsewhere(make: Make) -> None:
    a, b = Riddle("a"), FakeOutpost("b")
    a.starts = False

    async def body(manager: Manager) -> None:
        with pytest.raises(UnreachableError):
            await manager.spawn(order())
        a.cut("down")
        a.error = UnreachableError("no route", sent=False)
        with pytest.raises(UnreachableError, match="not known"):
            await manager.spawn(order())
        assert b.calls == []
        a.restore()
        a.error = SpawnRefusedError("full")
        assert (await manager.spawn(order())).worker.outpost == "b"

    run(make(a, b), body)


def test_an_interrupted_spawn_that_nobody_takes_ends_and_says_why(make: Make) -> None:
    a = FakeOutpost("a")
    a.refuse("no memory")

    async def body(manager: Manager) -> None:
        dead_reservation(manager, order(), "a")
        worker = await manager.worker("gt-1")
        assert worker.state is State.FAILED
        assert worker.result is not None
        assert worker.result.reason == "never_started"
        assert "no memory" in worker.result.message

    run(make(a), body)


@pytest.mark.parametrize(
    "answer", [None, "text", [None], [WorkerStatus(id="gt-1.1", state="working")]]
)  # type: ignore[arg-type]
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
        assert [v.state for v in manager.outposts()] == ["unreachable", "ready"]

    run(make(Breaks("a"), FakeOutpost("b")), body)


def test_a_cancelled_spawn_leaves_its_row_to_whoever_comes(make: Make) -> None:
    a = FakeOutpost("a")
    a.slow(60)

    async def body(manager: Manager) -> None:
        task = asyncio.ensure_future(manager.spawn_many([order("gt-1"), order("gt-2")]))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        a.slow(0)
        await manager.refresh()
        assert {w.id for w in await manager.workers()} == {"gt-1.1", "gt-2.1"}
        assert all(w.state is State.WORKING for w in manager.ledger.workers())

    run(make(a), body)


def test_a_progress_that_raises_leaves_no_row_behind_in_our_name(make: Make) -> None:
    a = FakeOutpost("a")

    def progress(event: Event) -> None:
        if event.kind == "reserved":
            raise BrokenPipeError

    async def body(manager: Manager) -> None:
        with pytest.raises(BrokenPipeError):
            await manager.spawn(order(), progress=progress)
        assert (await manager.stop("gt-1")).state is State.STOPPED

    run(make(a), body)


def test_a_secret_in_a_plugins_error_is_masked(make: Make) -> None:
    from outpost_core.types import Secrets

    class Talks(FakeOutpost):
        @hookimpl
        async def outpost_spawn(self, order: Order) -> WorkerStatus:
            raise SpawnRefusedError(f"env was {dict(order.secrets)}")

    async def body(manager: Manager) -> None:
        with pytest.raises(PlacementError) as caught:
            await manager.spawn(order(secrets=Secrets({"KEY": "hunter22"})))
        assert "hunter22" not in str(caught.value)
        assert "***" in str(caught.value)
        assert "hunter22" not in str(manager.ledger.events())

    run(make(Talks("a")), body)


def test_waiting_where_nobody_can_tell_ends_with_a_word(make: Make) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def start(manager: Manager) -> None:
        await manager.spawn(order(), on="b")

    async def body(manager: Manager) -> None:
        with pytest.raises(NotFoundError, match="not configured"):
            await manager.wait(["gt-1"])
        assert manager.forget("gt-1").state is State.LOST

    run(make(a, b), start)
    run(make(a), body)


def test_a_deadline_holds_although_outposts_hang(make: Make) -> None:
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        await manager.spawn_many([order(f"gt-{i}") for i in range(5)])
        a.slow(3600)
        begun = time.monotonic()
        found = await manager.wait([f"gt-{i}" for i in range(5)], timeout=0.3)
        assert time.monotonic() - begun < 8
        assert len(found) == 5

    run(make(a), body)


def test_an_outpost_may_be_called_policy(make: Make) -> None:
    async def body(manager: Manager) -> None:
        assert (await manager.spawn(order())).worker.outpost == "policy"

    run(make(FakeOutpost("policy")), body)


def test_the_digest_survives_the_ledger(make: Make) -> None:
    from outpost_core.types import Limits

    wanted = order(limits=Limits(timeout=60, cpu=2, grace=1))
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        dead_reservation(manager, wanted, "a")
        await manager.refresh()
        assert (await manager.spawn(wanted)).adopted

    run(make(a), body)


# --- what broke off, and what proves nothing ----------------------------------------------------


def test_a_spawn_that_breaks_off_leaves_none_of_its_siblings_running(make: Make) -> None:
    a = FakeOutpost("a")
    a.slow(0.2)

    def progress(event: Event) -> None:
        if event.kind == "starting" and event.worker == "gt-2.1":
            raise BrokenPipeError

    async def body(manager: Manager) -> None:
        with pytest.raises(BrokenPipeError):
            await manager.spawn_many([order("gt-1"), order("gt-2")], progress=progress)
        await asyncio.sleep(0.4)
        assert manager.ledger.worker("gt-1.1").state is State.STARTING  # type: ignore[union-attr]
        assert a._world.statuses == {}, "what was let go of was not spawned behind our back"
        assert {w.id for w in manager.ledger.orphans()} == {"gt-1.1", "gt-2.1"}

    run(make(a), body)


def test_a_row_that_could_not_be_let_go_of_is_let_go_of_later(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = Riddle("a")
    a.starts = False

    async def body(manager: Manager) -> None:
        def locked(*_: object) -> None:
            raise LedgerError("locked")

        with monkeypatch.context() as patch:
            patch.setattr(manager.ledger, "disown", locked)
            with pytest.raises(UnreachableError):
                await manager.spawn(order())
        assert manager.ledger.orphans() == [], "it is still in this process's name"
        a.starts, a.error = True, None
        await manager.refresh()
        assert manager.ledger.worker("gt-1.1").state is State.WORKING  # type: ignore[union-attr]

    run(make(a), body)


def test_a_crowd_spreads_at_once(make: Make) -> None:
    fakes = [FakeOutpost(f"o{n}", FakeOptions(max_workers=2)) for n in range(5)]
    seen: list[Event] = []

    async def body(manager: Manager) -> None:
        answers = await manager.spawn_many(
            [order(f"gt-{n}") for n in range(11)], progress=seen.append
        )
        assert manager.ledger.active() == {f"o{n}": 2 for n in range(5)}
        assert isinstance(answers[-1], PlacementError)
        assert "o4: full: 2 of 2 workers" in answers[-1].message

    run(make(*fakes), body)
    assert "refused" not in [event.kind for event in seen], "nobody was sent on from a full one"


def test_a_crowd_keeps_within_the_money(make: Make) -> None:
    options = FakeOptions(price=0.4, cost_cap_hourly=1.0)
    a, b = FakeOutpost("a", options), FakeOutpost("b", options)
    config = "".join(
        f"  - {{name: {n}, type: fake, price: 0.4, cost_cap_hourly: 1.0}}\n" for n in "ab"
    )

    async def body(manager: Manager) -> None:
        answers = await manager.spawn_many([order(f"gt-{n}") for n in range(5)])
        assert manager.ledger.active() == {"a": 2, "b": 2}
        assert isinstance(answers[-1], PlacementError)

    run(make(a, b, config=f"outposts:\n{config}"), body)


def test_a_worker_that_is_only_queued_is_spawned_again_not_believed(make: Make) -> None:
    class Publishes(FakeOutpost):
        broken = True

        @hookimpl
        async def outpost_spawn(self, order: Order) -> WorkerStatus:
            if self.broken:
                self.put(WorkerStatus(id=order.worker, state=State.QUEUED, digest=digest(order)))
                raise UnreachableError("died between the two steps")
            self._world.statuses.clear()
            return await super().outpost_spawn(order)

    a = Publishes("a")

    async def body(manager: Manager) -> None:
        with pytest.raises(UnreachableError, match="not known"):
            await manager.spawn(order())
        a.broken = False
        await manager.refresh()
        assert manager.ledger.worker("gt-1.1").state is State.WORKING  # type: ignore[union-attr]

    run(make(a), body)


@pytest.mark.parametrize("there", [True, False])
def test_a_refused_request_proves_nothing_of_an_earlier_one(make: Make, there: bool) -> None:
    class Upgraded(FakeOutpost):
        """Has started the order, and has learnt since that it cannot."""

        @hookimpl
        async def outpost_spawn(self, order: Order) -> WorkerStatus:
            raise UnsupportedError("not any more")

    a, b = Upgraded("a"), FakeOutpost("b")
    if there:
        a.put(WorkerStatus(id="gt-1.1", state=State.WORKING, digest=digest(order())))

    async def body(manager: Manager) -> None:
        dead_reservation(manager, order(), "a")
        if there:
            assert (await manager.spawn(order())).worker.outpost == "a"
        else:
            with pytest.raises(UnsupportedError):
                await manager.spawn(order())
            assert manager.ledger.worker("gt-1.1") is None
        assert b.calls == []

    run(make(a, b), body)


def test_a_row_that_moved_before_it_was_claimed_is_finished_where_it_is(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def body(manager: Manager) -> None:
        dead_reservation(manager, order(), "a")
        claim = manager.ledger.claim

        def late(worker: str, owner: str) -> Any:
            manager.ledger.move(
                worker,
                Reservation(
                    order=order(), outpost="b", digest=digest(order()), owner="other-boot:1:1/x"
                ),
            )
            return claim(worker, owner)

        monkeypatch.setattr(manager.ledger, "claim", late)
        await manager.refresh()
        assert [hook for hook, _ in a.calls] == ["outpost_list"]
        assert b._world.statuses["gt-1.1"].state is State.WORKING

    run(make(a, b), body)


def test_an_outpost_that_the_user_named_is_kept_by_a_recovery(make: Make) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def body(manager: Manager) -> None:
        (sheets,) = manager.overview.sheets([order()], time.time())
        why = manager.placement.assign(order(), sheets, "a").explain()
        manager.ledger.reserve(
            [
                Reservation(
                    order=order(), outpost="a", digest=digest(order()), owner="x:1:1/x",
                    explanation=why,
                )
            ]
        )  # fmt: skip
        a.refuse("full")
        assert (await manager.worker("gt-1")).state is State.FAILED
        assert b.calls == []

    run(make(a, b), body)


def test_a_broken_policy_does_not_keep_a_spawn_from_being_finished(make: Make) -> None:
    class Broken:
        @hookimpl
        def outpost_assign(self, order: Order, candidates: Sequence[Candidate]) -> list[str]:
            raise RuntimeError("no idea")

    async def body(manager: Manager) -> None:
        dead_reservation(manager, order(), "a")
        assert (await manager.worker("gt-1")).state is State.WORKING

    run(make(FakeOutpost("a"), plugin=Broken()), body)


def test_a_slow_spawn_is_finished_behind_whoever_looks(make: Make) -> None:
    class Slow(FakeOutpost):
        @hookimpl
        async def outpost_spawn(self, order: Order) -> WorkerStatus:
            await asyncio.sleep(0.5)
            return await super().outpost_spawn(order)

    a = Slow("a")
    config = "outposts:\n  - {name: a, type: fake}\ndefaults: {answer_timeout: 0.1}\n"

    async def body(manager: Manager) -> None:
        dead_reservation(manager, order(), "a")
        for _ in range(3):
            await manager.refresh()
        (worker,) = await manager.wait(["gt-1"], timeout=0.05)
        assert worker.state is State.STARTING
        async with asyncio.timeout(30):
            while manager.ledger.worker("gt-1.1").state is not State.WORKING:  # type: ignore[union-attr]
                await asyncio.sleep(0.01)
        assert [hook for hook, _ in a.calls].count("outpost_spawn") == 1

    async def leave(manager: Manager) -> None:
        dead_reservation(manager, order("gt-2"), "a")
        await manager.refresh()

    run(make(a, config=config), body)
    left = make(a, config=config)
    run(left, leave)
    assert {w.id for w in left.ledger.orphans()} == {"gt-2.1"}, "broken off, and nobody's"
    left.close()


def test_a_spawn_that_cannot_be_finished_is_not_tried_at_every_look(make: Make) -> None:
    a = Riddle("a")
    a.starts = False

    async def body(manager: Manager) -> None:
        dead_reservation(manager, order(), "a")
        for _ in range(20):
            await manager.refresh()
        kinds = [event.kind for event in manager.ledger.events("gt-1.1")]
        assert kinds.count("unfinished") == 1

    run(make(a), body)


def test_a_secret_that_is_lacking_is_said_by_name(make: Make) -> None:
    wanted = order(secrets=Secrets({"KEY": "hunter22"}))

    async def body(manager: Manager) -> None:
        dead_reservation(manager, wanted, "a")
        await manager.refresh()
        (event,) = [e for e in manager.ledger.events("gt-1.1") if e.kind == "unfinished"]
        assert "KEY" in str(event.data["reason"])

    run(make(FakeOutpost("a")), body)


# --- what plugins may answer --------------------------------------------------------------------


def test_a_policy_that_answers_nonsense_is_named(make: Make) -> None:
    class Odd:
        @hookimpl
        def outpost_assign(self, order: Order, candidates: Sequence[Candidate]) -> Any:
            return [["a"]]

    async def body(manager: Manager) -> None:
        with pytest.raises(PluginError, match="TypeError"):
            await manager.spawn(order())

    run(make(FakeOutpost("a"), plugin=Odd()), body)


@pytest.mark.parametrize("price", [-1.0, float("nan"), 1e12, "x", None])
def test_a_price_that_is_none_is_its_outposts_trouble(make: Make, price: Any) -> None:
    class Dear(FakeOutpost):
        @hookimpl
        def outpost_price(self, order: Order) -> Any:
            return price

    async def body(manager: Manager) -> None:
        spawned = await manager.spawn(order())
        assert spawned.worker.outpost == "b"
        assert "outpost_price" in spawned.explanation.verdicts[-1].reason

    run(make(Dear("a"), FakeOutpost("b")), body)


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
        with pytest.raises(PluginError) as caught:
            await manager.spawn(order("gt-2", secrets=secrets))
        kept = str(manager.ledger.explanation("gt-1.1"))
        for text in (str(spawned.explanation), kept, str(caught.value)):
            assert "***" in text
            for secret in ("hunter", "***22", "passw0rd"):
                assert secret not in text
        assert caught.value.__cause__ is None

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
            found = await manager.doctor("a")
            assert any("outpost_doctor" in finding.detail for _, finding in found)
        else:
            with pytest.raises(PluginError, match=f"outpost_{verb} of 'a' answered a NoneType"):
                await getattr(manager, verb)("gt-1")

    run(make(a), body)


@pytest.mark.parametrize(
    "field", [{"detail": None}, {"digest": 7}, {"id": 7}, {"started_at": "now"}, {"result": {}}]
)
def test_a_status_with_an_odd_field_breaks_only_its_outpost(
    make: Make, field: dict[str, Any]
) -> None:
    class Odd(FakeOutpost):
        @hookimpl
        async def outpost_list(self) -> Sequence[WorkerStatus]:
            odd: dict[str, Any] = {"id": "gt-9.1", "state": State.WORKING, **field}
            return [WorkerStatus(**odd)]

    a, b = Odd("a"), FakeOutpost.holding("b", 2)

    async def body(manager: Manager) -> None:
        assert len(await manager.workers()) == 2
        with pytest.raises(PluginError, match=f"as a worker's {next(iter(field))}"):
            await manager.fleet.list("a", timeout=5)

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
        assert [workers[i].state for i in ("gt-1.1", "gt-2.1")] == [State.FAILED, State.DONE]
        result = workers["gt-1.1"].result
        assert result is not None
        assert (result.reason, "exit_code" in result.message) == ("internal", True)

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
        assert manager.outposts()[0].state == "unreachable"
        assert (await manager.spawn(wanted)).adopted

    run(make(a, b), body)


# --- observers, doctor, waiting -----------------------------------------------------------------


def test_observers_hear_of_outposts_and_of_workers_that_never_were(make: Make) -> None:
    class Observer:
        def __init__(self) -> None:
            self.told: list[tuple[str, str]] = []

        @hookimpl
        def outpost_event(self, event: Event) -> None:
            self.told.append((event.kind, str(event.data.get("state", event.outpost))))

    observer = Observer()
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        a.cut("down")
        await manager.refresh()
        await manager.refresh()
        a.restore()
        a.refuse("full")
        dead_reservation(manager, order(), "a")
        await manager.refresh()
        kinds = [event.kind for event in manager.ledger.events("gt-1.1")]
        assert "spawned" not in kinds, "it never was"

    run(make(a, plugin=observer), body)
    assert observer.told.count(("unreachable", "a")) == 1
    assert observer.told.count(("reachable", "a")) == 1
    assert ("state", "failed") in observer.told


def test_errors_of_observers_do_not_pile_up(make: Make) -> None:
    class Tired:
        @hookimpl
        def outpost_event(self, event: Event) -> None:
            raise RuntimeError("tired")

    async def body(manager: Manager) -> None:
        await manager.spawn_many([order(f"gt-{n}") for n in range(60)])
        assert len(manager.observer_errors) == 100

    run(make(FakeOutpost("a"), plugin=Tired()), body)


def test_doctor_looks_at_the_outposts_although_the_ledger_is_damaged(
    make: Make, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "ledger.db").write_bytes(b"no database" * 100)

    async def body(manager: Manager) -> None:
        found = await manager.doctor()
        told = {(subject, finding.check): finding.ok for subject, finding in found}
        assert told["ledger", "ledger"] is False
        assert told["a", "ping"] is True
        assert told["b", "ping"] is False

    a, b = FakeOutpost("a"), FakeOutpost("b")
    b.cut()
    run(make(a, b), body)


def test_waiting_for_what_cannot_be_built_ends_with_a_word(make: Make) -> None:
    class Unfit(FakeOutpost):
        @hookimpl
        async def outpost_stop(self, worker: str, patience: float) -> None: ...  # type: ignore[override]

    async def start(manager: Manager) -> None:
        await manager.spawn(order())

    async def body(manager: Manager) -> None:
        async with asyncio.timeout(30):
            with pytest.raises(NotFoundError, match="cannot be built"):
                await manager.wait(["gt-1"])

    run(make(FakeOutpost("a")), start)
    run(make(Unfit("a")), body)


def test_names_to_refresh_may_come_once(make: Make) -> None:
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        views = await manager.refresh(name for name in ["a"])
        assert views[0].state == "ready"

    run(make(a), body)


# --- attempts -----------------------------------------------------------------------------------


def test_again_is_the_next_attempt_and_goes_on_from_the_checkpoint(make: Make) -> None:
    a = FakeOutpost("a")
    request = OrderRequest(issue="gt-1", command=("true",))

    async def body(manager: Manager) -> None:
        first = manager.order(request)
        await manager.spawn(first)
        with pytest.raises(ConflictError, match="still runs"):
            manager.order(OrderRequest(issue="gt-1", command=("true",), again=True))
        kept = "refs/outpost/gt-1.1"
        a.finish("gt-1.1", Result(state=State.FAILED, reason="timeout", checkpoint=kept))
        await manager.refresh()
        assert manager.order(request) == first, "asking twice is the same worker"
        again = manager.order(
            OrderRequest(
                issue="gt-1", command=("true",), again=True, rig="https://example.com/x.git"
            )
        )
        assert (again.attempt, again.resume) == (2, kept)

    run(make(a), body)
