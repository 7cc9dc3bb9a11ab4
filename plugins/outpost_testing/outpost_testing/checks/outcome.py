"""Outcome: exits, signals and limits are told exactly; `done` means seen on the remote."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING, Final

from outpost_core.types import REASONS, Delivery, Limits, State
from outpost_testing.registry import add_check, check
from outpost_testing.trial import HOLD, LEASH, expect

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from outpost_core.types import Order, Result
    from outpost_testing.registry import CheckFunction
    from outpost_testing.trial import Trial

_GIT: Final = (
    "git",
    "-c",
    "init.defaultBranch=main",
    "-c",
    "user.name=kit",
    "-c",
    "user.email=kit@localhost",
)


def _exit(code: int) -> CheckFunction:
    async def exits(trial: Trial) -> None:
        result = await trial.end(trial.sh(f"exit {code}"))
        state, reason = (State.DONE, "ok") if code == 0 else (State.FAILED, "agent_failed")
        _same(result, (state, reason, code, None))

    return exits


def _signal(number: int) -> CheckFunction:
    async def dies(trial: Trial) -> None:
        result = await trial.end(trial.sh(f"kill -{number} $$; sleep 5"))
        _same(result, (State.FAILED, "agent_signal", None, number))

    return dies


def _same(result: Result, want: tuple[State, str, int | None, int | None]) -> None:
    got = (result.state, result.reason, result.exit_code, result.signal)
    expect(got == want, f"It is told as {got}, not {want} (state, reason, exit, signal).")


for _code in (0, 1, 2, 137, 255):
    add_check(
        _exit(_code), "outcome", f"exit_{_code}", f"An agent's exit code {_code} is told as it is."
    )
for _number, _name in ((9, "kill"), (15, "term"), (11, "segv")):
    add_check(
        _signal(_number), "outcome", f"signal_{_name}", f"A death by signal {_number} is told so."
    )


@check("outcome")
async def command_not_found(trial: Trial) -> None:
    """A command that is not there fails with the reason command_not_found."""
    result = await trial.end(trial.order("/nonexistent/agent", "--help"))
    got = (result.state, result.reason)
    expect(got == (State.FAILED, "command_not_found"), f"It is told as {got}.")


@check("outcome")
async def instant_exit_keeps_output(trial: Trial) -> None:
    """Agents that print and exit at once lose neither output nor exit code."""
    count = min(10, trial.target.spawns)
    orders = [trial.sh(f"printf out-{n}; exit {n}") for n in range(count)]
    for order in orders:
        await trial.spawn(order)
    results = await trial.ended(*orders)
    for number, (order, result) in enumerate(zip(orders, results, strict=True)):
        log = await trial.log(order)
        expect(log == f"out-{number}".encode(), f"Number {number} printed {log!r}.")
        expect(result.exit_code == number, f"Number {number} exited {result.exit_code}.")


@check("outcome")
async def timeout(trial: Trial) -> None:
    """The wall-clock limit ends the whole tree, with the reason timeout."""
    order = trial.sh(
        f"{LEASH}; setsid sh -c '{HOLD}' & {HOLD}", limits=Limits(timeout=0.5, grace=0.5)
    )
    result = await trial.end(order)
    got = (result.state, result.reason)
    expect(got == (State.FAILED, "timeout"), f"It is told as {got}.")
    if trial.target.shared:
        await trial.nothing_left()


@check("outcome")
async def idle_timeout(trial: Trial) -> None:
    """An agent that prints nothing for longer than the idle limit ends, with that reason."""
    limits = Limits(idle_timeout=0.6, grace=0.5)
    order = trial.sh(f"for i in 1 2 3 4; do echo $i; sleep 0.3; done; {HOLD}", limits=limits)
    result = await trial.end(order)
    got = (result.state, result.reason)
    expect(got == (State.FAILED, "idle_timeout"), f"It is told as {got}.")
    expect(await trial.log(order) == b"1\n2\n3\n4\n", "It was ended while it still printed.")


@check("outcome")
async def result_is_complete(trial: Trial) -> None:
    """A result has times in order, the size of the log and a known reason."""
    order = trial.sh("printf 12345")
    result = await trial.end(order)
    expect(result.started_at and result.finished_at, "A time is missing.")
    expect((result.started_at or 0) <= (result.finished_at or 0), "It ended before it started.")
    expect(result.log_bytes == 5, f"log_bytes is {result.log_bytes}, 5 were printed.")
    known = result.reason in REASONS or "_" in result.reason
    expect(known, f"The reason {result.reason!r} is neither known nor the backend's own.")


@check("outcome")
async def terminal_never_changes(trial: Trial) -> None:
    """A terminal state and its result never change, whatever is asked afterwards."""
    order = trial.sh("exit 4")
    result = await trial.end(order)
    await trial.outpost.outpost_stop(worker=order.worker, grace=0.0)
    await trial.spawn(order)
    await trial.outpost.outpost_stop(worker=order.worker, grace=0.0)
    for outpost in (trial.outpost, trial.another()):
        status = await trial.status(order, outpost)
        expect(status.result == result, f"It was {result}, it is {status.result}.")
        expect(status.state is result.state, f"It is {status.state} now.")


@check("outcome")
async def states_move_forward(trial: Trial) -> None:
    """A worker's states only move forward, and a result is there exactly when it has ended."""
    rank = {State.QUEUED: 0, State.STARTING: 1, State.WORKING: 2, State.IDLE: 2}
    order = trial.sh("sleep 0.3")
    last = await trial.spawn(order)
    while not last.state.terminal:
        status = await trial.status(order)
        before, now = rank.get(last.state, 3), rank.get(status.state, 3)
        expect(before <= now, f"It was {last.state} and is {status.state}.")
        expect(
            status.state.terminal == (status.result is not None),
            f"It is {status.state} and its result is {status.result}.",
        )
        last = status
        await asyncio.sleep(0.01)


@check("outcome", needs=("shared",))
async def leftovers_end_with_the_agent(trial: Trial) -> None:
    """What an agent leaves running, `setsid` or not, is gone when its result is there."""
    background = f"setsid sh -c '{HOLD}' & (sh -c '{HOLD}' &) & echo left"
    result = await trial.end(trial.sh(f"{LEASH}; {background}; sleep 0.1; exit 0"))
    expect(result.exit_code == 0, f"It exited {result.exit_code}.")
    await trial.nothing_left()


# --- with a repository ----------------------------------------------------------------------


def git(*args: str, folder: Path) -> str:
    """Run git, and return what it prints."""
    return git_bytes(*args, folder=folder).decode().strip()


def git_bytes(*args: str, folder: Path) -> bytes:
    """Run git, and return what it prints as it is."""
    return subprocess.run([*_GIT, *args], cwd=folder, capture_output=True, check=True).stdout


def make_rig(trial: Trial) -> Path:
    """Make a bare repository with one commit on main."""
    seed, rig = trial.folder / "seed", trial.folder / "rig.git"
    seed.mkdir()
    git("init", "--quiet", folder=seed)
    (seed / "README").write_text("a rig\n")
    git("add", "README", folder=seed)
    git("commit", "--quiet", "-m", "The beginning", folder=seed)
    git("clone", "--quiet", "--bare", str(seed), str(rig), folder=trial.folder)
    return rig


def rig_order(
    trial: Trial, rig: Path, script: str, *, args: Sequence[str] = (), **fields: object
) -> Order:
    """Return an order that runs a script in a working tree of the rig.

    Args:
        trial: the check's.
        rig: the repository.
        script: what runs.
        args: its `$1` and so on.
        fields: of the order.
    """
    issue = trial.order("true").issue.id
    delivery = Delivery(branch=f"polecat/{issue}", message=f"{issue}: work")
    return trial.sh(script, *args, issue=issue, rig=str(rig), delivery=delivery, **fields)


@check("outcome", needs=("rig", "local_rig"), patience=3.0)
async def delivers_a_branch(trial: Trial) -> None:
    """Done with a repository means: the work is on the remote, under the branch and commit told."""
    rig = make_rig(trial)
    order = rig_order(trial, rig, "cat README; echo new >new.txt")
    result = await trial.end(order)
    expect(result.state is State.DONE, f"It is {result.state} ({result.reason}): {result.message}")
    expect(result.branch == f"polecat/{order.issue.id}", f"The branch is {result.branch}.")
    there = git("rev-parse", f"refs/heads/{result.branch}", folder=rig)
    expect(result.commit == there, f"It says {result.commit}, the remote {there}.")
    text = git("show", f"{there}:new.txt", folder=rig)
    expect(text == "new", f"The file on the remote says {text!r}.")
    expect(await trial.log(order) == b"a rig\n", "The agent did not start in the working tree.")


@check("outcome", needs=("rig", "local_rig"), patience=3.0)
async def nothing_to_commit(trial: Trial) -> None:
    """An agent that changes nothing is told as such, without a branch."""
    rig = make_rig(trial)
    result = await trial.end(rig_order(trial, rig, "true"))
    got = (result.state, result.reason, result.branch)
    expect(got == (State.DONE, "nothing_to_commit", None), f"It is told as {got}.")
    branches = git("branch", "--list", "polecat/*", folder=rig)
    expect(not branches, f"The remote has {branches}.")


@check("outcome", needs=("rig", "local_rig"), patience=6.0)
async def refused_push_is_not_done(trial: Trial) -> None:
    """When the remote takes no branch, the worker has failed, and its work is kept somewhere."""
    rig = make_rig(trial)
    hook = rig / "hooks" / "update"
    hook.write_text('#!/bin/sh\ncase "$1" in refs/heads/*) echo no >&2; exit 1;; esac\n')
    hook.chmod(0o700)
    result = await trial.end(rig_order(trial, rig, "echo precious >precious.txt"))
    got = (result.state, result.reason, result.commit)
    expect(got == (State.FAILED, "push_failed", None), f"It is told as {got}.")
    expect(result.checkpoint, "It does not say where the work is kept.")


@check("outcome", needs=("shared", "rig", "local_rig", "checkpoint"), patience=4.0)
async def stop_keeps_the_work(trial: Trial) -> None:
    """Work of a stopped worker is on the remote as its checkpoint, and the next attempt has it."""
    rig = make_rig(trial)
    order = rig_order(trial, rig, f"echo half >half.txt; echo up >$CF_FOLDER/up; {HOLD}")
    await trial.spawn(order)
    await trial.seen("up")
    await trial.outpost.outpost_stop(worker=order.worker, grace=1.0)
    (result,) = await trial.ended(order)
    ref = f"refs/outpost/{order.worker}"
    expect(result.checkpoint == ref, f"The checkpoint is {result.checkpoint}: {result.message}")
    expect(git("show", f"{ref}:half.txt", folder=rig) == "half", "The file is not in it.")
    again = trial.sh(
        "cat half.txt", issue=order.issue.id, attempt=2, rig=str(rig), resume=ref,
        delivery=order.delivery,
    )  # fmt: skip
    await trial.end(again)
    expect(await trial.log(again) == b"half\n", "The next attempt did not find it.")
