"""The typed facade: one per program, async. Everything the command line does goes through it."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from outpost_core import __version__
from outpost_core.discovery import PluginReport, Plugins
from outpost_core.errors import (
    LedgerError,
    NotFoundError,
    OutpostError,
    PlacementError,
    UsageError,
    WorkerError,
)
from outpost_core.nearest import suggest
from outpost_manager.config import Choice, choose, load_config
from outpost_manager.config.model import Config
from outpost_manager.fleet.fleet import Fleet
from outpost_manager.fleet.overview import OutpostView, Overview
from outpost_manager.ledger.asyncledger import AsyncLedger
from outpost_manager.ledger.ledger import Ledger
from outpost_manager.managing import Glimpse, Shown, Spending, kept_where
from outpost_manager.offloop import off_loop, running_loop
from outpost_manager.orders.presets import offered
from outpost_manager.placing import keptlogs, references
from outpost_manager.plugins.builtin import own_plugins
from outpost_manager.plugins.failures import KeptFailures
from outpost_manager.workthread import WorkThread
from outpost_shared.log import Logger
from outpost_shared.paths import here as current_folder
from outpost_shared.paths import state_dir

if TYPE_CHECKING:
    from outpost_core.agents import AgentPreset
    from outpost_core.types import (
        Candidate,
        Cleaned,
        Event,
        Explanation,
        Health,
        Message,
        Order,
        Worker,
    )
    from outpost_manager.config.policy import Ranking
    from outpost_manager.events.observers import Observers
    from outpost_manager.fleet.resources import Presence
    from outpost_manager.ledger import Added, Budget, Letter
    from outpost_manager.ledger.budgets import Use
    from outpost_manager.mail.mail import Mail
    from outpost_manager.orders.localgit import Around, LocalGit
    from outpost_manager.orders.making import OrderRequest
    from outpost_manager.orders.requests import OrderBuilder
    from outpost_manager.placing.accountviews import AccountView
    from outpost_manager.placing.attempts import Further
    from outpost_manager.placing.forecast import Forecast
    from outpost_manager.placing.pending import Spawned
    from outpost_manager.placing.placement import Placement
    from outpost_manager.placing.purse import Purse
    from outpost_manager.placing.recovery import Recovery
    from outpost_manager.placing.watch import Watch
    from outpost_manager.plugins.services import Services

T = TypeVar("T")

_log = Logger("manager")
#: Workers that are cleaned for their age by one command, and the seconds that may take.
_AT_A_TIME, _FOR_SO_LONG = 50, 20.0
#: Bytes of a log that are kept of a worker that was not ordered here, and beyond the cap of one
#: that was: its marker.
_LONGEST_LOG, _LOG_MARGIN = 256 * 1024 * 1024, 64 * 1024
#: So many lines are asked for to find one that says something.
_LAST_LINES = 20


class Manager:
    """What a program holds to work with outposts.

    Use it as an async context manager: no method blocks the event loop for the ledger, for git or
    for another program. Without an event loop it is a plain one, and `offloop.at_once` runs the
    methods that ask no outpost.

    Args:
        config: what is configured.
        plugins: what is installed.
        state: the state folder, for the ledger and the outposts' own files.
        environ: the environment, for secrets.
        cwd: where relative paths of orders start.

    Attributes:
        leave_observers: whoever opened this calls `finish_observers` himself, after his own output.
    """

    leave_observers = False

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
        self.fleet = Fleet(config=config, plugins=plugins, state_dir=state, ordered=self._ordered)
        #: the newest errors of observers and other plugins, in this process
        self.observer_errors: deque[str] = deque(maxlen=100)
        self._environ = environ
        self._cwd = cwd
        self._config_file: Path | None = config.path
        self._mark: object = None
        self._ledger: AsyncLedger | None = None
        self._observers: Observers | None = None
        #: where plugins, git and `bd` are asked what an order needs, one order at a time
        self._asking = WorkThread("orders")
        self._placement: Placement | None = None
        self._purse: Purse | None = None
        self._recovery: Recovery | None = None
        self._local: LocalGit | None = None
        self._presence: Presence | None = None
        #: orders that somebody here waits with for a slot, each with the one outpost for it or None
        self.wanting: dict[object, Sequence[tuple[Order, str | None]]] = {}
        self.failures = KeptFailures(state)
        plugins.listeners.append(self.failures.keep)
        self._own: list[PluginReport] = []
        self._register_own()

    def _register_own(self) -> None:
        """Register our own plugins for the configuration, in the place of those of before."""
        for report in self._own:
            self.plugins.remove(report)
        self._own.clear()
        for name, plugin in own_plugins(self.config).items():
            report = PluginReport(
                entry_point=name, package="outpost-manager", version=__version__, own=True
            )
            self.plugins.add(plugin, report)
            self._own.append(report)

    @classmethod
    def open(
        cls,
        *,
        config: Path | None = None,
        state: Path | None = None,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        plugins: Plugins | None = None,
        choice: Choice | None = None,
    ) -> Manager:
        """Find and load the configuration and the plugins; imports no SDK, asks nobody.

        Args:
            config: path of `outposts.yaml`; None searches as the documentation says.
            state: the state folder; None for `$OUTPOST_STATE` or the user's.
            environ: instead of `os.environ`.
            cwd: instead of the current folder.
            plugins: instead of the installed ones.
            choice: the configuration file that counts, where the caller has chosen already.

        Raises:
            ConfigError: a mistake in the configuration, or the file that counts has changed since
                the user trusted it.
        """
        env = os.environ if environ is None else environ
        here = current_folder(env) if cwd is None else cwd
        found = Plugins.load() if plugins is None else plugins
        choice = choice or choose(config, env, here)
        choice.demand()
        mark = _mark(choice)
        loaded = load_config(
            choice.path, found.backends, data=choice.data, presets=lambda: offered(found)
        )
        made = cls(loaded, found, state or state_dir(env), env, here)
        made._config_file = config
        made._mark = mark
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of connections and files. Workers keep running."""
        try:
            if self._recovery is not None:
                await self._recovery.close()
            await self.fleet.close()
            if not self.leave_observers:
                await off_loop(self.finish_observers)
        finally:
            if self._ledger is not None:
                await self._ledger.aclose()
            self.close()

    def close(self) -> None:
        """Let go of the ledger alone; enough when no outpost was asked."""
        if not self.leave_observers:
            self.finish_observers()
        for report in self._own:
            self.plugins.remove(report)
        if self.failures.keep in self.plugins.listeners:
            self.plugins.listeners.remove(self.failures.keep)
            self.failures.flush()
        self._asking.end(0.0)  # what a plugin does there may never end
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
            self._placement = self._recovery = None

    @property
    def ledger(self) -> AsyncLedger:
        """The ledger, opened when something is first asked of it."""
        if self._ledger is None:
            self._ledger = AsyncLedger(self._open_ledger)
        return self._ledger

    async def _ordered(self, worker: str) -> Order | None:
        return await self.ledger.order(worker)

    def _open_ledger(self) -> Ledger:
        ledger = Ledger(self.state)
        ledger.watched = lambda: self.purse.budgets() if self.config.budgets else ()
        if self._observers is None and self.plugins.pm.hook.outpost_event.get_hookimpls():
            from outpost_manager.events.observers import Observers

            self._observers = Observers(self.plugins, self.state, self._observer_failed)
            self._observers.start(ledger)
        return ledger

    def finish_observers(self, within: float | None = None) -> None:
        """Tell the observers what there is; those that are not done by then are left behind.

        What they are not told now, the next program tells them.

        Args:
            within: seconds that this may take; None for `observers.DRAIN`.
        """
        if self._observers is not None:
            from outpost_manager.events.observers import DRAIN

            self._observers.finish(DRAIN if within is None else within)
            self._observers = None
            self.failures.flush()

    def _observer_failed(self, name: str, error: Exception) -> None:
        """Keep what an observer raised; it may still be at it when all else is closed."""
        from outpost_core.discovery import Failure

        report = self.plugins.report_of(name)
        self.failures.keep(Failure(plugin=name, report=report, hook="outpost_event", error=error))
        self._trouble(name, error)

    @property
    def not_kept(self) -> LedgerError | None:
        """Why the ledger could not be written; None when it could, or was not asked for."""
        return None if self._ledger is None else self._ledger.aside

    @property
    def closed(self) -> str:
        """A sentence when others could write the state folder until now; else ""."""
        return "" if self._ledger is None else self._ledger.closed

    @property
    def overview(self) -> Overview:
        """What is known of the outposts without asking any."""
        return Overview(fleet=self.fleet, ledger=self.ledger, presence=self.presence)

    @property
    def presence(self) -> Presence:
        """What is known of what the outposts have."""
        if self._presence is None:
            from outpost_manager.fleet.resources import Presence

            patience = self.config.defaults.answer_timeout
            self._presence = Presence(fleet=self.fleet, state=self.state, patience=patience)
        return self._presence

    @property
    def placement(self) -> Placement:
        """What places orders."""
        if self._placement is None:
            from outpost_manager.placing.placement import Placement

            self._placement = Placement(
                fleet=self.fleet,
                overview=self.overview,
                ledger=self.ledger,
                purse=self.purse,
                spawn_timeout=self.config.defaults.spawn_timeout,
                answer_timeout=self.config.defaults.answer_timeout,
            )
        return self._placement

    @property
    def purse(self) -> Purse:
        """What the configuration says of money and accounts."""
        if self._purse is None:
            from outpost_manager.placing.purse import Purse

            self._purse = Purse(fleet=self.fleet, overview=self.overview, environ=self._environ)
        return self._purse

    @property
    def recovery(self) -> Recovery:
        """What finishes spawns that a crash interrupted."""
        if self._recovery is None:
            from outpost_manager.placing.recovery import Recovery

            self._recovery = Recovery(
                placement=self.placement,
                ledger=self.ledger,
                environ=self._environ,
                patience=self.config.defaults.answer_timeout,
            )
        return self._recovery

    @property
    def watch(self) -> Watch:
        """What follows workers."""
        from outpost_manager.placing.watch import Watch

        return Watch(
            fleet=self.fleet,
            ledger=self.ledger,
            recovery=self.recovery,
            mail=self.mail,
            presence=self.presence,
            answer_timeout=self.config.defaults.answer_timeout,
        )

    @property
    def mail(self) -> Mail:
        """What delivers mail."""
        from outpost_manager.mail.mail import PATIENCE, Mail

        patience = max(PATIENCE, self.config.defaults.answer_timeout)
        return Mail(fleet=self.fleet, ledger=self.ledger, patience=patience)

    # --- orders -------------------------------------------------------------------------------

    @property
    def local(self) -> LocalGit:
        """What asks git about the folder that the user stands in."""
        if self._local is None:
            from outpost_manager.orders.localgit import LocalGit

            self._local = LocalGit(self._cwd, self._environ)
        return self._local

    @property
    def builder(self) -> OrderBuilder:
        """What turns a request into an order."""
        from outpost_manager.orders.requests import OrderBuilder

        return OrderBuilder(
            defaults=self.config.defaults,
            plugins=self.plugins,
            ledger=self.ledger,
            environ=self._environ,
            cwd=self._cwd,
            trouble=self._trouble,
            local=self.local,
            prices=self.config.prices,
            configured=self.config.agents,
            accounts=self.config.accounts,
        )

    def agents(self) -> dict[str, AgentPreset]:
        """Return every agent preset, built in and from plugins; a plugin's wins."""
        return self.builder.agents()

    async def order(self, request: OrderRequest) -> Order:
        """Build and check the order of a request; chooses the attempt.

        Without `attempt` and `again` it is the last attempt there was (so that asking twice is
        the same worker), else the first.

        Raises:
            UsageError: something in it is wrong.
            ConflictError: `again` while the last attempt still runs.
        """
        return await self._ask(lambda: self.builder.order(request))

    async def _ask(self, question: Callable[[], T]) -> T:
        """Ask git, `bd` or plugins, which may take long, without blocking the event loop."""
        if running_loop() is None:
            return question()
        return await self._asking.run(question)

    @property
    def further(self) -> Further:
        """What makes further attempts out of the orders that are written down."""
        from outpost_manager.placing.attempts import Further

        def can_clean(name: str) -> bool:
            try:
                return self.fleet.supports(name, "clean")
            except OutpostError:
                return False

        return Further(
            ledger=self.ledger,
            environ=self._environ,
            presets=self.agents(),
            outposts=[*self.fleet.names],
            branch=self.config.defaults.branch or "",
            can_clean=can_clean,
            accounts=self.config.accounts,
        )

    async def around(self) -> Around | None:
        """Return the repository around the current folder; None when git says there is none.

        Raises:
            UsageError: git cannot say.
        """
        return await self._ask(self.local.around)

    def _trouble(self, who: str, error: Exception) -> None:
        """Keep what a plugin raised, for doctor."""
        self.observer_errors.append(f"{who}: {type(error).__name__}: {error}")

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
        avoid: Mapping[str, str] = MappingProxyType({}),
        entries: Mapping[str, str] = MappingProxyType({}),
        accounts: Mapping[str, str] = MappingProxyType({}),
    ) -> list[Spawned | OutpostError]:
        """Place several orders at once; each answer is a worker or its own error.

        An outpost that seems to be full is asked first whether it still is.

        Args:
            orders: what is to be done.
            on: the outpost to use; None lets the policy choose.
            progress: as for `spawn`.
            avoid: worker → the outpost that it is not to go to.
            entries: worker → digest of the queue's entry that it is placed for. One that was taken
                out, paused or moved since is not placed, and its answer is a `WithdrawnError`.
            accounts: worker → the one account of its agent that it is to use.
        """
        if on is not None:
            self.fleet.configured(on)
        amended = await self._amended(orders)
        sound = [order for order in amended if not isinstance(order, OutpostError)]
        placed = iter(await self._place(sound, on, progress, avoid, entries, accounts))
        return [each if isinstance(each, OutpostError) else next(placed) for each in amended]

    async def _amended(self, orders: Sequence[Order]) -> list[Order | OutpostError]:
        """Return each order as the plugins want it (`outpost_order`), or why it is not placed."""
        if not self.plugins.pm.hook.outpost_order.get_hookimpls():
            return [*orders]
        import asyncio

        from outpost_manager.placing.amending import amend_all, unanswered

        patience = self.config.defaults.spawn_timeout
        thread = WorkThread("amending")  # of its own: one that hangs holds up these orders alone
        try:
            return await asyncio.wait_for(
                thread.run(lambda: amend_all(self.plugins, orders)), patience
            )
        except TimeoutError:
            return [unanswered(self.plugins, order, patience) for order in orders]
        finally:
            thread.end(0.0)

    async def _place(
        self,
        orders: Sequence[Order],
        on: str | None,
        progress: Callable[[Event], None] | None,
        avoid: Mapping[str, str],
        entries: Mapping[str, str],
        accounts: Mapping[str, str],
    ) -> list[Spawned | OutpostError]:
        tight = await self.overview.tight(orders, time.time()) if orders else []
        if asked := [name for name in tight if on in (None, name)]:
            await self.watch.refresh(asked)

        await self.presence.consult(orders, lambda some: self._chosen(some, on))
        answers = await self.placement.spawn_many(
            orders, on=on, progress=progress, avoid=avoid, entries=entries, accounts=accounts
        )
        for order, answer in zip(orders, answers, strict=True):
            if isinstance(answer, PlacementError):
                self._advise(order, answer)
        return answers

    async def _chosen(
        self, orders: Sequence[Order], on: str | None, health: Mapping[str, Health] | None = None
    ) -> list[tuple[Ranking, Sequence[Candidate]]]:
        """Return what the policy says of orders; one whose policy fails is left out."""
        found: list[tuple[Ranking, Sequence[Candidate]]] = []
        sheets = await self.overview.sheets(orders, time.time(), health)
        for order, candidates in zip(orders, sheets, strict=True):
            with suppress(OutpostError):
                found.append((self.placement.assign(order, candidates, on), candidates))
        return found

    def _advise(self, order: Order, error: PlacementError) -> None:
        """Give the next step where the work is kept elsewhere, or an agent is missing."""
        if order.resume_at and "kept at" in error.message:
            error.hint = (
                f"outpost ping {order.resume_at}; --from-base starts from the base instead, and"
                " outpost show says where the work is"
            )
            return
        said = f": {order.agent.argv[0]} is not installed there"
        lines = [line.strip() for line in error.message.splitlines()]
        lacking = {line.removesuffix(said) for line in lines if line.endswith(said)}
        if lacking:
            from outpost_manager.hints import missing_agent

            images = {one.name for one in self.config.outposts if hasattr(one.options, "image")}
            preset = self.agents().get(order.agent.name)
            error.hint = missing_agent(order.agent.name, preset, lacking - images, lacking & images)

    # --- money --------------------------------------------------------------------------------

    async def budgets(self) -> list[tuple[Budget, Use]]:
        """Return each budget with what its window holds now."""
        budgets = self.purse.budgets()
        return [*zip(budgets, await self.ledger.uses(budgets), strict=True)]

    async def forecast(self) -> Forecast:
        """Say what the waiting orders will cost, and what becomes of each budget; asks nobody."""
        from outpost_manager.placing.forecast import Forecaster

        return await Forecaster(
            ledger=self.ledger,
            overview=self.overview,
            placement=self.placement,
            purse=self.purse,
        ).forecast()

    async def spending(self, by: str, seconds: float, forecast: bool) -> Spending:
        """Say what was spent, as far as is known here; asks nobody.

        Args:
            by: one of `ledger.spend.BY`.
            seconds: of workers that ended so long ago or later; 0 for all.
            forecast: also what the queue will cost.
        """
        begin = max(0.0, time.time() - seconds) if seconds else 0.0
        return Spending(
            begin=begin,
            totals=await self.ledger.totals(by, begin),
            standing={one.name: one.standing for one in await self.outposts() if one.standing},
            budgets=await self.budgets(),
            outlook=await self.forecast() if forecast else None,
        )

    async def accounts(self) -> list[AccountView]:
        """Return the accounts, with what each has taken and what keeps it."""
        from outpost_manager.placing.accountviews import views

        return await self.ledger.read(views, self.config.accounts)

    async def reset_breaker(self, kind: str, name: str) -> bool:
        """Close the circuit breaker of an outpost or account; False when nothing had failed.

        Args:
            kind: `outpost` or `account`.
            name: which.

        Raises:
            NotFoundError: there is no such outpost, or nothing is known of such an account.
        """
        if kind == "outpost":
            self.fleet.configured(name)
        elif name not in (known := [view.name for view in await self.accounts()]):
            raise NotFoundError(
                f"nothing is known of an account {name[:80]!a}", hint=suggest(name, known)
            )
        return await self.ledger.run(lambda ledger: ledger.breakers.reset(kind, name))

    async def unpark(self, account: str) -> int:
        """Let a parked account be used again at once; return how many of its models were parked.

        Raises:
            NotFoundError: nothing is known of such an account.
        """
        if account not in (known := [view.name for view in await self.accounts()]):
            raise NotFoundError(
                f"nothing is known of an account {account[:80]!a}", hint=suggest(account, known)
            )
        return await self.ledger.parking.unpark(account)

    async def enqueue(
        self,
        orders: Sequence[Order],
        *,
        on: str | None = None,
        batch: str = "",
        after: Sequence[str] = (),
        not_before: float = 0.0,
        retries: int = 0,
    ) -> list[Added]:
        """Put orders into the queue, all or none; see `Queue.add`.

        Args:
            orders: what is to be done.
            on: the one outpost for all of them; None lets the policy choose.
            batch: what they belong to; "" for nothing.
            after: issues that have to be done first.
            not_before: moment before which none is placed; 0 for none.
            retries: how often an attempt is repeated whose agent judged itself that it failed.

        Raises:
            ConflictError: an issue is in the queue with another order, or its attempt has ended.
            UsageError: a rig's URL has a password, or `after` cannot be.
        """
        from outpost_manager.placing.queueing import queue_items

        if on is not None:
            self.fleet.configured(on)
        amended = await self._amended(orders)
        for order in amended:
            if isinstance(order, OutpostError):
                raise order
        items = queue_items(
            self.config,
            [order for order in amended if not isinstance(order, OutpostError)],
            on=on,
            batch=batch,
            after=after,
            not_before=not_before,
            retries=retries,
        )
        return await self.ledger.queue.add(items)

    async def enqueue_requests(
        self,
        requests: Sequence[OrderRequest],
        *,
        on: str | None = None,
        batch: str = "",
        after: Sequence[str] = (),
        not_before: float = 0.0,
        retries: int = 0,
    ) -> list[Added]:
        """Make orders of requests and put them into the queue, all or none; see `enqueue`."""
        await self.look_at([request.issue for request in requests])
        orders = [await self.order(request) for request in requests]
        return await self.enqueue(
            orders, on=on, batch=batch, after=after, not_before=not_before, retries=retries
        )

    async def explain_requests(
        self, requests: Sequence[OrderRequest], on: str | None
    ) -> list[tuple[str, str, Explanation]]:
        """Say where the orders of requests would go: issue, worker, and why; see `explain`."""
        orders = [await self.order(request) for request in requests]
        return [
            (order.issue.id, order.worker, await self.explain(order, on=on)) for order in orders
        ]

    def with_secrets(self, order: Order) -> Order:
        """Return an order that was written down, with the values of its secrets.

        Raises:
            UsageError: one is not set here.
        """
        from outpost_manager.placing.queueing import with_secrets

        return with_secrets(order, self._environ, self.config.accounts)

    async def explain(self, order: Order, *, on: str | None = None) -> Explanation:
        """Say where an order would go and why, after asking every outpost; changes nothing.

        Raises:
            PluginError: a plugin that amends orders failed.
        """
        if on is not None:
            self.fleet.configured(on)
        (amended,) = await self._amended([order])
        if isinstance(amended, OutpostError):
            raise amended
        order = amended
        from outpost_core.types import Health

        answers = await self.ping()
        health = {name: a for name, a in answers.items() if isinstance(a, Health)}
        await self.presence.consult([order], lambda some: self._chosen(some, on, health))
        (sheets,) = await self.overview.sheets([order], time.time(), health)
        said = self.placement.assign(order, sheets, on).explain()
        return await self.placement.foreseen(order, said, sheets)

    # --- programs that stay -------------------------------------------------------------------

    async def events(self, after: int | None = None) -> AsyncGenerator[Event, None]:
        """Yield what happens, also in other processes, in the order of the event log; never ends.

        Args:
            after: id of the last event that the caller knows; 0 for all there ever were, None for
                what happens from now on.
        """
        from outpost_manager.events.following import follow

        async for event in follow(self.ledger, after):
            yield event

    def services(self, only: Collection[str] | None = None) -> Services:
        """Return what hosts the services of plugins (`outpost_services`), while it is entered.

        Args:
            only: names of those that run; None for all.
        """
        from outpost_manager.plugins.services import Services

        return Services(self.plugins, self, only=only)

    async def config_changed(self) -> bool:
        """Say whether another configuration counts than when this was asked or one was read last.

        That is so for a file that was edited, made, removed, or trusted since.
        """

        def look() -> object:
            try:
                return _mark(choose(self._config_file, self._environ, self._cwd))
            except OutpostError as error:
                return str(error)

        before, self._mark = self._mark, await off_loop(look)
        return self._mark != before

    async def reload(self) -> None:
        """Read the configuration again; what it says now holds from now on.

        Outposts whose entry is the same stay as they are, with all that is under way there. Of
        one whose entry has changed, what is under way ends at the outpost as it was. One that is
        gone takes no more orders, and is known until the workers there have ended.

        Raises:
            ConfigError: it has a mistake, or the file has changed since the user trusted it;
                nothing was changed.
        """
        choice = await off_loop(choose, self._config_file, self._environ, self._cwd)
        choice.demand()
        config = await self._ask(
            lambda: load_config(
                choice.path,
                self.plugins.backends,
                data=choice.data,
                presets=lambda: offered(self.plugins),
            )
        )
        live = await self.ledger.active()
        self.config = config
        self.fleet.reload(config, live)
        self._register_own()
        defaults = config.defaults
        if self._placement is not None:
            self._placement.spawn_timeout = defaults.spawn_timeout
            self._placement.answer_timeout = defaults.answer_timeout
        if self._recovery is not None:
            self._recovery.patience = defaults.answer_timeout
        if self._presence is not None:
            self._presence.patience = defaults.answer_timeout
        _log.info("the configuration was read again: %s", ", ".join(self.fleet.names))

    # --- outposts -----------------------------------------------------------------------------

    async def outposts(self) -> list[OutpostView]:
        """Describe every configured outpost without asking any."""
        return await self.overview.views()

    async def ping(self, names: Iterable[str] | None = None) -> dict[str, Health | OutpostError]:
        """Ask outposts whether they would take a worker; all configured ones by default."""
        return await self.watch.ping(self.fleet.names if names is None else names)

    async def refresh(self, names: Iterable[str] | None = None) -> list[OutpostView]:
        """Ask outposts for their workers, bring the ledger up to date, finish broken spawns.

        Args:
            names: the outposts to ask; None for all whose type is provided.

        Raises:
            NotFoundError: no outpost has such a name.
        """
        asked = self.watch.usable() if names is None else [*names]
        for name in asked:
            self.fleet.configured(name)
        await self.watch.refresh(asked)
        return await self.outposts()

    async def look(self, names: Iterable[str] | None = None) -> dict[str, OutpostError]:
        """Do what `refresh` does; return why each outpost told nothing that told nothing.

        Args:
            names: the outposts to ask; None for all that are configured, also those that cannot be
                built here.

        Raises:
            NotFoundError: no outpost has such a name.
        """
        wanted = {entry.name for entry in self.config.outposts} if names is None else {*names}
        for name in wanted:
            self.fleet.configured(name)
        usable = self.watch.usable()
        asked = usable if names is None else [name for name in usable if name in wanted]
        errors = await self.watch.refresh(asked)
        for name in wanted.difference(asked):
            try:
                self.fleet.outpost(name)
            except OutpostError as error:
                errors[name] = error
        return errors

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
        return await self.ledger.workers(active=None if all else True)

    async def ended_since(self, moment: float) -> list[Worker]:
        """Return the workers that ended then or later, as far as is known here."""
        return await self.ledger.workers(active=False, ended_since=moment)

    async def those(self, ids: Sequence[str]) -> list[Worker]:
        """Return workers by their ids, as far as they are known here."""
        return await self.ledger.workers(ids=ids)

    async def shown(self, ref: str) -> Shown:
        """Return everything about a worker, after asking its outpost.

        Raises:
            NotFoundError: it is not known, even after asking every outpost.
        """
        found, ledger = await self.worker(ref), self.ledger
        events, attempts = await ledger.events(found.id), await ledger.attempts(found.issue)
        return Shown(
            worker=kept_where(found, events),
            glimpse=await self.glimpse(found),
            order=await ledger.order(found.id),
            explanation=await ledger.explanation(found.id),
            attempts=attempts,
            events=events,
            decisions=await ledger.queue.decisions(found.issue),
            entry=await ledger.queue.entry(found.issue),
            accounts=await ledger.accounts([found.id, *(one.id for one in attempts)]),
        )

    async def order_of(self, worker: str) -> Order | None:
        """Return the order of a worker, by its id; None where it was not ordered here."""
        return await self.ledger.order(worker)

    async def ordered_here(self, ids: Sequence[str]) -> set[str]:
        """Return those of the workers that were ordered here."""
        return {*await self.ledger.ordered(ids)}

    async def was_cleaned(self, worker: str) -> bool:
        """Say whether the files of a worker were removed, by its id."""
        return any(event.kind == "cleaned" for event in await self.ledger.events(worker))

    async def newest_events(self, of: str | None, limit: int) -> tuple[list[Event], int]:
        """Return the newest events, oldest first, and the id of the newest of all.

        Args:
            of: only those of this worker, by its id; None for all.
            limit: at most so many.
        """
        last = await self.ledger.last_event()
        found = await self.ledger.events(of, limit)
        return found, max(last, found[-1].id) if found else last

    async def events_after(self, after: int, of: str | None, limit: int) -> tuple[list[Event], int]:
        """Return what happened behind an event, oldest first, and the id behind which to go on.

        Args:
            after: id of that event.
            of: only those of this worker, by its id; None for all.
            limit: so many are looked at.
        """
        found = await self.ledger.events_after(after, limit)
        last = found[-1].id if found else after
        return [event for event in found if of in (None, event.worker)], last

    async def find(self, ref: str) -> Worker:
        """Return a worker by its id, or the newest attempt at an issue, without asking anyone.

        Args:
            ref: `worker:` or `issue:` before the id says which of the two it is.

        Raises:
            NotFoundError: neither is known.
            UsageError: it is both.
        """
        return await self.ledger.read(references.find, ref)

    async def look_at(self, issues: Iterable[str]) -> None:
        """Ask the outposts of attempts at issues that have not ended, as far as is known here.

        Afterwards it is known which of them are over. An outpost that does not answer changes
        nothing: its workers stay as they are known.
        """
        wanted = set(issues)
        active = await self.ledger.workers(active=True)
        await self.watch.refresh_of([worker for worker in active if worker.issue in wanted])

    async def worker(self, ref: str) -> Worker:
        """Return a worker after asking its outpost (when it has not ended).

        Raises:
            NotFoundError: it is not known, even after asking every outpost.
        """
        worker = await self._known(ref)
        await self.watch.refresh_of([worker])
        return await self.find(references.exact(worker.id))

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

        Raises:
            NotFoundError: one is not known, or its outpost is no longer configured.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        names = [(await self._known(ref)).id for ref in ids]
        return await self.watch.wait(names, deadline, on_change)

    async def _known(self, ref: str) -> Worker:
        """Return a worker as the ledger has it; the outposts are asked only when it has not."""
        try:
            return await self.find(ref)
        except NotFoundError:
            await self.refresh()
            return await self.find(ref)

    async def logs(self, ref: str, offset: int = 0, follow: bool = False) -> AsyncIterator[bytes]:
        """Yield a worker's output from byte `offset` on; `follow` until it has ended."""
        worker = await self._known(ref)
        try:
            async for chunk in self._logs(worker, offset, follow):
                offset += len(chunk)
                yield chunk
        except OutpostError:
            path = keptlogs.log_of(self.state, worker.id)
            if not (worker.state.terminal and await off_loop(path.exists)):
                raise
        else:
            return
        while chunk := await off_loop(keptlogs.read, path, offset):  # its files were cleaned
            offset += len(chunk)
            yield chunk

    def _logs(self, worker: Worker, offset: int, follow: bool) -> AsyncGenerator[bytes, None]:
        timeout = self.config.defaults.answer_timeout
        return self.fleet.logs(worker.outpost, worker.id, offset, follow=follow, timeout=timeout)

    async def stop(self, ref: str, grace: float | None = None) -> Worker:
        """Ask for the end of a worker; returns once the outpost has the request.

        A worker whose spawn was never finished is given up, once its outpost says that it does
        not run.

        Raises:
            NotFoundError: it is not known.
            UnreachableError: its outpost cannot be asked; nothing was stopped.
            LedgerError: the ledger cannot be used; says whether the worker was told all the same.
        """
        seconds = self.config.defaults.grace if grace is None else grace
        try:
            return await self._stop(ref, seconds)
        except LedgerError as error:
            # a full disk, which its agents may have filled, must not keep anybody from a stop
            if told := await self._stop_anyway(ref, seconds):
                error.message += f"; {', '.join(told)} was told to stop all the same"
                error.args = (error.message,)
            raise

    async def _stop(self, ref: str, seconds: float) -> Worker:
        worker = await self._known(ref)
        if worker.state.terminal:
            return worker
        if self.ledger.aside is None:
            await self.placement.stop(worker, lambda row: self._verb(row, "stop", grace=seconds))
        else:  # the disk is full: nothing can be claimed or given up, and a stop needs neither
            await self._verb(worker, "stop", grace=seconds)
        from outpost_core.types import Event

        self.ledger.note_soon(
            Event(kind="stop", at=time.time(), worker=worker.id, outpost=worker.outpost)
        )
        await self.watch.refresh_of([worker])
        return await self.ledger.worker(worker.id) or worker

    async def _stop_anyway(self, ref: str, seconds: float) -> list[str]:
        """Stop a worker wherever it is, without the ledger; returns the ids that were told."""
        told: list[str] = []
        running: list[tuple[str, str]] = []
        patience = self.config.defaults.answer_timeout
        for name, answer in (await self.fleet.list_all(self.fleet.names, timeout=patience)).items():
            if not isinstance(answer, OutpostError):
                running += [(name, status.id) for status in answer if not status.state.terminal]
        meant = references.among([worker for _, worker in running], ref)
        for name, worker in running:
            if worker in meant:
                with suppress(OutpostError):
                    await self.fleet.ask(
                        name, "outpost_stop", timeout=patience, worker=worker, grace=seconds
                    )
                    told.append(worker)
        return told

    async def forget(self, ref: str) -> Worker:
        """Give a worker up whose outpost is no longer configured; nobody is asked.

        Raises:
            NotFoundError: it is not known.
            UsageError: its outpost is configured, so it can be stopped.
        """
        worker = await self.find(ref)
        if worker.state.terminal:
            return worker
        if worker.outpost in self.fleet.names or worker.outpost in self.fleet.leaving:
            raise UsageError(
                f"{worker.id} is at {worker.outpost}, which is configured",
                hint=f"outpost stop {worker.id}",
            )
        await self.placement.forget(worker)
        return await self.find(references.exact(worker.id))

    async def nudge(self, ref: str, text: str) -> None:
        """Type text and Enter into an interactive worker."""
        worker = await self._running(ref, "nudge")
        await self._verb(worker, "nudge", text=text)

    async def peek(self, ref: str, lines: int = 50) -> str:
        """Return what the worker's terminal shows."""
        worker = await self.worker(ref)
        self.fleet.require(worker.outpost, "peek")
        return await self.fleet.ask_for(
            str,
            worker.outpost,
            "outpost_peek",
            timeout=self.config.defaults.answer_timeout,
            worker=worker.id,
            lines=lines,
        )

    async def glimpse(self, worker: Worker) -> Glimpse:
        """Ask a worker's outpost for what the ledger does not keep; empty where it is silent."""
        patience = self.config.defaults.answer_timeout
        tree, fence, usage, text = "", "", None, ""
        with suppress(OutpostError):
            for status in await self.fleet.list(worker.outpost, timeout=patience):
                if status.id == worker.id and status.digest in ("", worker.digest):
                    tree, usage, fence = status.tree or "", status.usage, status.fence
            if self.fleet.supports(worker.outpost, "peek"):
                text = await self.fleet.ask_for(
                    str,
                    worker.outpost,
                    "outpost_peek",
                    timeout=patience,
                    worker=worker.id,
                    lines=_LAST_LINES,
                )
        return Glimpse(tree=tree, fence=fence, usage=usage, text=text)

    async def attach(self, ref: str) -> int:
        """Give this terminal to the worker until the user detaches; the viewer's exit code."""
        worker = await self._running(ref, "attach")
        return await self.fleet.ask_for(
            int, worker.outpost, "outpost_attach", timeout=float("inf"), worker=worker.id
        )

    async def _running(self, ref: str, capability: str) -> Worker:
        worker = await self.worker(ref)
        self.fleet.require(worker.outpost, capability)
        if worker.state.terminal:
            raise UsageError(
                f"{worker.id} has ended ({worker.state.value})", hint=f"outpost logs {worker.id}"
            )
        return worker

    async def _verb(self, worker: Worker, verb: str, **arguments: Any) -> None:
        await self.fleet.ask(
            worker.outpost,
            f"outpost_{verb}",
            timeout=self.config.defaults.answer_timeout,
            worker=worker.id,
            **arguments,
        )

    async def clean(self, ref: str, *, force: bool = False, purge: bool = False) -> Cleaned:
        """Remove an ended worker's files at its outpost; unpushed work is rescued first.

        Raises:
            UsageError: it still runs.
        """
        (answer,) = (await self.clean_many([ref], force=force, purge=purge)).values()
        if isinstance(answer, OutpostError):
            raise answer
        return answer

    async def clean_many(
        self, names: Sequence[str], *, force: bool = False, purge: bool = False
    ) -> dict[str, Cleaned | OutpostError]:
        """Remove the files of ended workers, side by side; unpushed work is rescued first.

        Args:
            names: of workers or issues.
            force: also where the rescue fails.
            purge: keep no log here, and remove the one that was kept.

        Returns:
            the answer or the error of each, by the worker's id, or the name that is not known.
        """
        from outpost_manager.placing.cleaning import clean_many

        unknown: dict[str, Cleaned | OutpostError] = {}
        ids = []
        for name in dict.fromkeys(names):
            try:
                ids.append((await self._known(name)).id)
            except (NotFoundError, UsageError) as error:
                unknown[name] = error
        await self.watch.refresh_of(await self.ledger.workers(ids=ids))
        found = {worker.id: worker for worker in await self.ledger.workers(ids=ids)}
        workers = [found[worker] for worker in dict.fromkeys(ids) if worker in found]
        return unknown | await clean_many(workers, lambda worker: self._clean(worker, force, purge))

    async def _clean(self, worker: Worker, force: bool, purge: bool) -> Cleaned:
        from outpost_core.types import Cleaned
        from outpost_manager.placing.cleaning import not_ended

        if not worker.state.terminal:
            raise not_ended(worker)
        self.fleet.require(worker.outpost, "clean")
        trouble = "" if purge else await self._keep_log(worker)
        cleaned = await self.fleet.ask_for(
            Cleaned,
            worker.outpost,
            "outpost_clean",
            timeout=self.config.defaults.spawn_timeout,
            worker=worker.id,
            force=force,
        )
        if cleaned.removed:
            await self.ledger.forget(worker.id, cleaned.rescued)
            if purge:
                path = keptlogs.log_of(self.state, worker.id)
                await off_loop(path.unlink, missing_ok=True)
        if trouble:
            detail = "; ".join(filter(None, [cleaned.detail, trouble]))
            cleaned = Cleaned(removed=cleaned.removed, rescued=cleaned.rescued, detail=detail)
        return cleaned

    async def _keep_log(self, worker: Worker) -> str:
        """Keep a worker's log here before its files go; say why it cannot be, or ""."""
        from contextlib import aclosing

        order = await self.ledger.order(worker.id)
        most = _LONGEST_LOG if order is None else order.limits.log_bytes + _LOG_MARGIN
        try:
            async with aclosing(self._logs(worker, 0, False)) as chunks:
                if not await keptlogs.keep(self.state, worker.id, chunks, most):
                    return f"its log has more than {most} bytes; the beginning is kept"
        except NotFoundError:  # it has none, or was cleaned before
            return ""
        except OSError as error:  # a full disk must not keep anybody from cleaning
            return f"its log could not be kept: {error.strerror}"
        except WorkerError as error:  # nor must what an agent has put in its place
            return error.message
        return ""

    async def clean_old(self) -> list[str]:
        """Clean workers that are done for longer than `defaults.clean_after`, once in a while.

        Only those that were ordered here, some at a time, and never for long.

        Returns:
            the ids of those that are removed.
        """
        after = self.config.defaults.clean_after
        if after is None or self._ledger is None or self._ledger.aside is not None:
            return []
        import asyncio

        from outpost_core.types import State

        if not await off_loop(keptlogs.is_due, self.state):
            return []
        ended = await self.ledger.workers(active=False)
        done = [w for w in ended if w.state is State.DONE]
        due = [worker.id for worker in keptlogs.old(done, after)]
        ours = [*await self.ledger.ordered(due)][:_AT_A_TIME]
        if not ours:
            return []
        cleaning = self.clean_many([*map(references.exact, ours)])
        try:
            answers = await asyncio.wait_for(cleaning, _FOR_SO_LONG)
        except TimeoutError:  # what was cleaned is known, the rest comes next time
            return []
        return [w for w, a in answers.items() if not isinstance(a, OutpostError) and a.removed]

    # --- mail -------------------------------------------------------------------------------------

    async def send_mail(self, outpost: str, message: Message) -> Letter:
        """Keep a message in the outbox and try to deliver it to someone at an outpost.

        Returns:
            the letter: `delivered`, `waiting` (nobody was found; it is tried again), or `failed`.

        Raises:
            UsageError: something in it can not be delivered; nothing was written.
            NotFoundError: no outpost has that name; nothing was written.
            UnsupportedError: the outpost takes no mail; nothing was written.
        """
        return await self.mail.send(outpost, message)

    async def inbox(
        self, names: Iterable[str] | None = None, identity: str = ""
    ) -> dict[str, Sequence[Message] | OutpostError]:
        """Ask outposts for the mail that waits there, for `identity` or ("") for everybody."""
        return await self.mail.inbox(names, identity)

    async def outbox(self, *, all: bool = False) -> list[Letter]:  # noqa: A002
        """Return the mail that is not delivered, oldest first; `all`: also what lately was."""
        return await self.ledger.outbox.letters(all=all)

    async def flush_mail(self, names: Iterable[str] | None = None) -> list[Letter]:
        """Try all mail that waits, now; return what was tried, as it is afterwards.

        Raises:
            NotFoundError: no outpost has such a name.
        """
        wanted = None if names is None else [self.fleet.configured(name).name for name in names]
        return await self.mail.flush(wanted)

    async def drop_mail(self, ref: str) -> Letter:
        """Forget mail by its id or the beginning of it, delivered or not.

        Raises:
            NotFoundError: there is none.
            UsageError: several begin so.
        """
        found = [one for one in await self.outbox(all=True) if ref and one.id.startswith(ref)]
        if len(found) > 1 and not any(one.id == ref for one in found):
            raise UsageError(f"{len(found)} mails begin with {ref!a}", hint="say more of the id")
        if not found or not await self.ledger.outbox.drop(found[0].id):
            raise NotFoundError(
                f"there is no mail {ref[:80]!a}", hint="outpost mail outbox --all lists it"
            )
        return found[0]

    async def rig(self, said: str | None) -> str | None:
        """Return the rig that `said` names, else the one around the current folder, if any.

        Raises:
            UsageError: it is no repository.
        """
        from outpost_manager.orders.localgit import find_rig

        if said:
            return await self._ask(lambda: find_rig(said, self._cwd))
        here = await self.around()
        return (here.push or here.rig) if here is not None else None


def _mark(choice: Choice) -> object:
    """Return what differs when another configuration counts."""
    try:
        found = None if choice.path is None else choice.path.stat()
    except OSError as error:
        return str(error)
    at = found and (found.st_mtime_ns, found.st_size, found.st_ino)
    return choice.path, choice.data, at, [place.standing for place in choice.places]
