"""Outposts, each broken in one way that users have suffered from.

They are what the conformance kit is tested with: each must fail the check that is meant for it.
The module is a backend package; every mutant is an outpost type of its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from outpost_core import names
from outpost_core.backend import Backend
from outpost_core.errors import ConflictError, NotFoundError, UnreachableError
from outpost_core.hookspecs import API_VERSION, hookimpl
from outpost_core.types import Cleaned, Facts, Message, Order, Result, State, WorkerStatus
from outpost_testing.hostilemutants import HOSTILE, rewrite
from outpost_testing.reference import ReferenceOptions, ReferenceOutpost
from outpost_worker.folder import files, publish, status

OUTPOST_API: Final = API_VERSION


class LosesLastBytes(ReferenceOutpost):
    """Keeps back the end of every log, as a reader that waits for a whole line does."""

    type = "mutant-loses-last-bytes"

    @hookimpl
    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """Yield all but the last three bytes."""
        held = b""
        async with aclosing(super().outpost_logs(worker, offset, follow)) as stream:  # type: ignore[type-var]
            async for chunk in stream:
                held += chunk
                yield held[:-3]
                held = held[-3:]


class RunsTwice(ReferenceOutpost):
    """Runs the agent once more when the same order comes again."""

    type = "mutant-runs-twice"

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Spawn, and repeat what was there."""
        again = (self.root / files.WORKERS / order.worker).exists()
        answer = await super().outpost_spawn(order)
        if again:
            env = {**os.environ, **order.env}
            await asyncio.to_thread(subprocess.run, order.agent.argv, env=env, check=False)
        return answer


class LeaksChild(ReferenceOutpost):
    """Stops the agent's process group only, so that `setsid` children live on."""

    type = "mutant-leaks-child"

    def fence(self, order: Order) -> Mapping[str, Any]:  # noqa: ARG002
        """Have none, which would end them."""
        return {"mode": "off"}

    @hookimpl
    async def outpost_stop(self, worker: str, grace: float) -> None:  # noqa: ARG002
        """Kill the supervisor and the agent's group, and say that all is over."""
        folder = self.root / files.WORKERS / worker
        claim = files.load(str(folder), files.CLAIM)
        if claim is None or (folder / files.RESULT).exists():
            return
        children = _children(claim["pid"])
        os.kill(claim["pid"], signal.SIGKILL)
        for child in children:
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
        rewrite(folder, Result(state=State.STOPPED, reason="stopped", finished_at=time.time()))


class DoneWhenUnreachable(ReferenceOutpost):
    """Takes a line that does not answer for the end of the work."""

    type = "mutant-done-when-unreachable"

    @hookimpl
    async def outpost_list(self) -> Sequence[WorkerStatus]:
        """List, and guess when that is not possible."""
        try:
            return await super().outpost_list()
        except UnreachableError:
            done = Result(state=State.DONE)
            known = status.scan(self.root, {})
            return [replace(one, state=State.DONE, result=done) for one in known]


class AdoptsAnyOrder(ReferenceOutpost):
    """Looks at the id alone when it adopts."""

    type = "mutant-adopts-any-order"

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Spawn, and call whatever has that id the same."""
        try:
            return await super().outpost_spawn(order)
        except ConflictError:
            return status.read(self.folder_of(order.worker))


class IgnoresOffset(ReferenceOutpost):
    """Sends every log from its beginning."""

    type = "mutant-ignores-offset"

    @hookimpl
    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:  # noqa: ARG002
        """Yield from byte 0."""
        async with aclosing(super().outpost_logs(worker, 0, follow)) as stream:  # type: ignore[type-var]
            async for chunk in stream:
                yield chunk


class DiesWithController(ReferenceOutpost):
    """Ties the worker to the life of the program that started it."""

    type = "mutant-dies-with-controller"

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Spawn, knowing the thread whose end the kernel looks at."""
        self._loop = asyncio.get_running_loop()
        return await super().outpost_spawn(order)

    def start(self, folder: Path) -> None:
        """Start the supervisor so that the kernel kills it together with this process."""
        asyncio.run_coroutine_threadsafe(self._tie(folder), self._loop).result()

    async def _tie(self, folder: Path) -> None:
        set_death_signal = ctypes.CDLL(None).prctl
        subprocess.Popen(  # noqa: ASYNC220
            publish.command(folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: set_death_signal(1, signal.SIGKILL),
        )


class SecretInArgv(ReferenceOutpost):
    """Hands secrets over on a command line."""

    type = "mutant-secret-in-argv"

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Spawn, with the secrets at hand."""
        self._secrets = [f"{name}={order.secrets[name]}" for name in order.secrets]
        return await super().outpost_spawn(order)

    def start(self, folder: Path) -> None:
        """Start the supervisor below a shell that has the secrets as arguments."""
        script = f'shift {len(self._secrets)}; "$@"; :'
        command = publish.command(folder)
        self.start_detached(["/bin/sh", "-c", script, "sh", *self._secrets, *command])


class FollowNeverEnds(ReferenceOutpost):
    """Does not notice that a worker has ended while its log is followed."""

    type = "mutant-follow-never-ends"

    @hookimpl
    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """Yield all, and wait for more."""
        async with aclosing(super().outpost_logs(worker, offset, follow)) as stream:  # type: ignore[type-var]
            async for chunk in stream:
                yield chunk
        if follow:
            await asyncio.Event().wait()


class HidesExit137(ReferenceOutpost):
    """Takes 128 + 9 for a kill of its own, and calls the work done."""

    type = "mutant-hides-exit-137"

    async def looked_at(self, found: WorkerStatus) -> WorkerStatus:
        """Change the result that is told."""
        found = await super().looked_at(found)
        if found.result is None or found.result.exit_code != 137:
            return found
        result = replace(found.result, state=State.DONE, reason="ok", exit_code=0)
        return replace(found, state=State.DONE, result=result)


class ChangesTheEnd(ReferenceOutpost):
    """Writes a stop into the result of a worker that had ended."""

    type = "mutant-changes-the-end"

    @hookimpl
    async def outpost_stop(self, worker: str, grace: float) -> None:
        """Stop, whatever there is."""
        await super().outpost_stop(worker, grace)
        with suppress(NotFoundError):
            folder = self.folder_of(worker)
            if status.read(folder).state.terminal:
                self._attendant.forget(worker)
                rewrite(
                    folder, Result(state=State.STOPPED, reason="stopped", finished_at=time.time())
                )


class ForgetsInterruptedSpawn(ReferenceOutpost):
    """Believes that a worker which is there has been started."""

    type = "mutant-forgets-interrupted-spawn"

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Adopt what is there without a look at whether it runs."""
        folder = self.root / files.WORKERS / order.worker
        return status.read(folder) if folder.exists() else await super().outpost_spawn(order)


class DeliversTwice(ReferenceOutpost):
    """Takes a message that comes again after a lost answer for a new one."""

    type = "mutant-delivers-twice"

    def keep(self, message: Message) -> None:
        """Keep it under a name of its own."""
        super().keep(replace(message, id=os.urandom(8).hex()))


class ClaimsARescue(ReferenceOutpost):
    """Removes a worker's folder, and says that the work is where it was before that."""

    type = "mutant-claims-a-rescue"

    @hookimpl
    async def outpost_clean(self, worker: str, force: bool) -> Cleaned:  # noqa: ARG002
        """Remove it all."""
        with suppress(NotFoundError):
            folder = self.folder_of(worker)
            result = status.read(folder).result
            await asyncio.to_thread(shutil.rmtree, folder)
            return Cleaned(removed=True, rescued=result.checkpoint if result else None)
        return Cleaned(removed=True)


class OverwritesForeignRefs(ReferenceOutpost):
    """Pushes a checkpoint by force, whatever the remote has there."""

    type = "mutant-overwrites-foreign-refs"

    async def looked_at(self, found: WorkerStatus) -> WorkerStatus:
        """Push when the worker has ended."""
        found = await super().looked_at(found)
        folder = self.root / files.WORKERS / found.id
        order = files.order(str(folder))
        if found.result is not None and order is not None and order["rig"]:
            push = ["git", "push", "--quiet", order["rig"], f"+HEAD:{names.ref_of(order)}"]
            work = folder / files.WORK
            await asyncio.to_thread(subprocess.run, push, cwd=work, check=False)
        return found


class IgnoresTheBudget(ReferenceOutpost):
    """Lets an agent spend as much as it likes."""

    type = "mutant-ignores-the-budget"

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Spawn without the limit."""
        limits = replace(order.limits, max_agent_cost_usd=None)
        return await super().outpost_spawn(replace(order, limits=limits))


class WaitsForTheHung(ReferenceOutpost):
    """Waits for the exit of an agent that has reported its end."""

    type = "mutant-waits-for-the-hung"

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Spawn without the limit."""
        limits = replace(order.limits, final_grace=0.0)
        return await super().outpost_spawn(replace(order, limits=limits))


class HasEveryProgram(ReferenceOutpost):
    """Says that every program is there without a look."""

    type = "mutant-has-every-program"

    @hookimpl
    async def outpost_facts(self, programs: Sequence[str]) -> Facts:
        """Make paths up."""
        facts = await super().outpost_facts(programs)
        return replace(facts, programs={n: p or f"/bin/{n}" for n, p in facts.programs.items()})


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """One way to be broken.

    Args:
        outpost: the class; its docstring says what is wrong.
        caught_by: id of the check that must fail.
        saying: part of what the failure must say, so that it fails for the right reason; with `|`
            between what depends on who is quicker.
    """

    outpost: type[ReferenceOutpost]
    caught_by: str
    saying: str


MUTANTS: Final = tuple(
    Mutant(outpost=outpost, caught_by=caught_by, saying=saying)
    for outpost, caught_by, saying in (
        (LosesLastBytes, "logs.last_bytes_are_kept", "the end is b'"),
        (RunsTwice, "spawn.adopts_the_same_order", "ran 3 times"),
        (LeaksChild, "stop.takes_the_whole_tree", "a process of the worker keeps living"),
        (DoneWhenUnreachable, "list.unreachable_is_not_dead", "answered ['done']"),
        (AdoptsAnyOrder, "spawn.refuses_another_order", "The other order was answered"),
        (IgnoresOffset, "logs.resumes_at_any_offset", "From 1 of"),
        (
            DiesWithController,
            "crash.worker_outlives_its_controller",
            "No process of the worker lives|its supervisor vanished",
        ),
        (SecretInArgv, "security.secret_in_no_argv", "has it"),
        (FollowNeverEnds, "logs.follow_ends", "It did not end"),
        (HidesExit137, "outcome.exit_137", "'done'"),
        (ChangesTheEnd, "outcome.terminal_never_changes", "'stopped'"),
        (ForgetsInterruptedSpawn, "faults.spawn_killed_at_local_published", "did not end"),
        (ClaimsARescue, "rescue.when_the_remote_refuses", "nothing is there"),
        (OverwritesForeignRefs, "rescue.foreign_refs_stay", "was overwritten"),
        (IgnoresTheBudget, "agent.budget_is_kept", "did not end"),
        (WaitsForTheHung, "agent.hung_after_its_end", "did not end"),
        (HasEveryProgram, "list.facts_are_true", "which is not there"),
        (DeliversTwice, "mail.delivered_once", "It is there 4 times"),
        *HOSTILE,
    )
)


@hookimpl
def outpost_backends() -> Mapping[str, Backend]:
    """Offer every mutant as a type."""
    return {
        mutant.outpost.type: Backend(
            type=mutant.outpost.type,
            options=ReferenceOptions,
            build=mutant.outpost,
            summary=(mutant.outpost.__doc__ or "").strip(),
            capabilities=mutant.outpost.capabilities,
        )
        for mutant in MUTANTS
    }
