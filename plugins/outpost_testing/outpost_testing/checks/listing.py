"""List, ping, price and doctor: what an outpost says of itself and its workers."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import TYPE_CHECKING

from outpost_core.errors import UnreachableError
from outpost_core.types import Facts, Finding, Health, split_worker_id
from outpost_testing.registry import check
from outpost_testing.trial import HOLD, expect

if TYPE_CHECKING:
    from outpost_core.types import Order
    from outpost_testing.trial import Trial


@check("list")
async def remembers_ended_workers(trial: Trial) -> None:
    """Ended workers stay in the list, with their results, until they are cleaned."""
    orders = [trial.sh(f"exit {code}") for code in (0, 1)]
    for order in orders:
        await trial.end(order)
    for outpost in (trial.outpost, trial.another()):
        found = await trial.listed(outpost)
        expect(len(found) == 2, f"{len(found)} of 2 are listed.")
        expect(all(status.result for status in found.values()), "A result is missing.")


@check("list")
async def objects_agree(trial: Trial) -> None:
    """Two objects list the same, and every id is a worker id."""
    orders = [trial.sh(HOLD), trial.sh("exit 0")]
    for order in orders:
        await trial.spawn(order)
    await trial.ended(orders[1])
    one, two = await trial.listed(), await trial.listed(trial.another())
    expect(one.keys() == two.keys(), f"{sorted(one)} and {sorted(two)}.")
    for worker in one:
        split_worker_id(worker)
        expect(one[worker].result == two[worker].result, f"Two results for {worker}.")


@check("list")
async def list_while_spawning(trial: Trial) -> None:
    """A list during spawns and ends is never an error, and shows only whole workers."""
    orders = [trial.sh("exit 0") for _ in range(8)]
    done = asyncio.Event()

    async def look() -> int:
        times, outpost = 0, trial.another()
        while not done.is_set():
            asked = time.monotonic()
            for status in (await trial.listed(outpost)).values():
                expect(status.digest, f"{status.id} is listed without a digest.")
            times += 1
            await asyncio.sleep(time.monotonic() - asked)  # half of the time is for the workers
        return times

    looking = asyncio.create_task(look())
    try:
        await asyncio.gather(*(trial.spawn(order) for order in orders))
        await trial.ended(*orders)
    finally:
        done.set()
    trial.notes.append(f"{await looking} lists")


@check("list")
async def ping_says_ok(trial: Trial) -> None:
    """An outpost that can take a worker says so."""
    health = await trial.outpost.outpost_ping()
    expect(isinstance(health, Health), f"Ping answered {health!r}.")
    expect(health.ok, f"It says: {health.detail}.")


@check("list", needs=("cut",))
async def unreachable_is_not_dead(trial: Trial) -> None:
    """While the outpost cannot be reached, list raises UnreachableError and says nothing of
    workers; afterwards they are as they were.
    """
    order = trial.sh(HOLD)
    await trial.spawn(order)
    _cut(trial)
    for outpost in (trial.outpost, trial.another()):
        try:
            found = await trial.listed(outpost)
        except UnreachableError:
            continue
        expect(False, f"List answered {[str(s.state) for s in found.values()]}.")
    _restore(trial)
    status = await trial.status(order)
    expect(not status.state.terminal, f"The worker is {status.state} now.")


@check("list", needs=("cut",))
async def unreachable_spawn_can_be_repeated(trial: Trial) -> None:
    """A spawn that could not reach the outpost is an UnreachableError; repeated, it runs once."""
    order = trial.sh('echo run >>"$CF_RUNS"')
    _cut(trial)
    try:
        await trial.outpost.outpost_spawn(order=order)
    except UnreachableError:
        _restore(trial)
    else:
        expect(False, "It was answered.")
    await trial.end(order)
    await trial.ran_once(order)


@check("list", needs=("cut",))
async def ping_tells_unreachable(trial: Trial) -> None:
    """Ping of an outpost that cannot be reached says so, and says the truth afterwards."""
    _cut(trial)
    try:
        health = await trial.outpost.outpost_ping()
    except UnreachableError:
        pass
    else:
        expect(not health.ok, "It said that all is well.")
    _restore(trial)
    expect((await trial.outpost.outpost_ping()).ok, "It did not recover.")


def _cut(trial: Trial) -> None:
    assert trial.target.cut is not None
    trial.target.cut()


def _restore(trial: Trial) -> None:
    assert trial.target.restore is not None
    trial.target.restore()


@check("list", needs=("price",))
async def price_is_pure(trial: Trial) -> None:
    """The price of an order is a number of USD, not negative, and the same when asked again."""
    order = trial.sh("exit 0")
    price = trial.outpost.outpost_price(order=order)
    expect(isinstance(price, int | float) and 0 <= price < math.inf, f"It is {price!r}.")
    expect(price == trial.another().outpost_price(order=order), "Asked again, it is another.")


@check("list", needs=("doctor",))
async def doctor_finds_all_well(trial: Trial) -> None:
    """Doctor names what it looked at; nothing is to be fixed where the checks run."""
    findings = await trial.outpost.outpost_doctor(rig=None)
    expect(findings, "It found nothing at all.")
    for finding in findings:
        expect(isinstance(finding, Finding), f"It answered {finding!r}.")
        expect(finding.ok is not False, f"{finding.check}: {finding.detail}.")


@check("list", needs=("clean",))
async def clean_removes_an_ended_worker(trial: Trial) -> None:
    """A worker that is listed as ended can be cleaned at once and is gone; cleaning it again, or
    an unknown one, is fine.
    """
    for _ in range(5):
        order = trial.sh("echo gone")
        await trial.spawn(order)
        result = None
        while result is None:  # about as early as can be: half of the time is for the worker
            asked = time.monotonic()
            result = (await trial.status(order)).result
            if result is None:
                await asyncio.sleep(time.monotonic() - asked)
        for _ in range(2):
            cleaned = await trial.outpost.outpost_clean(worker=order.worker, force=False)
            expect(cleaned.removed, f"It was not removed: {cleaned.detail}.")
        expect(order.worker not in await trial.listed(trial.another()), "It is still listed.")
    unknown = await trial.outpost.outpost_clean(worker=trial.order("true").worker, force=False)
    expect(unknown.removed, f"An unknown one was not: {unknown.detail}.")


@check("list", needs=("clean",))
async def clean_keeps_a_running_worker(trial: Trial) -> None:
    """A worker that runs is not removed, not even by force."""
    order = trial.sh(HOLD)
    await trial.spawn(order)
    for force in (False, True):
        cleaned = await trial.outpost.outpost_clean(worker=order.worker, force=force)
        expect(not cleaned.removed and cleaned.detail, f"It answered {cleaned}.")
    status = await trial.status(order)
    expect(not status.state.terminal, f"It is {status.state}.")


@check("list", needs=("facts",))
async def facts_are_true(trial: Trial) -> None:
    """Facts say for each program that was asked for where a worker finds it, "" for one that is
    not there, and as many cores and bytes of memory as a machine can have.
    """
    missing = ("no-such-program-of-anybody", "/nonexistent/agent", "$(echo sh)", "sh ")
    facts = await trial.outpost.outpost_facts(programs=["sh", *missing])
    expect(isinstance(facts, Facts), f"It answered {facts!r}.")
    asked, told = {"sh", *missing}, set(facts.programs)
    expect(told == asked, f"{sorted(asked)} were asked for, it tells of {sorted(told)}.")
    for name in missing:
        path = facts.programs[name]
        expect(path == "", f"It says that {name!r}, which is not there, is {path!r}.")
    order = trial.sh("command -v sh")
    await trial.end(order)
    found = (await trial.log(order)).decode().strip()
    expect(facts.programs["sh"] == found, f"sh is {facts.programs['sh']!r}, a worker has {found}.")
    cpus, memory = facts.cpus, facts.memory
    expect(cpus is None or 0 < cpus < 100_000, f"It says that it has {cpus} cores.")
    sensible = memory is None or (isinstance(memory, int) and 2**24 <= memory < 2**60)
    expect(sensible, f"It says that it has {memory} bytes of memory.")


@check("list", needs=("changes",))
async def tells_of_changes(trial: Trial) -> None:
    """Who listens hears at first, of a new worker, and of its end, and lists it then."""
    heard = asyncio.Event()

    async def listen() -> None:
        stream = trial.outpost.outpost_changes()
        async with contextlib.aclosing(stream) as changes:
            async for _ in changes:
                heard.set()

    async def told() -> bool:
        return heard.is_set()

    async def lists(order: Order, *, ended: bool) -> bool:
        if not heard.is_set():
            return False
        heard.clear()
        found = (await trial.listed()).get(order.worker)
        return found is not None and found.state.terminal is ended

    listening = asyncio.create_task(listen())
    try:
        await trial.until(told, "Nothing is told at first")
        order = trial.sh(HOLD)
        await trial.spawn(order)
        await trial.until(lambda: lists(order, ended=False), "A new worker is not told of")
        await trial.outpost.outpost_stop(worker=order.worker, grace=0.0)
        await trial.until(lambda: lists(order, ended=True), "The end of a worker is not told of")
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
