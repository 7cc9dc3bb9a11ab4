"""Scale: many at once, with flat descriptors."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from outpost_core.types import State
from outpost_testing.registry import check
from outpost_testing.trial import COUNT, HOLD, expect

if TYPE_CHECKING:
    from outpost_testing.trial import Trial

#: Descriptors and threads that pools and caches may keep.
_SLACK = 16
#: So many followers, and so many stops, at once.
_TOGETHER = 20


def _descriptors() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


async def _flat(trial: Trial, before: int, threads: int) -> None:
    """Expect that descriptors and threads are back to about what they were."""

    async def few() -> bool:
        return _descriptors() - before <= _SLACK and threading.active_count() - threads <= 40

    await trial.until(few, f"{before} descriptors before, {_descriptors()} after; not back")


@check("scale", patience=5.0)
async def spawns_at_once(trial: Trial) -> None:
    """Many spawns at once all end well, each having run once, with flat descriptors."""
    count = trial.target.spawns
    orders = [trial.sh(COUNT) for _ in range(count)]
    before, threads = _descriptors(), threading.active_count()
    began = time.perf_counter()
    await asyncio.gather(*(trial.spawn(order) for order in orders))
    results = await trial.ended(*orders, within=trial.target.within * 4)
    took = time.perf_counter() - began
    wrong = [r for r in results if (r.state, r.exit_code) != (State.DONE, 0)]
    expect(not wrong, f"{len(wrong)} of {count} did not end well: {wrong[:1]}.")
    for order in orders:
        await trial.ran_once(order)
    await _flat(trial, before, threads)
    trial.notes.append(f"{count} workers in {took:.2f} s, {took / count * 1000:.1f} ms each")


@check("scale", patience=5.0)
async def list_of_many(trial: Trial) -> None:
    """The list of many workers is whole, and asked a hundred times holds no descriptors."""
    count, together = trial.target.listed, 25
    orders = [trial.order("/bin/sh", "-c", ":") for _ in range(count)]
    for start in range(0, count, together):
        await asyncio.gather(*(trial.spawn(order) for order in orders[start : start + together]))
    await trial.ended(*orders, within=trial.target.within * 4)
    await trial.outpost.outpost_list()
    before, threads = _descriptors(), threading.active_count()
    began = time.perf_counter()
    for _ in range(100):
        found = await trial.outpost.outpost_list()
    took = (time.perf_counter() - began) / 100
    expect(len(found) >= count, f"{len(found)} of {count} are listed.")
    await _flat(trial, before, threads)
    trial.notes.append(f"{len(found)} workers listed in {took * 1000:.2f} ms")


@check("scale", patience=4.0)
async def followers_of_many(trial: Trial) -> None:
    """Followers of many logs at once all come to the end, with flat descriptors."""
    count = min(_TOGETHER, trial.target.spawns)
    orders = [trial.sh(f"printf {n}; sleep 0.3; printf .") for n in range(count)]
    before, threads = _descriptors(), threading.active_count()
    for order in orders:
        await trial.spawn(order)
    followed = [number % count for number in range(_TOGETHER)]  # where they are dear, by several
    logs = await asyncio.gather(*(trial.log(orders[n], follow=True) for n in followed))
    for number, log in zip(followed, logs, strict=True):
        expect(log == f"{number}.".encode(), f"Number {number} gave {log!r}.")
    await _flat(trial, before, threads)


@check("scale", patience=4.0)
async def stops_at_once(trial: Trial) -> None:
    """Many stops at once all come to their end."""
    orders = [trial.sh(HOLD) for _ in range(min(_TOGETHER, trial.target.spawns))]
    await asyncio.gather(*(trial.spawn(order) for order in orders))
    await asyncio.gather(
        *(trial.outpost.outpost_stop(worker=order.worker, grace=0.5) for order in orders)
    )
    states = {str(result.state) for result in await trial.ended(*orders)}
    expect(states == {"stopped"}, f"They are {states}.")
