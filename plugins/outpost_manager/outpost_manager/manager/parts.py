"""What a manager consists of: opened when first asked for, and let go of together."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from outpost_core import __version__
from outpost_core.discovery import PluginReport, Plugins
from outpost_core.errors import LedgerError
from outpost_manager.config import Choice, choose, load_config
from outpost_manager.config.model import Config
from outpost_manager.fleet.fleet import Fleet
from outpost_manager.fleet.overview import Overview
from outpost_manager.ledger.asyncledger import AsyncLedger
from outpost_manager.ledger.ledger import Ledger
from outpost_manager.offloop import off_loop, running_loop
from outpost_manager.orders.presets import offered
from outpost_manager.plugins.builtin import own_plugins
from outpost_manager.plugins.failures import KeptFailures
from outpost_manager.workthread import WorkThread
from outpost_shared.log import Logger
from outpost_shared.paths import here as current_folder
from outpost_shared.paths import state_dir

if TYPE_CHECKING:
    from outpost_core.types import Event, Order
    from outpost_manager.events.observers import Observers
    from outpost_manager.fleet.resources import Presence
    from outpost_manager.mail.mail import Mail
    from outpost_manager.orders.localgit import LocalGit
    from outpost_manager.placing.placement import Placement
    from outpost_manager.placing.purse import Purse
    from outpost_manager.placing.recovery import Recovery
    from outpost_manager.placing.watch import Watch
    from outpost_manager.plugins.services import Services

T = TypeVar("T")

_log = Logger("manager")


class Parts:
    """What a manager consists of; `Manager` says what it is made with."""

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
    ) -> Self:
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
        mark = mark_of(choice)
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

    async def _ask(self, question: Callable[[], T]) -> T:
        """Ask git, `bd` or plugins, which may take long, without blocking the event loop."""
        if running_loop() is None:
            return question()
        return await self._asking.run(question)

    def _trouble(self, who: str, error: Exception) -> None:
        """Keep what a plugin raised, for doctor."""
        self.observer_errors.append(f"{who}: {type(error).__name__}: {error}")

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


def mark_of(choice: Choice) -> object:
    """Return what differs when another configuration counts."""
    try:
        found = None if choice.path is None else choice.path.stat()
    except OSError as error:
        return str(error)
    at = found and (found.st_mtime_ns, found.st_size, found.st_ino)
    return choice.path, choice.data, at, [place.standing for place in choice.places]
