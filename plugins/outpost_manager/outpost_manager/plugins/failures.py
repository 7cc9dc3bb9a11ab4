"""The last failures of plugins, kept so that the next command can show them.

A plugin that fails changes nothing for anybody else, so nobody would hear of it. What it raised is
kept in `plugin-errors.json` in the state folder: the last failure of each hook of each package,
with its traceback. A failure goes after a week, with another version of its package, or with
`outpost plugins --forget`. Nothing depends on this file: where it cannot be read it counts as
empty, and where it cannot be written this process alone knows the failure.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outpost_core.isolation import describe
from outpost_core.units import format_duration
from outpost_manager.plugins.masking import masked
from outpost_shared import faults, jsonfiles, private
from outpost_shared.border import line
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_core.discovery import Failure, PluginReport

_log = Logger("plugins")
FILE: Final = "plugin-errors.json"
#: Seconds after which a failure is forgotten.
KEPT_FOR: Final = 7 * 86400.0
#: Seconds between two writes for the same failure: an observer may fail a thousand times a second.
WRITE_EVERY: Final = 10.0
#: Failures that are kept, and characters of a traceback; its end says most.
MOST: Final = 50
LONGEST: Final = 8_000


@dataclass(frozen=True, kw_only=True)
class KeptFailure:
    """The last failure of one hook of a plugin.

    Args:
        plugin: its entry point, or "" where nobody knows.
        package: the distribution and its version, as in messages.
        outpost: the outpost that failed, or "".
        hook: what was called.
        reason: what it raised, in one line.
        traceback: where it raised that.
        at: when it last happened.
        count: how often.
    """

    plugin: str
    package: str
    outpost: str
    hook: str
    reason: str
    traceback: str
    at: float
    count: int

    @property
    def key(self) -> str:
        """What the last failure is kept of."""
        return f"{self.plugin} {self.outpost} {self.hook}"

    @property
    def where(self) -> str:
        """The hook, and the outpost whose it is."""
        return f"{self.hook} of {self.outpost}" if self.outpost else self.hook

    @property
    def text(self) -> str:
        """What happened and when, in one line."""
        seconds = max(0, round(time.time() - self.at))
        when = f"{format_duration(seconds - seconds % 60 if seconds > 60 else seconds)} ago"
        times = f", {self.count} times" if self.count > 1 else ""
        return f"{self.where} failed {when}{times}: {self.reason}"


class KeptFailures:
    """Keeps failures for other processes.

    Args:
        state: the state folder.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._lock = threading.Lock()  # observers run on a thread of their own
        self._waiting: dict[str, KeptFailure] = {}
        self._written: dict[str, float] = {}

    def keep(self, failure: Failure) -> None:
        """Keep a failure; of the same again and again, some are written at once and all counted."""
        made = _made(failure)
        _log.warning("%s: %s: %s", made.package, made.where, made.reason)
        _log.debug("%s: %s: %s", made.package, made.where, made.traceback)
        with self._lock:
            before = self._waiting.get(made.key)
            if before is not None:
                made = replace(made, count=before.count + 1)
            self._waiting[made.key] = made
            while len(self._waiting) > MOST:
                self._waiting.pop(next(iter(self._waiting)))
            last = self._written.get(made.key)
            if last is None or time.monotonic() - last > WRITE_EVERY:
                self._write()

    def flush(self) -> None:
        """Write what is only counted yet."""
        with self._lock:
            if self._waiting:
                self._write()

    def read(self, reports: Iterable[PluginReport] = ()) -> list[KeptFailure]:
        """Return what is kept, the newest first.

        Args:
            reports: of the installed packages: what is of another version of one is left out.
        """
        self.flush()
        labels = {report.entry_point: report.label for report in reports}
        found = [
            one
            for one in self._load().values()
            if labels.get(one.plugin, one.package) == one.package
        ]
        return sorted(found, key=lambda one: -one.at)

    def forget(self, plugins: Iterable[str] | None = None) -> int:
        """Forget failures; return how many there were.

        Args:
            plugins: entry points; None for those of all.

        Raises:
            OSError: the file cannot be written.
        """
        self.flush()
        with self._lock, self._exclusive() as mine:
            known = self._load()
            wanted = None if plugins is None else {*plugins}
            gone = [key for key, one in known.items() if wanted is None or one.plugin in wanted]
            if gone and mine:
                self._store({key: one for key, one in known.items() if key not in gone})
            return len(gone)

    def _write(self) -> None:
        """Add what waits to the file; where that cannot be done now, it waits on."""
        with suppress(OSError), self._exclusive() as mine:
            if not mine:
                return
            known = self._load()
            for key, one in self._waiting.items():
                before = known.pop(key, None)  # so that it is the newest
                count = before.count if before and before.reason == one.reason else 0
                known[key] = replace(one, count=one.count + count)
            newest = sorted(known, key=lambda key: known[key].at)[-MOST:]
            self._store({key: known[key] for key in newest})
            now = time.monotonic()
            self._written.update(dict.fromkeys(self._waiting, now))
            self._waiting.clear()

    @contextmanager
    def _exclusive(self) -> Iterator[bool]:
        """Keep other processes out; yields False when one is at it, which nobody waits for."""
        import fcntl
        import os

        private.claim(str(self._state))
        at = os.open(self._state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(at, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(at)

    def _load(self) -> dict[str, KeptFailure]:
        try:
            private.claim(str(self._state), make=False)
            said = jsonfiles.load(str(self._state), FILE) or {}
        except (OSError, RecursionError):
            return {}
        oldest = time.time() - KEPT_FOR
        found = [_read(one) for one in said.values()]
        return {one.key: one for one in found if one is not None and one.at > oldest}

    def _store(self, known: Mapping[str, KeptFailure]) -> None:
        jsonfiles.store(str(self._state), FILE, {key: asdict(one) for key, one in known.items()})
        faults.point("plugins.kept")


def _made(failure: Failure) -> KeptFailure:
    report, name = failure.report, failure.plugin
    trace = "".join(traceback.format_exception(failure.error))
    return KeptFailure(
        plugin=report.entry_point if report else name.removeprefix("package:"),
        package=failure.package,
        outpost="" if name.startswith("package:") else name,
        hook=failure.hook,
        reason=line(masked(describe(failure.error), failure.secrets), 500),
        traceback=masked(trace, failure.secrets)[-LONGEST:],
        at=time.time(),
        count=1,
    )


def _read(said: Any) -> KeptFailure | None:
    """Return one entry of the file; None when it is none."""
    if not isinstance(said, dict):
        return None
    names = {field.name for field in fields(KeptFailure)} - {"at", "count"}
    texts = {name: said[name] for name in names if isinstance(said.get(name), str)}
    at, count = said.get("at"), said.get("count")
    if texts.keys() != names or not isinstance(at, int | float) or not isinstance(count, int):
        return None
    return KeptFailure(**texts, at=at, count=count)
