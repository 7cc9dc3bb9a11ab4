"""Stop: the whole tree and nothing else, idempotent, with the grace that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outpost_core.types import State
from outpost_testing.registry import check
from outpost_testing.trial import COUNT, HOLD, LEASH, expect

if TYPE_CHECKING:
    from outpost_core.types import Order
    from outpost_testing.trial import Trial


async def _up(trial: Trial, order: Order) -> None:
    """Spawn, and wait until its script has printed `up`."""
    await trial.spawn(order)

    async def printed() -> bool:
        return b"up" in await trial.log(order)

    await trial.until(printed, "the agent did not start")


async def _stopped(trial: Trial, order: Order, *, grace: float = 1.0) -> None:
    await trial.outpost.outpost_stop(worker=order.worker, grace=grace)
    (result,) = await trial.ended(order)
    got = (result.state, result.reason)
    expect(got == (State.STOPPED, "stopped"), f"It is told as {got}: {result.message}")


@check("stop")
async def ends_a_worker(trial: Trial) -> None:
    """A stop ends a working worker, which is then told as stopped."""
    order = trial.sh(f"echo up; {HOLD}")
    await _up(trial, order)
    await _stopped(trial, order)


@check("stop")
async def is_idempotent(trial: Trial) -> None:
    """Stopping again, by another object too, is fine and changes nothing."""
    order = trial.sh(f"echo up; {HOLD}")
    await _up(trial, order)
    await trial.outpost.outpost_stop(worker=order.worker, grace=1.0)
    await trial.another().outpost_stop(worker=order.worker, grace=1.0)
    (result,) = await trial.ended(order)
    await trial.outpost.outpost_stop(worker=order.worker, grace=1.0)
    expect((await trial.status(order)).result == result, "The result changed.")


@check("stop")
async def unknown_is_fine(trial: Trial) -> None:
    """Stopping a worker that never was is fine, and makes none."""
    order = trial.order("true")
    await trial.outpost.outpost_stop(worker=order.worker, grace=1.0)
    expect(order.worker not in await trial.listed(), "It is listed now.")


@check("stop")
async def ended_is_fine(trial: Trial) -> None:
    """Stopping a worker that has ended is fine and does not change how it ended."""
    order = trial.sh("exit 6")
    result = await trial.end(order)
    await trial.another().outpost_stop(worker=order.worker, grace=1.0)
    expect((await trial.status(order)).result == result, "The result changed.")


@check("stop", needs=("shared",))
async def takes_the_whole_tree(trial: Trial) -> None:
    """A stop ends children, grandchildren, `setsid` children and daemons of the agent."""
    hold = f"sh -c '{HOLD}'"
    order = trial.sh(
        f"{LEASH}; {hold} & setsid {hold} & (setsid {hold} &);"
        f" setsid sh -c '(setsid sh -c \"$0\" &); {HOLD}' '{HOLD}' & sleep 0.1; echo up; {HOLD}"
    )
    await _up(trial, order)
    await _stopped(trial, order)
    await trial.nothing_left()


@check("stop")
async def kills_what_ignores_it(trial: Trial) -> None:
    """An agent that ignores TERM is killed when the grace is over."""
    order = trial.sh(f"trap '' TERM INT HUP; {LEASH}; echo up; {HOLD}")
    await _up(trial, order)
    await _stopped(trial, order, grace=0.3)
    if trial.target.shared:
        await trial.nothing_left()


@check("stop")
async def grants_the_grace(trial: Trial) -> None:
    """An agent that tidies up on TERM has the time to, and its last words are in the log."""
    tidy = "trap 'sleep 0.3; echo tidied; exit 0' TERM"
    order = trial.sh(f"{tidy}; echo up; {HOLD}")
    await _up(trial, order)
    await _stopped(trial, order, grace=trial.target.within)
    log = await trial.log(order)
    # a shell may also say that the command it waited for was terminated
    expect(log.startswith(b"up\n") and log.endswith(b"tidied\n"), f"The log is {log!r}.")


@check("stop")
async def nothing_else(trial: Trial) -> None:
    """A stop leaves other workers alone, those whose ids begin alike too."""
    order = trial.sh(f"echo up; {HOLD}")
    other = trial.sh(f"echo up; {HOLD}", issue=order.issue.id + "0")
    third = trial.sh(f"echo up; {HOLD}", issue=order.issue.id, attempt=11)
    for each in (order, other, third):
        await _up(trial, each)
    await _stopped(trial, order)
    for each in (other, third):
        status = await trial.status(each)
        expect(not status.state.terminal, f"{each.worker} is {status.state} too.")


@check("stop")
async def right_after_spawn(trial: Trial) -> None:
    """A stop straight after the spawn is not lost: the worker ends, and stays so."""
    orders = [trial.sh(f"{COUNT}; {HOLD}") for _ in range(4)]
    for order in orders:
        await trial.spawn(order)
        await trial.outpost.outpost_stop(worker=order.worker, grace=0.5)
    results = await trial.ended(*orders)
    states = {str(result.state) for result in results}
    expect(states == {"stopped"}, f"They are {states}.")
    for order in orders:
        expect(await trial.runs(order) <= 1, "One ran twice.")


@check("stop")
async def by_another_program(trial: Trial) -> None:
    """Another program can stop a worker that it did not start."""
    order = trial.sh(f"echo up; {HOLD}")
    await _up(trial, order)
    await trial.answer(await trial.controller("stop", order))
    (result,) = await trial.ended(order)
    expect(result.state is State.STOPPED, f"It is {result.state}.")


@check("stop")
async def follow_ends_with_it(trial: Trial) -> None:
    """Whoever follows the log of a stopped worker comes to its end."""
    order = trial.sh(f"echo up; {HOLD}")
    await _up(trial, order)
    await trial.outpost.outpost_stop(worker=order.worker, grace=0.5)
    try:
        log = await trial.log(order, follow=True)
    except TimeoutError:
        expect(False, "It did not end.")
    expect(log == b"up\n", f"The log is {log!r}.")
