"""Telling observers what happened (`outpost_event`), from the event log, out of everybody's way.

Each observer has a thread of its own that reads the log, so one that sleeps or raises delays
nobody: no spawn, and no other observer. How far it was told is kept in the ledger; what a command
has no time for at its end is told by the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from threading import Event as Signal
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from outpost_core.discovery import Plugins
from outpost_core.errors import LedgerError, PluginError
from outpost_core.isolation import contained
from outpost_manager.ledger import Ledger
from outpost_shared import faults, identity
from outpost_shared.backoff import Backoff

if TYPE_CHECKING:
    from outpost_core.types import Event

#: Seconds that the end of a command waits for its observers.
DRAIN: Final = 1.0
#: Seconds between two looks at the log, at first and at most, and while the ledger cannot be used.
_LOOK_FIRST, _LOOK_MOST, _LOOK_LATE = 0.02, 0.5, 5.0
_HOOK: Final = "outpost_event"

#: Is told the observer's name in pluggy and what it raised, in the observer's thread.
Blame = Callable[[str, Exception], None]


class Observers:
    """Tells the observers of one program.

    Args:
        plugins: what is installed; packages with `outpost_event` are the observers.
        folder: the state folder.
        blame: is told what observers raise.

    Attributes:
        detached: somebody else calls `finish`, after the program's own output.
    """

    def __init__(self, plugins: Plugins, folder: Path, blame: Blame) -> None:
        self.detached = False
        self._folder = folder
        self._blame = blame
        self._plugins = {
            implementation.plugin_name: implementation.plugin
            for implementation in getattr(plugins.pm.hook, _HOOK).get_hookimpls()
            if implementation.plugin_name.startswith("package:")
        }
        self._threads: list[_ObserverThread] = []

    def start(self, ledger: Ledger) -> None:
        """Begin to tell; to be called before anything is written that they are to hear of.

        Args:
            ledger: an open one, in which new observers are made known.
        """
        if not self._plugins or self._threads:
            return
        if ledger.aside is None:
            with suppress(LedgerError):  # each does that too, later
                ledger.cursors.register(self._plugins)
        self._threads = [
            _ObserverThread(name, plugin, self._folder, self._blame)
            for name, plugin in self._plugins.items()
        ]
        for thread in self._threads:
            thread.start()

    def finish(self, within: float = DRAIN) -> bool:
        """Tell what there is, and end; an observer that is still at it by then is left behind.

        Args:
            within: seconds that this may take.

        Returns:
            whether every observer was told all.
        """
        deadline = time.monotonic() + within
        for thread in self._threads:
            thread.end(deadline)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)


class _ObserverThread(Thread):
    """Tells one observer. A daemon: one that hangs keeps no program from ending."""

    def __init__(self, name: str, plugin: Any, folder: Path, blame: Blame) -> None:
        super().__init__(name=f"observer {name}", daemon=True)
        self._observer = name
        self._plugin = plugin
        self._folder = folder
        self._blame = blame
        self._owner = f"{identity.me()}/{token_hex(8)}"
        self._deadline: float | None = None
        self._ending = Signal()

    def end(self, deadline: float) -> None:
        """Have it end once all is told, or at a moment of the monotonic clock."""
        self._deadline = deadline
        self._ending.set()

    def run(self) -> None:
        """Tell until `end`."""
        try:
            ledger = Ledger(self._folder)
        except LedgerError:
            return  # the program hears of that itself
        try:
            self._follow(ledger)
        finally:
            ledger.close()

    def _follow(self, ledger: Ledger) -> None:
        hook, cursors = self._alone(), ledger.cursors
        looks, late = Backoff(_LOOK_FIRST, _LOOK_MOST), False
        known = False
        told, held = 0, False  # the event that was told last, and whether the row is ours
        while True:
            event = None
            try:
                late = False
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    if held:
                        cursors.leave(self._observer, self._owner, told)
                    return
                if not known and ledger.is_kept():
                    cursors.register([self._observer])
                    known = True
                if known and ledger.is_kept() and (held or cursors.is_behind(self._observer)):
                    step = cursors.step(self._observer, self._owner, told)
                    event, told, held = step.event, 0, step.event is not None
                    for kind in step.given_up:
                        text = f"it was told of {kind!r} twice, and the program ended each time"
                        self._blame(self._observer, PluginError(text))
            except LedgerError:
                late = True  # what is held stays held, and is written down at the next look
            if event is not None:
                faults.point("observer.begun")
                self._tell(hook, event)
                faults.point("observer.told")
                told = event.id
                looks.reset()
            elif self._deadline is not None:
                return  # all is told, or another process tells it
            else:
                self._ending.wait(_LOOK_LATE if late else looks.pause())

    def _alone(self) -> Any:
        """Return a caller of this observer, in a plugin manager that no other thread uses."""
        alone = Plugins.load([]).pm
        alone.register(self._plugin, name=self._observer)
        return getattr(alone.hook, _HOOK)

    def _tell(self, hook: Any, event: Event) -> None:
        try:
            with contained():
                hook(event=event)
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises is its own
            self._blame(self._observer, error)
