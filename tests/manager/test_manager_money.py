"""Budgets, accounts and breakers, as whoever places orders meets them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from managerkit import Make, dead_reservation, order, run, until

from outpost_core.errors import PlacementError, UsageError
from outpost_core.types import Agent, Issue, Limits, Order, Result, Secrets, State, Usage
from outpost_core.wire import digest
from outpost_manager.ledger import breakers
from outpost_manager.manager import Manager
from outpost_manager.placing.pending import NotPlacedError
from outpost_manager.placing.purse import model_of
from outpost_testing import FakeOutpost

OUTPOSTS = "outposts:\n  - {name: a, type: fake, max_workers: 99}\n"


def paid(issue: str, usd: float | None = 1.0, **more: object) -> Order:
    limits = Limits(max_agent_cost_usd=usd)
    return order(issue, limits=limits, **more)


def claude(issue: str, *names: str, **more: object) -> Order:
    return Order(
        issue=Issue(id=issue),
        agent=Agent(argv=("true",), name="claude"),
        secrets=Secrets(dict.fromkeys(names, "")),
        **more,  # type: ignore[arg-type]
    )


def test_a_budget_refuses_with_its_name_and_says_when(make: Make) -> None:
    a = FakeOutpost("a")
    config = OUTPOSTS + "budgets:\n  - {name: daily, window: day, usd: 1.5}\n"

    async def body(manager: Manager) -> None:
        await manager.spawn(paid("gt-1"))
        with pytest.raises(PlacementError, match=r"budget daily: 1\.00 USD of 1\.50 USD") as caught:
            await manager.spawn(paid("gt-2"))
        assert isinstance(caught.value, NotPlacedError)
        assert caught.value.until is None
        a.finish("gt-1.1", Result(state=State.DONE, usage=Usage(cost_usd=0.7)))
        await manager.refresh()
        with pytest.raises(NotPlacedError) as again:
            await manager.spawn(paid("gt-2"))
        assert again.value.until == pytest.approx(time.time() + 86_400, abs=60)
        await manager.spawn(paid("gt-2", 0.8))

    run(make(a, config=config), body)


def test_an_order_without_a_worst_case_gets_the_hint(make: Make) -> None:
    config = OUTPOSTS + "budgets:\n  - {name: daily, window: day, usd: 1.5}\n"

    async def body(manager: Manager) -> None:
        with pytest.raises(PlacementError, match=r"daily could not be kept: .*--max-agent-cost"):
            await manager.spawn(order("gt-1"))
        said = await manager.explain(order("gt-1"))
        assert not said.verdicts[0].eligible
        assert "budget daily" in said.verdicts[0].reason

    run(make(FakeOutpost("a"), config=config), body)


def test_a_budget_of_one_outpost_sends_work_to_the_next(make: Make) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")
    config = (
        OUTPOSTS
        + "  - {name: b, type: fake, max_workers: 99}\n"
        + "budgets:\n  - {name: there, window: day, usd: 1.5, outpost: a}\n"
    )

    async def body(manager: Manager) -> None:
        assert (await manager.spawn(paid("gt-1"))).worker.outpost == "a"
        said = await manager.explain(paid("gt-2"))
        assert [(v.outpost, v.eligible, v.rank) for v in said.verdicts] == [
            ("b", True, 1),
            ("a", False, None),
        ]
        assert (await manager.spawn(paid("gt-2"))).worker.outpost == "b"

    run(make(a, b, config=config), body)


ACCOUNTS = (
    OUTPOSTS
    + """
accounts:
  - {name: team-a, agent: claude, secrets: {KEY: "env:KEY_A"}, max_workers: 1}
  - {name: team-b, agent: claude, secrets: {KEY: "file:FOLDER/key"}}
"""
)


def test_the_values_of_the_chosen_account_are_handed_over_and_nowhere_kept(
    make: Make, tmp_path: Path
) -> None:
    a = FakeOutpost("a")
    key = tmp_path / "key"
    key.write_text("value-of-b\n")
    key.chmod(0o600)
    config = ACCOUNTS.replace("FOLDER", str(tmp_path))

    async def body(manager: Manager) -> None:
        for number in (1, 2):
            wanted = claude(f"gt-{number}", "KEY")
            spawned = await manager.spawn(wanted)
            assert spawned.worker.digest == digest(wanted)
        assert a.order("gt-1.1").secrets["KEY"] == "value-of-a"
        assert a.order("gt-2.1").secrets["KEY"] == "value-of-b"
        assert await manager.ledger.account("gt-2.1") == "team-b"

    run(make(a, config=config, environ={"KEY_A": "value-of-a"}), body)
    for file in (tmp_path / "state").rglob("*"):
        assert not file.is_file() or b"value-of-" not in file.read_bytes()


def test_a_secret_that_others_can_read_is_refused_and_counts_against_the_account(
    make: Make, tmp_path: Path
) -> None:
    a = FakeOutpost("a")
    key = tmp_path / "key"
    key.write_text("value-of-b")
    key.chmod(0o644)
    config = ACCOUNTS.replace("FOLDER", str(tmp_path))

    async def body(manager: Manager) -> None:
        with pytest.raises(PlacementError, match="KEY_A is not set"):
            await manager.spawn(claude("gt-1", "KEY"))
        (breaker,) = await manager.ledger.read(lambda ledger: ledger.breakers.all())
        assert (breaker.kind, breaker.name, breaker.failures) == ("account", "team-a", 1)
        for number in (2, 3):
            with pytest.raises(PlacementError):
                await manager.spawn(claude(f"gt-{number}", "KEY"))
        with pytest.raises(PlacementError, match=r"others can read .*0644"):
            await manager.spawn(claude("gt-4", "KEY"))  # the next account is used by now
        key.chmod(0o600)
        await manager.spawn(claude("gt-4", "KEY"))
        assert a.order("gt-4.1").secrets["KEY"] == "value-of-b"

    run(make(a, config=config), body)


def test_an_order_that_does_not_name_the_accounts_secrets_is_refused(make: Make) -> None:
    async def body(manager: Manager) -> None:
        with pytest.raises(UsageError, match="without the secrets of its agent's accounts: KEY"):
            await manager.spawn(claude("gt-1"))

    run(make(FakeOutpost("a"), config=ACCOUNTS.replace("FOLDER", "/x")), body)


def test_a_spawn_of_a_dead_process_is_finished_with_its_account(make: Make) -> None:
    a = FakeOutpost("a")
    manager = make(a, config=ACCOUNTS.replace("FOLDER", "/x"), environ={"KEY_A": "value-of-a"})
    wanted = claude("gt-1", "KEY")
    dead_reservation(manager, wanted, "a")
    with manager.ledger.direct._store.write() as db:
        db.execute("UPDATE workers SET account = 'team-a'")

    async def body(manager: Manager) -> None:
        await manager.refresh()
        await until(lambda: "gt-1.1" in a._world.orders)
        assert a.order("gt-1.1").secrets["KEY"] == "value-of-a"

    run(manager, body)


def test_an_outpost_that_is_away_again_and_again_is_left_alone(make: Make) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")
    a.cut("no route")

    async def body(manager: Manager) -> None:
        for number in range(breakers.RULES["outpost"].failures):
            await manager.spawn(order(f"gt-{number}"))
            await manager.ledger.set_reachable("a", True, "", time.time() + number + 1)
        a.restore()
        said = await manager.explain(order("gt-x"))
        reasons = {verdict.outpost: verdict.reason for verdict in said.verdicts}
        assert "breaker is open after 5 failures in a row (a does not answer" in reasons["a"]
        asked = len(a.calls)
        assert (await manager.spawn(order("gt-x"))).worker.outpost == "b"
        assert len(a.calls) == asked
        with pytest.raises(NotPlacedError) as caught:
            await manager.spawn(order("gt-y"), on="a")
        assert caught.value.until == pytest.approx(time.time() + 30, abs=20)

    run(make(a, b), body)


@pytest.mark.parametrize(
    ("argv", "model"),
    [
        (("claude", "--model", "opus", "-p", "x"), "opus"),
        (("codex", "exec", "-m", "gpt-5"), "gpt-5"),
        (("claude", "--model=opus"), "opus"),
        (("claude", "-p", "--", "--model", "x"), ""),
        (("claude", "--model"), ""),
    ],
)
def test_the_model_of_an_order_is_read_from_its_command(argv: tuple[str, ...], model: str) -> None:
    one = Order(issue=Issue(id="x"), agent=Agent(argv=argv, name="claude"))
    assert model_of(one) == model
