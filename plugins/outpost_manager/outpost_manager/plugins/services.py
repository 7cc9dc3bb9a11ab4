"""Services (`outpost_services`): what plugins run in a program that stays.

Each has a task of its own. One that raises is called again after a pause, which grows, and disturbs
neither the others nor the program. At the end all are cancelled and waited for.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from outpost_core.errors import PluginError
from outpost_core.isolation import by_user, describe
from outpost_shared.backoff import Backoff
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from outpost_core.discovery import Plugins

_HOOK: Final = "outpost_services"
#: Seconds until a service that failed is called again: at first, and at most.
PAUSE_FIRST: Final = 1.0
PAUSE_MOST: Final = 60.0
#: Seconds that services may take to end when they are cancelled.
END_TIMEOUT: Final = 10.0
_log = Logger("services")

#: What a service is: a function without arguments whose answer is awaited.
Run: TypeAlias = Callable[[], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class ServiceNote:
    """How a service does.

    Args:
        plugin: who brought it: its package and version.
        name: its name.
        state: `running`, `waiting` (it failed, and is called again) or `ended`.
        failures: how often it failed.
        error: the last failure in one line; "" for none.
        since: since when it is in that state.
    """

    plugin: str
    name: str
    state: str
    failures: int = 0
    error: str = ""
    since: float = 0.0


class Services:
    """The services of all plugins; they run for as long as this is entered.

    Args:
        plugins: what is installed.
        manager: what they work with; stays open for as long.
        pause_first: seconds until one that failed is called again at first.
        pause_most: the same at most, and how long one must run to begin with the first pause again.
        end_timeout: seconds that they may take to end; what takes longer is left behind.
        only: names of those that run; None for all.
    """

    def __init__(
        self,
        plugins: Plugins,
        manager: object,
        *,
        pause_first: float = PAUSE_FIRST,
        pause_most: float = PAUSE_MOST,
        end_timeout: float = END_TIMEOUT,
        only: Collection[str] | None = None,
    ) -> None:
        self._plugins = plugins
        self._manager = manager
        self._pauses = (pause_first, pause_most)
        self._end_timeout = end_timeout
        self._only = only
        self._notes: dict[tuple[str, str], ServiceNote] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def notes(self) -> Sequence[ServiceNote]:
        """How each service does."""
        return [*self._notes.values()]

    async def __aenter__(self) -> Self:
        for plugin, answer in self._plugins.answers(_HOOK, manager=self._manager):
            for name, run in self._checked(plugin, answer).items():
                if self._only is not None and name not in self._only:
                    continue
                self._note(plugin, name, "running")
                task = asyncio.create_task(self._keep(plugin, name, run), name=f"service {name}")
                self._tasks.append(task)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=self._end_timeout)
            for task in late:
                _log.warning("the %s does not end, and is left behind", task.get_name())

    def _checked(self, plugin: str, answer: object) -> Mapping[str, Run]:
        """Return what of an answer are services; the rest is blamed on the plugin."""
        if not isinstance(answer, Mapping):
            said = f"it answered a {type(answer).__name__}, not names and functions"
            self._plugins.blame(plugin, _HOOK, PluginError(said))
            return {}
        found = {}
        for name, run in answer.items():
            if isinstance(name, str) and name and callable(run):
                found[name] = run
            else:
                said = f"the service {name!a} is a {type(run).__name__}, not a function"
                self._plugins.blame(plugin, _HOOK, PluginError(said))
        return found

    async def _keep(self, plugin: str, name: str, run: Run) -> None:
        """Run one service until it returns; call it again when it raises."""
        first, most = self._pauses
        pauses = Backoff(first, most)
        while True:
            begun = time.monotonic()
            try:
                made = run()
                if not inspect.isawaitable(made):
                    raise PluginError(f"the service {name!r} is no async function")
                await made
                self._note(plugin, name, "ended")
                return
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                if by_user(error):
                    raise
                failure = error
            if time.monotonic() - begun >= most:
                pauses.reset()
            pause = pauses.pause()
            self._plugins.blame(plugin, f"{_HOOK} ({name})", failure)
            _log.warning(
                "the service %s of %s failed, and is called again in %g s: %s",
                name, self._plugins.who(plugin), pause, describe(failure), error=failure,
            )  # fmt: skip
            self._note(plugin, name, "waiting", describe(failure))
            await asyncio.sleep(pause)
            self._note(plugin, name, "running")

    def _note(self, plugin: str, name: str, state: str, error: str = "") -> None:
        note = self._notes.get((plugin, name)) or ServiceNote(
            plugin=self._plugins.who(plugin), name=name, state=state
        )
        self._notes[plugin, name] = replace(
            note,
            state=state,
            since=time.time(),
            failures=note.failures + bool(error),
            error=error or note.error,
        )
