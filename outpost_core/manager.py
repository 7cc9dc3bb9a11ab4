"""The typed facade: one per program, async. Everything the command line does goes through it."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from outpost_core.config import Config, find_config, load_config
from outpost_core.errors import (
    ConflictError,
    NotFoundError,
    OutpostError,
    PluginError,
    UnreachableError,
    UsageError,
)
from outpost_core.fleet import Fleet, OutpostView
from outpost_core.ledger import Claim, Ledger
from outpost_core.paths import state_dir
from outpost_core.plugins import Plugins
from outpost_core.policy import DefaultPolicy
from outpost_core.types import (
    Cleaned,
    Event,
    Explanation,
    Finding,
    Health,
    Issue,
    Message,
    Order,
    Result,
    State,
    Worker,
    WorkerStatus,
)
from outpost_core.worker.identity import me

if TYPE_CHECKING:
    from outpost_core.agents import AgentPreset
    from outpost_core.orders import OrderRequest
    from outpost_core.placement import Placement, Spawned

#: Pauses between two looks at running workers, in seconds: short after a change, then longer.
POLL_MIN, POLL_MAX, POLL_GROWTH = 0.02, 1.0, 1.3
#: Events that happen outside of the ledger.
_NOTED = frozenset({"refused", "stop", "unfinished"})


class Manager:
    """What a program holds to work with outposts.

    Use it as an async context manager; reading methods without `async` ask no outpost.

    Args:
        config: what is configured.
        plugins: what is installed.
        state: the state folder, for the ledger and the outposts' own files.
        environ: the environment, for secrets.
        cwd: where relative paths of orders start.
    """

    def __init__(
        self,
        config: Config,
        plugins: Plugins,
        state: Path,
        environ: Mapping[str, str],
        cwd: Path,
    ) -> None:
        self.config = config
        self.plugins = plugins
        self.state = state
        self.fleet = Fleet(config=config, plugins=plugins, state_dir=state)
        self.observer_errors: list[str] = []
        self._environ = environ
        self._cwd = cwd
        self._ledger: Ledger | None = None
        self._placement: Placement | None = None
        if not plugins.pm.has_plugin("policy"):
            plugins.pm.register(DefaultPolicy(config.policy), name="policy")

    @classmethod
    def open(
        cls,
        *,
        config: Path | None = None,
        state: Path | None = None,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        plugins: Plugins | None = None,
    ) -> Manager:
        """Find and load the configuration and the plugins; imports no SDK, asks nobody.

        Args:
            config: path of `outposts.yaml`; None searches as the documentation says.
            state: the state folder; None for `$OUTPOST_STATE` or the user's.
            environ: instead of `os.environ`.
            cwd: instead of the current folder.
            plugins: instead of the installed ones.

        Raises:
            ConfigError: a mistake in the configuration.
        """
        env = os.environ if environ is None else environ
        here = Path.cwd() if cwd is None else cwd
        found = Plugins.load() if plugins is None else plugins
        path, _ = find_config(config, env, here)
        loaded = load_config(path, found.backends)
        return cls(loaded, found, state or state_dir(env), env, here)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of connections and files. Workers go on."""
        await self.fleet.close()
        self.close()

    def close(self) -> None:
        """Let go of the ledger alone; enough when no outpost was asked."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
            self._placement = None

    @property
    def ledger(self) -> Ledger:
        """The ledger, opened when first used."""
        if self._ledger is None:
            self._ledger = Ledger(self.state)
        return self._ledger

    def _places(self) -> Placement:
        if self._placement is None:
            from outpost_core.placement import Placement

            self._placement = Placement(
                fleet=self.fleet,
                ledger=self.ledger,
                tell=self._tell,
                spawn_timeout=self.config.defaults.spawn_timeout,
                answer_timeout=self.config.defaults.answer_timeout,
            )
        return self._placement

    # --- orders -------------------------------------------------------------------------------

    def agents(self) -> dict[str, AgentPreset]:
        """Return every agent preset, built in and from plugins; a plugin's wins."""
        from outpost_core.agents import PRESETS

        presets = dict(PRESETS)
        for more in self.plugins.pm.hook.outpost_agents():
            presets.update(more)
        return presets

    def find_issue(self, issue: str, rig: str | None) -> Issue | None:
        """Ask the plugins, then beads, what an issue is; None when nobody knows it."""
        answer = self.plugins.pm.hook.outpost_issue(issue_id=issue, rig=rig)
        if answer is None:
            from outpost_core.issues import BeadsIssues

            answer = BeadsIssues().outpost_issue(issue_id=issue, rig=rig)
        if answer is not None and not isinstance(answer, Issue):
            raise PluginError(f"outpost_issue answered a {type(answer).__name__}")
        return answer

    def order(self, request: OrderRequest) -> Order:
        """Build and check the order of a request; chooses the attempt.

        Without `attempt` and `again` it is the last attempt there was (so that asking twice is
        the same worker), else the first.

        Raises:
            UsageError: something in it is wrong.
            ConflictError: `again` while the last attempt still runs.
        """
        from outpost_core.orders import Surroundings, make_order

        attempt, resume = self._attempt(request)
        around = Surroundings(
            defaults=self.config.defaults,
            presets=self.agents(),
            find_issue=self.find_issue,
            environ=self._environ,
            cwd=self._cwd,
            attempt=attempt,
            resume=resume,
        )
        return make_order(request, around)

    def _attempt(self, request: OrderRequest) -> tuple[int, str | None]:
        if request.attempt is not None:
            if request.again:
                raise UsageError(
                    "both --attempt and --again were given", mend="give one of the two"
                )
            if not 1 <= request.attempt <= 999_999:
                raise UsageError(f"attempt {request.attempt} is not between 1 and 999999")
        earlier = {w.attempt: w for w in self.ledger.attempts(request.issue)}
        last = max(earlier, default=0)
        if request.again and last and not earlier[last].state.terminal:
            raise ConflictError(
                f"{earlier[last].id} still runs at {earlier[last].outpost}",
                mend=f"outpost stop {earlier[last].id} first, or follow it: outpost logs -f"
                f" {earlier[last].id}",
            )
        attempt = request.attempt or (last + 1 if request.again else max(last, 1))
        before = earlier.get(attempt - 1)
        kept = before.result.checkpoint if before and before.result else None
        return attempt, kept if kept and kept.startswith("refs/") else None

    # --- placing ------------------------------------------------------------------------------

    async def spawn(
        self,
        order: Order,
        *,
        on: str | None = None,
        progress: Callable[[Event], None] | None = None,
    ) -> Spawned:
        """Place one order and start its worker, or adopt the one that is there.

        Args:
            order: what is to be done.
            on: the outpost to use; None lets the policy choose.
            progress: is told each step (`placed`, `reserved`, `starting`, `refused`, `spawned`).

        Raises:
            ConflictError: the id exists with another order.
            PlacementError: nobody could take it.
            UnreachableError: it may have been started; nobody can say now.
        """
        (answer,) = await self.spawn_many([order], on=on, progress=progress)
        if isinstance(answer, OutpostError):
            raise answer
        return answer

    async def spawn_many(
        self,
        orders: Sequence[Order],
        *,
        on: str | None = None,
        progress: Callable[[Event], None] | None = None,
    ) -> list[Spawned | OutpostError]:
        """Place several orders at once; each answer is a worker or its own error."""
        if on is not None:
            self.fleet.configured(on)

        def tell(event: Event) -> None:
            self._tell(event)
            if progress is not None:
                progress(event)

        return await self._places().spawn_many(orders, on=on, tell=tell)

    async def explain(self, order: Order, *, on: str | None = None) -> Explanation:
        """Say where an order would go and why, after asking every outpost; changes nothing."""
        if on is not None:
            self.fleet.configured(on)
        answers = await self.ping([view.name for view in self.outposts()])
        health = {name: a for name, a in answers.items() if isinstance(a, Health)}
        views = self.fleet.views(self.ledger, health)
        sheets = self.fleet.candidates(order, views, time.time())
        return self._places().assign(order, sheets, on).explain()

    # --- outposts -----------------------------------------------------------------------------

    def outposts(self) -> list[OutpostView]:
        """Describe every configured outpost without asking any."""
        return self.fleet.views(self.ledger)

    def _usable(self, names: Iterable[str] | None) -> list[str]:
        if names is not None:
            return [self.fleet.configured(name).name for name in names]
        return [
            o.name
            for o in self.config.outposts
            if o.options is not None and o.type in self.plugins.backends
        ]

    async def ping(self, names: Iterable[str] | None = None) -> dict[str, Health | OutpostError]:
        """Ask outposts whether they would take a worker; all configured ones by default."""
        names = self.fleet.names if names is None else list(names)

        async def one(name: str) -> Health | OutpostError:
            begun = time.perf_counter()
            try:
                health = await self.fleet.ask(
                    name, "outpost_ping", timeout=self.config.defaults.answer_timeout
                )
            except UnreachableError as error:
                self.ledger.set_reachable(name, False, error.message, time.time())
                return error
            except OutpostError as error:
                return error
            if not isinstance(health, Health):
                return PluginError(f"outpost_ping of {name!r} answered a {type(health).__name__}")
            self.ledger.set_reachable(name, True, health.detail, time.time())
            from dataclasses import replace

            return replace(health, latency=time.perf_counter() - begun)

        import asyncio

        answers = await asyncio.gather(*(one(name) for name in names))
        return dict(zip(names, answers, strict=True))

    async def refresh(self, names: Iterable[str] | None = None) -> list[OutpostView]:
        """Ask outposts for their workers, bring the ledger up to date, finish broken spawns."""
        asked_at = time.time()
        asked = self._usable(names)
        answers = await self.fleet.ask_all(
            asked, "outpost_list", timeout=self.config.defaults.answer_timeout
        )
        reachable = []
        for name, answer in answers.items():
            if isinstance(answer, UnreachableError):
                self.ledger.set_reachable(name, False, answer.message, asked_at)
            elif not isinstance(answer, OutpostError):
                reachable.append(name)
                self._take(name, answer, asked_at)
        if reachable:
            await self._places().recover(reachable, self._environ)
        return self.outposts()

    def _take(self, name: str, statuses: Sequence[WorkerStatus], asked_at: float) -> None:
        self.ledger.set_reachable(name, True, "", asked_at)
        changed = self.ledger.record(name, self._certain(statuses))
        gone = self.ledger.missing(name, {status.id for status in statuses}, asked_at)
        if gone:
            lost = [
                WorkerStatus(
                    id=worker.id,
                    state=State.LOST,
                    digest=worker.digest,
                    result=Result(
                        state=State.LOST,
                        reason="lost_process",
                        message=f"outpost {name} no longer knows it",
                        finished_at=asked_at,
                    ),
                )
                for worker in gone
            ]
            changed += self.ledger.record(name, lost)
        for worker in changed:
            self._tell(
                Event(
                    kind="state",
                    at=asked_at,
                    worker=worker.id,
                    outpost=name,
                    data={"state": worker.state.value, "detail": worker.detail},
                )
            )

    def _certain(self, statuses: Sequence[WorkerStatus]) -> Sequence[WorkerStatus]:
        """Leave out what is queued there and whose spawn here is not finished.

        Its spawner may have died before it was started, so the spawn is repeated, not believed.
        """
        queued = {status.id for status in statuses if status.state is State.QUEUED}
        if queued:
            queued &= {worker.id for worker in self.ledger.unspawned(0.0)}
        return [s for s in statuses if s.id not in queued] if queued else statuses

    # --- workers ------------------------------------------------------------------------------

    async def workers(
        self,
        *,
        all: bool = False,  # noqa: A002
        refresh: bool = True,
    ) -> list[Worker]:
        """Return workers, newest first; without `all` those that have not ended."""
        if refresh:
            await self.refresh()
        return self.ledger.workers(active=None if all else True)

    def find(self, ref: str) -> Worker:
        """Return a worker by its id, or the newest attempt at an issue, without asking anyone.

        Raises:
            NotFoundError: neither is known.
        """
        worker = self.ledger.worker(ref)
        attempts = [] if worker else self.ledger.attempts(ref)
        if worker is None and attempts:
            worker = max(attempts, key=lambda w: w.attempt)
        if worker is None:
            raise NotFoundError(
                f"there is no worker or issue {ref[:120]!a}",
                mend="outpost workers --all shows those that there are",
            )
        return worker

    async def worker(self, ref: str, *, refresh: bool = True) -> Worker:
        """Return a worker after asking its outpost (when it has not ended).

        Raises:
            NotFoundError: it is not known, even after asking every outpost.
        """
        try:
            worker = self.find(ref)
        except NotFoundError:
            if not refresh:
                raise
            await self.refresh()
            return self.find(ref)
        if refresh and not worker.state.terminal:
            await self._refresh_of([worker])
            worker = self.find(worker.id)
        return worker

    async def _refresh_of(self, workers: Iterable[Worker]) -> None:
        """Ask the outposts of some workers, passing over those that are no longer usable."""
        usable = set(self._usable(None))
        names = {w.outpost for w in workers if not w.state.terminal} & usable
        if names:
            await self.refresh(sorted(names))

    async def wait(
        self,
        ids: Sequence[str],
        *,
        timeout: float | None = None,
        on_change: Callable[[Worker], None] | None = None,
    ) -> list[Worker]:
        """Wait until workers have ended; unreachable ones are waited for (law 2).

        Args:
            ids: worker ids, or issue ids for their newest attempt.
            timeout: seconds; None for ever. When it passes, the states so far are returned.
            on_change: is told each worker once at first and whenever it changes.

        Returns:
            The workers, in the order of `ids`.
        """
        import asyncio

        names = [(await self.worker(ref)).id for ref in ids]
        deadline = None if timeout is None else time.monotonic() + timeout
        seen: dict[str, Worker] = {}
        pause = POLL_MIN
        while True:
            known = {w.id: w for w in self.ledger.workers(ids=names)}
            changed = [w for w in known.values() if seen.get(w.id) != w]
            for worker in changed if on_change else ():
                on_change(worker)  # type: ignore[misc]
            seen = known
            pending = [w for w in known.values() if not w.state.terminal]
            now = time.monotonic()
            if not pending or (deadline is not None and now >= deadline):
                return [known[name] for name in names if name in known]
            pause = POLL_MIN if changed else min(pause * POLL_GROWTH, POLL_MAX)
            await asyncio.sleep(pause if deadline is None else min(pause, deadline - now))
            await self._refresh_of(pending)

    async def logs(self, ref: str, offset: int = 0, follow: bool = False) -> AsyncIterator[bytes]:
        """Yield a worker's output from byte `offset` on; `follow` until it has ended."""
        worker = self.find(ref) if self._knows(ref) else await self.worker(ref)
        async for chunk in self.fleet.logs(worker.outpost, worker.id, offset, follow):
            yield chunk

    def _knows(self, ref: str) -> bool:
        return self.ledger.worker(ref) is not None or bool(self.ledger.attempts(ref))

    async def stop(self, ref: str, grace: float | None = None) -> Worker:
        """Ask for the end of a worker; returns once the outpost has the request.

        A worker whose spawn was never finished is given up here too.

        Raises:
            NotFoundError: it is not known.
            UnreachableError: its outpost cannot be asked; nothing was stopped.
        """
        worker = self.find(ref) if self._knows(ref) else await self.worker(ref)
        if worker.state.terminal:
            return worker
        owner = f"{me()}/stop"
        claim = self.ledger.claim(worker.id, owner)
        if claim is Claim.THEIRS:
            raise ConflictError(
                f"{worker.id} is being placed by another process", mend="try again in a moment"
            )
        seconds = self.config.defaults.grace if grace is None else grace
        try:
            await self._verb(worker, "stop", grace=seconds)
            if claim is Claim.MINE:
                self.ledger.release(worker.id)
        finally:
            self.ledger.disown(worker.id, owner)
        self._tell(Event(kind="stop", at=time.time(), worker=worker.id, outpost=worker.outpost))
        await self._refresh_of([worker])
        return self.ledger.worker(worker.id) or worker

    async def nudge(self, ref: str, text: str) -> None:
        """Type text and Enter into an interactive worker."""
        worker = await self._running(ref, "nudge")
        await self._verb(worker, "nudge", text=text)

    async def peek(self, ref: str, lines: int = 50) -> str:
        """Return what the worker's terminal shows."""
        worker = await self.worker(ref)
        self.fleet.require(worker.outpost, "peek")
        screen: str = await self._verb(worker, "peek", lines=lines)
        return screen

    async def attach(self, ref: str) -> int:
        """Give this terminal to the worker until the user detaches; the viewer's exit code."""
        worker = await self._running(ref, "attach")
        code: int = await self.fleet.ask(
            worker.outpost, "outpost_attach", timeout=float("inf"), worker=worker.id
        )
        return code

    async def mail(self, outpost: str, message: Message) -> None:
        """Deliver a message to someone at an outpost."""
        self.fleet.require(outpost, "mail")
        await self.fleet.ask(
            outpost,
            "outpost_mail",
            timeout=self.config.defaults.answer_timeout,
            message=message,
        )

    async def _running(self, ref: str, capability: str) -> Worker:
        worker = await self.worker(ref)
        self.fleet.require(worker.outpost, capability)
        if worker.state.terminal:
            raise UsageError(
                f"{worker.id} has ended ({worker.state.value})", mend=f"outpost logs {worker.id}"
            )
        return worker

    async def _verb(self, worker: Worker, verb: str, **arguments: Any) -> Any:
        return await self.fleet.ask(
            worker.outpost,
            f"outpost_{verb}",
            timeout=self.config.defaults.answer_timeout,
            worker=worker.id,
            **arguments,
        )

    async def clean(self, ref: str, *, force: bool = False) -> Cleaned:
        """Remove an ended worker's files at its outpost; unpushed work is rescued first.

        Raises:
            UsageError: it still runs.
        """
        worker = await self.worker(ref)
        if not worker.state.terminal:
            raise UsageError(
                f"{worker.id} has not ended ({worker.state.value})",
                mend=f"outpost stop {worker.id} first",
            )
        self.fleet.require(worker.outpost, "clean")
        cleaned: Cleaned = await self.fleet.ask(
            worker.outpost,
            "outpost_clean",
            timeout=self.config.defaults.spawn_timeout,
            worker=worker.id,
            force=force,
        )
        if cleaned.removed:
            self.ledger.forget(worker.id)
            data = {"rescued": cleaned.rescued}
            self._tell(
                Event(
                    kind="cleaned",
                    at=time.time(),
                    worker=worker.id,
                    outpost=worker.outpost,
                    data=data,
                )
            )
        return cleaned

    # --- health of everything -----------------------------------------------------------------

    async def doctor(self, name: str | None = None) -> list[tuple[str, Finding]]:
        """Look at packages, configuration, ledger and outposts; each finding with its subject."""
        from outpost_core.doctor import examine

        return await examine(self, name)

    def _tell(self, event: Event) -> None:
        """Tell the observers; what one of them raises changes nothing.

        The ledger writes its own changes down; only what it cannot know is noted here.
        """
        if event.kind in _NOTED:
            self.ledger.note(event)
        for hook in self.plugins.pm.hook.outpost_event.get_hookimpls():
            try:
                hook.function(event)
            except Exception as error:  # noqa: BLE001 - kept, and shown by doctor
                self.observer_errors.append(f"{hook.plugin_name}: {type(error).__name__}: {error}")
