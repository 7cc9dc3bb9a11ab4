"""An outpost in memory, for tests of whatever uses outposts.

The module is a backend package of its own: register it with a pluggy manager and the type
`fake` exists. Two objects built with the same state folder in one process see the same workers,
as two programs on one real outpost would::

    outpost = FakeOutpost("here")
    outpost.script("gt-1.1", Script(output=b"hello\\n", result=Result(state=State.DONE)))
    outpost.refuse("no room")      # the next spawns raise SpawnRefusedError
    outpost.cut()                  # everything raises UnreachableError until restore()
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from outpost_core import wire
from outpost_core.backend import Backend, BuildContext, Outpost, OutpostOptions, option
from outpost_core.errors import ConflictError, NotFoundError, SpawnRefusedError, UnreachableError
from outpost_core.hookspecs import API_VERSION, CAPABILITIES, TRAITS, hookimpl
from outpost_core.types import (
    Cleaned,
    Facts,
    Finding,
    Health,
    Message,
    Order,
    Result,
    Scale,
    State,
    Step,
    WorkerStatus,
)
from outpost_shared.message import check, is_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

OUTPOST_API: Final = API_VERSION
ALL_CAPABILITIES: Final = frozenset({*CAPABILITIES, *TRAITS})


@dataclass(frozen=True, kw_only=True)
class FakeOptions(OutpostOptions):
    """Options of the type `fake`; each only says how the fake behaves."""

    price: float = option("USD that every order costs at worst", default=0.0, min=0)
    standing: float = option("USD that it costs an hour without a worker", default=0.0, min=0)
    delay: float = option("wait so long before every answer", default=0.0, min=0, unit="duration")
    run_for: float | None = option(
        "workers end by themselves after so long; without it, they work until told",
        default=None,
        min=0,
        unit="duration",
    )
    exit_code: int = option("with what workers end", default=0, min=0, max=255)
    output: str = option("what workers print", default="")
    refuse: str = option("refuse every spawn, saying this", default="")
    unreachable: str = option("never answer, saying this", default="")
    units: int = option("so many units are up at first", default=1, min=0)
    capabilities: tuple[str, ...] = option(
        "declare only these", default=tuple(sorted(ALL_CAPABILITIES))
    )

    def standing_cost(self) -> float:
        """Return what the options say."""
        return self.standing


@dataclass(frozen=True, kw_only=True)
class Script:
    """What one fake worker does.

    Args:
        output: what it prints, all at once, when it starts.
        after: seconds after which it ends; None: only when `finish` or a stop says so.
        result: how it ends.
    """

    output: bytes = b""
    after: float | None = None
    result: Result = field(default_factory=lambda: Result(state=State.DONE, exit_code=0))


@dataclass
class _World:
    """The workers at one fake outpost, and how it behaves; outlives the outpost object."""

    statuses: dict[str, WorkerStatus] = field(default_factory=dict)
    output: dict[str, bytes] = field(default_factory=dict)
    due: dict[str, tuple[float, Result]] = field(default_factory=dict)
    scripts: dict[str, Script] = field(default_factory=dict)
    orders: dict[str, Order] = field(default_factory=dict)
    mails: list[Message] = field(default_factory=list)
    listed: list[WorkerStatus] | None = None
    refusal: str = ""
    cut: str = ""
    units: int = 1
    scaling: str = ""
    delay: float = 0.0


class FakeOutpost(Outpost):
    """An outpost that runs nothing and does as it is told.

    Args:
        name: its name.
        options: how it behaves from the start.
        context: only its folder's path is used, as the name of the shared memory.

    Attributes:
        calls: `(hook, worker, address or "")` for each call, in order.
        nudges: `(worker, text)` typed.
        installed: agents that bootstrap has installed.
    """

    type = "fake"
    options: FakeOptions

    def __init__(
        self,
        name: str = "fake",
        options: FakeOptions | None = None,
        context: BuildContext | None = None,
        *,
        world: _World | None = None,
    ) -> None:
        options = options or FakeOptions()
        super().__init__(name, options, context or BuildContext(state_dir=Path("/nonexistent")))
        self.capabilities = frozenset(options.capabilities)
        self.calls: list[tuple[str, str]] = []
        self.nudges: list[tuple[str, str]] = []
        self.installed: set[str] = set()
        self._world = world or new_world(options)

    @classmethod
    def holding(
        cls, name: str, count: int, *, state: State = State.WORKING, prefix: str = "gt"
    ) -> FakeOutpost:
        """Return an outpost that already has `count` workers, `<prefix>-<name>-<n>.1`."""
        outpost = cls(name)
        now = time.time()
        for number in range(count):
            worker = f"{prefix}-{name}-{number}.1"
            result = (
                Result(state=state, started_at=now, finished_at=now) if state.terminal else None
            )
            outpost.put(
                WorkerStatus(id=worker, state=state, started_at=now, updated_at=now, result=result)
            )
        return outpost

    @property
    def mails(self) -> list[Message]:
        """Messages that were delivered, each once."""
        return self._world.mails

    # --- how it behaves ---------------------------------------------------------------------

    def cut(self, why: str = "the line is cut") -> None:
        """Raise UnreachableError from every hook until `restore`; workers keep running."""
        self._world.cut = why

    def restore(self) -> None:
        """Answer again."""
        self._world.cut = ""

    def refuse(self, why: str) -> None:
        """Raise SpawnRefusedError from spawns of new workers; "" to take them again."""
        self._world.refusal = why

    def refuse_to_scale(self, why: str) -> None:
        """Raise UnreachableError when units are to come or go; "" to do it again."""
        self._world.scaling = why

    def slow(self, seconds: float) -> None:
        """Wait so long before every answer."""
        self._world.delay = seconds

    def script(self, worker: str, script: Script) -> None:
        """Say what the worker of that id will do once it is spawned."""
        self._world.scripts[worker] = script

    def put(self, status: WorkerStatus, *, output: bytes = b"") -> None:
        """Have a worker, exactly so, without any spawn."""
        self._world.statuses[status.id] = status
        self._world.output[status.id] = output
        self._world.listed = None

    def write(self, worker: str, output: bytes) -> None:
        """Let a worker print more."""
        self._world.output[worker] = self._world.output.get(worker, b"") + output

    def finish(self, worker: str, result: Result | None = None) -> None:
        """End a worker now; a worker that has ended stays as it is."""
        status = self._world.statuses[worker]
        if status.state.terminal:
            return
        now = time.time()
        result = result or Result(state=State.DONE, exit_code=0)
        result = replace(
            result,
            started_at=result.started_at or status.started_at,
            finished_at=result.finished_at or now,
            log_bytes=len(self._world.output.get(worker, b"")),
        )
        self._world.due.pop(worker, None)
        self._world.statuses[worker] = replace(
            status, state=result.state, detail=result.message, updated_at=now, result=result
        )
        self._world.listed = None

    def order(self, worker: str) -> Order:
        """Return the order that a worker was spawned with."""
        return self._world.orders[worker]

    # --- the hooks --------------------------------------------------------------------------

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Have a worker, or find it."""
        await self._answer("outpost_spawn", order.worker)
        world, digest = self._world, wire.digest(order)
        known = world.statuses.get(order.worker)
        if known is not None:
            if known.digest != digest:
                raise ConflictError(f"{order.worker} exists at {self.name} with another order")
            return known
        if world.refusal:
            raise SpawnRefusedError(f"{self.name}: {world.refusal}")
        script = world.scripts.get(order.worker) or self._default_script()
        now = time.time()
        status = WorkerStatus(
            id=order.worker, state=State.WORKING, digest=digest, started_at=now, updated_at=now
        )
        world.orders[order.worker] = order
        self.put(status, output=script.output)
        if script.after is not None:
            world.due[order.worker] = (now + script.after, script.result)
            self._advance()
        return world.statuses[order.worker]

    @hookimpl
    async def outpost_list(self) -> Sequence[WorkerStatus]:
        """Return every worker; the same list object until something changes."""
        await self._answer("outpost_list")
        self._advance()
        if self._world.listed is None:
            self._world.listed = list(self._world.statuses.values())
        return self._world.listed

    @hookimpl
    async def outpost_ping(self) -> Health:
        """Say that all is well, or what `refuse` was told."""
        await self._answer("outpost_ping")
        return Health(ok=not self._world.refusal, detail=self._world.refusal or "in memory")

    @hookimpl
    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """Yield what the worker has printed."""
        await self._answer("outpost_logs", worker)
        self._known(worker)
        while True:
            self._advance()
            ended = self._known(worker).state.terminal
            chunk = self._world.output.get(worker, b"")[offset:]
            if chunk:
                offset += len(chunk)
                yield chunk
            elif ended or not follow:
                return
            else:
                await asyncio.sleep(0.01)

    @hookimpl
    async def outpost_stop(self, worker: str, grace: float) -> None:  # noqa: ARG002
        """End the worker at once."""
        await self._answer("outpost_stop", worker)
        self._advance()
        if worker in self._world.statuses:
            self.finish(worker, Result(state=State.STOPPED, reason="stopped", signal=15))

    @hookimpl
    async def outpost_clean(self, worker: str, force: bool) -> Cleaned:  # noqa: ARG002
        """Forget an ended worker."""
        await self._answer("outpost_clean", worker)
        self._advance()
        status = self._world.statuses.get(worker)
        if status is not None and not status.state.terminal:
            return Cleaned(removed=False, detail="it is still running")
        self._world.statuses.pop(worker, None)
        self._world.output.pop(worker, None)
        self._world.listed = None
        return Cleaned(removed=True)

    @hookimpl
    async def outpost_changes(self) -> AsyncIterator[None]:
        """Yield at first, and whenever what `outpost_list` returns is another list."""
        await self._answer("outpost_changes")
        while True:
            self._advance()
            told = [*self._world.statuses.values()]
            yield
            while told == [*self._world.statuses.values()]:
                await asyncio.sleep(0.01)
                self._advance()

    @hookimpl
    async def outpost_attach(self, worker: str) -> int:
        """Look at nothing."""
        await self._answer("outpost_attach", worker)
        self._known(worker)
        return 0

    @hookimpl
    async def outpost_nudge(self, worker: str, text: str) -> None:
        """Remember the text."""
        await self._answer("outpost_nudge", worker)
        self._known(worker)
        self.nudges.append((worker, text))

    @hookimpl
    async def outpost_peek(self, worker: str, lines: int) -> str:
        """Return the last lines of the output."""
        await self._answer("outpost_peek", worker)
        self._known(worker)
        text = self._world.output.get(worker, b"").decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    @hookimpl
    async def outpost_mail(self, message: Message) -> None:
        """Remember the message, unless it is there."""
        await self._answer("outpost_mail", message.to)
        check(message)
        if not message.id or all(one.id != message.id for one in self.mails):
            self.mails.append(message)

    @hookimpl
    async def outpost_inbox(self, identity: str) -> Sequence[Message]:
        """Return what was remembered."""
        await self._answer("outpost_inbox", identity)
        return [one for one in self.mails if not identity or is_for(one.to, identity)]

    @hookimpl
    def outpost_price(self, order: Order) -> float:  # noqa: ARG002
        """Return the price from the options."""
        return self.options.price

    @hookimpl
    async def outpost_scale(self, to: int | None) -> Scale:
        """Have so many units up, at once; at none of them nothing else answers."""
        self.calls.append(("outpost_scale", "" if to is None else str(to)))
        if self._world.delay:
            await asyncio.sleep(self._world.delay)
        if to is not None and self._world.scaling:
            raise UnreachableError(self._world.scaling)
        if to is not None:
            self._world.units = min(to, 10)
            self._world.cut = "" if to else "it is off"
        return Scale(running=self._world.units, target=self._world.units, limit=10, price=0.5)

    @hookimpl
    async def outpost_facts(self, programs: Sequence[str]) -> Facts:
        """Say that there is room for everything, and that every program is installed."""
        await self._answer("outpost_facts")
        return Facts(cpus=64, memory=2**38, programs={name: f"/memory/{name}" for name in programs})

    @hookimpl
    async def outpost_doctor(self, rig: str | None) -> Sequence[Finding]:  # noqa: ARG002
        """Find that memory is there."""
        await self._answer("outpost_doctor")
        return [Finding(check="memory", ok=True, detail="this outpost lives in memory")]

    @hookimpl
    async def outpost_bootstrap(self, agents: Sequence[str], dry_run: bool) -> AsyncIterator[Step]:
        """Pretend to install each agent, once."""
        await self._answer("outpost_bootstrap")
        for agent in agents:
            yield Step(name=f"agent {agent}", state="doing")
            there = agent in self.installed
            if not dry_run:
                self.installed.add(agent)
            state = "ok" if there else "would" if dry_run else "done"
            yield Step(name=f"agent {agent}", state=state, detail="in memory")

    # --- inside -----------------------------------------------------------------------------

    def _default_script(self) -> Script:
        state = State.DONE if self.options.exit_code == 0 else State.FAILED
        reason = "ok" if state is State.DONE else "agent_failed"
        return Script(
            output=self.options.output.encode(),
            after=self.options.run_for,
            result=Result(state=state, reason=reason, exit_code=self.options.exit_code),
        )

    async def _answer(self, hook: str, worker: str = "") -> None:
        self.calls.append((hook, worker))
        if self._world.delay:
            await asyncio.sleep(self._world.delay)
        if self._world.cut:
            self._raise_cut()

    def _raise_cut(self) -> NoReturn:
        raise UnreachableError(
            f"{self.name} does not answer: {self._world.cut}", hint="try again later", sent=False
        )

    def _known(self, worker: str) -> WorkerStatus:
        try:
            return self._world.statuses[worker]
        except KeyError:
            raise NotFoundError(f"{self.name} has no worker {worker}") from None

    def _advance(self) -> None:
        if not self._world.due:
            return
        now = time.time()
        for worker, (at, result) in list(self._world.due.items()):
            if at <= now:
                self.finish(worker, result)


def new_world(options: FakeOptions) -> _World:
    """Return an empty memory that behaves as the options say."""
    cut = options.unreachable or ("" if options.units else "it is off")
    return _World(refusal=options.refuse, cut=cut, delay=options.delay, units=options.units)


def fake_backend(outposts: Mapping[str, FakeOutpost] | None = None) -> Backend:
    """Return a backend of the type `fake`.

    Args:
        outposts: objects that it gives out under these names, instead of building them, so that
            a test can script what a manager will use. Other names are built; those of one state
            folder share their memory as long as this backend lives.
    """
    ready = dict(outposts or {})
    worlds: dict[Path, _World] = {}

    def build(name: str, options: Any, context: BuildContext) -> Outpost:
        if name in ready:
            return ready[name]
        world = worlds.setdefault(context.state_dir, new_world(options))
        return FakeOutpost(name, options, context, world=world)

    return Backend(
        type="fake",
        options=FakeOptions,
        build=build,
        summary="an outpost in memory, for tests",
        capabilities=ALL_CAPABILITIES,
    )


_BACKEND: Final = fake_backend()


@hookimpl
def outpost_backends() -> Mapping[str, Backend]:
    """Offer the type `fake`."""
    return {"fake": _BACKEND}
