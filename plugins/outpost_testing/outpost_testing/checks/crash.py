"""Crash and faults: the program that works with an outpost dies, at any moment."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from outpost_core.types import State
from outpost_shared import faults
from outpost_testing.checks.outcome import git, make_rig, rig_order
from outpost_testing.processes import watcher
from outpost_testing.registry import add_check, check
from outpost_testing.trial import COUNT, HOLD, LEASH, expect

if TYPE_CHECKING:
    from outpost_testing.registry import CheckFunction
    from outpost_testing.trial import Trial


#: Points of the far side at which the agent's end is not known yet.
_BEFORE_THE_END: Final = ("worker.claimed", "worker.prepared", "worker.agent_started")


async def _outlives(trial: Trial, number: int) -> None:
    order = trial.sh(f"{COUNT}; {LEASH}; echo up >$CF_FOLDER/up; {HOLD}; exit 0")
    child = await trial.controller("hold", order)
    await trial.seen("up")
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)
    await child.communicate()
    status = await trial.status(order)
    expect(not status.state.terminal, f"The worker is {status.state} ({status.result}).")
    expect(trial.leashed(), "No process of the worker lives.")
    trial.release()
    (result,) = await trial.ended(order)
    got = (result.state, result.exit_code)
    expect(got == (State.DONE, 0), f"The worker is {got[0]}, exit {got[1]}: {result.message}")
    await trial.ran_once(order)


@check("crash", needs=("shared",))
async def worker_outlives_its_controller(trial: Trial) -> None:
    """A worker runs on, and its outcome is told, when the program that spawned it is killed."""
    await _outlives(trial, signal.SIGKILL)


@check("crash", needs=("shared",))
async def worker_outlives_a_hangup(trial: Trial) -> None:
    """A worker keeps running when the terminal of the program that spawned it goes away."""
    await _outlives(trial, signal.SIGHUP)


@check("crash", needs=("shared",))
async def worker_outlives_an_interrupt(trial: Trial) -> None:
    """A worker keeps running when Ctrl-C ends the program that spawned it."""
    await _outlives(trial, signal.SIGINT)


@check("crash", needs=("shared",))
async def dead_supervisor_is_told(trial: Trial) -> None:
    """When what watches over an agent is killed, the worker ends as lost or failed, its tree
    ends with it, and it does not run again.
    """
    order = trial.sh(
        f"{COUNT}; {LEASH}; setsid sh -c '{HOLD}' & echo $$ $PPID >$CF_FOLDER/up; {HOLD}"
    )
    await trial.spawn(order)
    agent, parent = map(int, (await trial.seen("up")).split())
    os.kill(watcher(agent, parent, str(trial.folder)), signal.SIGKILL)
    (result,) = await trial.ended(order)
    expect(result.state in (State.LOST, State.FAILED), f"It is told as {result.state}.")
    await trial.spawn(order)
    await trial.nothing_left()
    await trial.ran_once(order)


@check("crash", needs=("shared",))
async def log_of_a_killed_controller(trial: Trial) -> None:
    """What a worker prints after its controller was killed is in its log."""
    order = trial.sh(f"echo before; echo up >$CF_FOLDER/up; {HOLD}; echo after")
    child = await trial.controller("hold", order)
    await trial.seen("up")
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    await child.communicate()
    trial.release()
    await trial.ended(order)
    log = await trial.log(order)
    expect(log == b"before\nafter\n", f"It is {log!r}.")


# --- faults: killed at a named write point ------------------------------------------------------


def _spawn_dies_at(point: str) -> CheckFunction:
    async def dies(trial: Trial) -> None:
        order = trial.sh(f"{COUNT}; {LEASH}; sleep 0.2")
        await trial.killed(await trial.controller("spawn", order, fault=point), point)
        await trial.listed(trial.another())
        await trial.spawn(order, trial.another())
        (result,) = await trial.ended(order)
        expect(result.state is State.DONE, f"It is {result.state}: {result.message}")
        await trial.ran_once(order)
        await trial.nothing_left()

    return dies


def _manager_dies_at(point: str) -> CheckFunction:
    async def dies(trial: Trial) -> None:
        name = trial.target.name
        order = trial.sh(f"{COUNT}; {LEASH}; sleep 0.2")
        await trial.killed(await trial.controller("manage", order, fault=point), point)
        manager = await trial.manager()
        before = {worker.id for worker in await manager.workers(all=True)}
        expect(order.worker in before, "The ledger does not know the order that it had reserved.")
        spawned = await manager.spawn(order, on=name)
        expect(spawned.worker.id == order.worker, f"It is {spawned.worker.id} now.")
        (worker,) = await manager.wait([order.worker], timeout=trial.target.within)
        expect(worker.state is State.DONE, f"The ledger says {worker.state}: {worker.detail}")
        await trial.ran_once(order)
        await trial.nothing_left()
        active = (await manager.ledger.active()).get(name, 0)
        others = list(await manager.ledger.workers(outpost=name, active=True))
        expect(active == len(others), f"{active} slots are held, {len(others)} workers live.")
        expect(order.worker not in {w.id for w in others}, "Its slot is still held.")

    return dies


for _point in faults.LOCAL:
    add_check(
        _spawn_dies_at(_point),
        "faults",
        f"spawn_killed_at_{_point.replace('.', '_')}",
        f"A spawn killed at {_point} and repeated is one worker that runs once.",
        needs=("shared",),
    )
for _point in faults.NEAR + faults.LOCAL:
    add_check(
        _manager_dies_at(_point),
        "faults",
        f"manager_killed_at_{_point.replace('.', '_')}",
        f"A manager killed at {_point} leaves one worker, no orphan and no held slot.",
        needs=("shared",),
    )


def _supervisor_dies_at(point: str) -> CheckFunction:
    async def dies(trial: Trial) -> None:
        rig = make_rig(trial)
        work = 'echo new >new.txt; touch "$CF_FOLDER/made"'
        order = rig_order(trial, rig, f"{COUNT}; {LEASH}; sleep 0.1; {work}")
        child = await trial.controller("spawn", order, fault=point)
        await trial.answer(child)
        (result,) = await trial.ended(order)
        await trial.spawn(order, trial.another())
        expect((await trial.status(order)).result == result, "The result changed.")
        runs = await trial.runs(order)
        expect(runs <= 1, "It ran twice.")
        await trial.nothing_left()
        if point in _BEFORE_THE_END and point in trial.target.fault_points:
            expect(result.state is State.LOST, f"It did not die there, or is {result.state}.")
        if result.state is State.DONE:
            there = git("rev-parse", f"refs/heads/{result.branch}", folder=rig)
            expect(result.commit == there, f"It says {result.commit}, the remote {there}.")
        else:
            expect(result.state in (State.LOST, State.FAILED), f"It is {result.state}.")
            kept = result.checkpoint or not (trial.folder / "made").exists()
            expect(kept, f"It does not say where the work is: {result.message}")

    return dies


for _point in faults.FAR:
    add_check(
        _supervisor_dies_at(_point),
        "faults",
        f"worker_killed_at_{_point.replace('.', '_')}",
        f"A worker whose supervisor dies at {_point} ends truthfully, with its work kept.",
        needs=("shared", "rig", "local_rig"),
        patience=4.0,
    )


@check("faults", needs=("shared",))
async def race_of_retries(trial: Trial) -> None:
    """After a kill in the middle of a spawn, four programs that repeat it at once run it once."""
    order, point = trial.sh(f"{COUNT}; sleep 0.1"), "local.published"
    await trial.killed(await trial.controller("spawn", order, fault=point), point)
    for each in [await trial.controller("spawn", order) for _ in range(4)]:
        await trial.answer(each)
    await trial.ended(order)
    await trial.ran_once(order)
