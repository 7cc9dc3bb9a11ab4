"""What this machine keeps of the workers that it has ordered at a cluster: a folder for each.

::

    <state>/harvest/<worker>/about.json    where it is, and what later commands need of its order
    <state>/harvest/<worker>/ending.json   it is being taken back, and how it counts then
    <state>/harvest/<worker>/watched.json  what was seen of it that one look cannot tell
    <state>/harvest/<worker>/output.log    its output, once it has ended
    <state>/harvest/<worker>/result.json   how it ended: written last, once

The truth about a worker that has not ended is at the cluster. A Job can be removed there at any
moment, by its time to live or by hand, so how it ended is here from the first look on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from outpost_core import wire
from outpost_core.errors import UsageError
from outpost_core.types import Json, Order, Result, State, split_worker_id
from outpost_shared import border, faults, jsonfiles, plausible, private

_ABOUT: Final = "about.json"
_ENDING: Final = "ending.json"
_WATCHED: Final = "watched.json"
_RESULT: Final = "result.json"
_LOG: Final = "output.log"
#: Bytes that are read of a log at once.
PIECE: Final = 1 << 18


class Kept:
    """What is kept of one worker. Calls block, and are quick.

    Attributes:
        worker: its id.
        folder: where it is kept; may not exist.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        self.worker = worker
        self.folder = folder
        self._result: Result | None = None
        self._read()

    def refresh(self) -> None:
        """Read what is kept again, if another program has changed it, or has removed it."""
        if self._seen() != self._stamp:
            self._read()

    def _read(self) -> None:
        self._stamp = self._seen()
        self._has_log = self._secret_gone = False
        self._about = self._load(_ABOUT)
        result = self._read_result()
        if result != self._result:  # the same object as long as it says the same
            self._result = result

    def _seen(self) -> tuple[int, int] | None:
        """Return what tells whether something in the folder was made, replaced or removed."""
        try:
            about = self.folder.stat()
        except FileNotFoundError:
            return None
        return about.st_ino, about.st_mtime_ns

    # --- where it is --------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether this machine has ordered it, or has seen its end."""
        return self._about is not None or self._result is not None

    @property
    def digest(self) -> str:
        """The digest of its order; "" for an unknown one."""
        return self._text("digest")

    @property
    def uid(self) -> str:
        """The uid of its Job."""
        return self._text("uid")

    @property
    def server(self) -> str:
        """The cluster and namespace that it was ordered at."""
        return self._text("server")

    @property
    def hosted(self) -> bool:
        """Whether its repository is one of this machine."""
        return bool(self._about and self._about.get("hosted") is True)

    @property
    def order(self) -> Order | None:
        """What is known of its order: without texts, prompt, command and secrets."""
        found = self._about.get("order") if self._about else None
        try:
            return wire.from_json(Order, found) if isinstance(found, dict) else None
        except (UsageError, RecursionError):
            return None

    def accept(self, *, digest: str, uid: str, server: str, hosted: bool, order: Json) -> None:
        """Write down that its Job is at the cluster, so that it is missed when it is not any more.

        Raises:
            OSError: it cannot be written.
        """
        about: dict[str, Any] = {
            "digest": digest, "uid": uid, "server": server, "hosted": hosted, "order": order
        }  # fmt: skip
        if about == self._about:
            return
        self._store(_ABOUT, about)
        self._about = about
        faults.point("kube.accepted")

    # --- what is on its way ---------------------------------------------------------------------

    @property
    def ending(self) -> Mapping[str, Any] | None:
        """How it counts once its Job is gone, which is being removed; None while it is not."""
        return self._load(_ENDING)

    def note_ending(self, uid: str, result: Result) -> None:
        """Write down that the Job of a worker that has not begun is removed, and why."""
        told: Any = wire.to_json(result)
        self._store(_ENDING, {"uid": uid, "result": told})
        faults.point("kube.ending_noted")

    def ending_result(self) -> Result | None:
        """Return how it counts once its Job is gone."""
        ending = self.ending
        try:
            return wire.from_json(Result, ending.get("result")) if ending else None
        except (UsageError, RecursionError):
            return None

    def drop_ending(self) -> None:
        """Take back that its Job is removed: it had begun before, or that was another Job."""
        (self.folder / _ENDING).unlink(missing_ok=True)

    def watched(self) -> dict[str, Any]:
        """Return what was seen of it."""
        return self._load(_WATCHED) or {}

    def watch(self, **values: Json) -> dict[str, Any]:
        """Note what was seen of it; returns all that was."""
        before = self.watched()
        told = {**before, **values}
        if told != before:
            self._store(_WATCHED, told, sync=False)
        return told

    # --- its end --------------------------------------------------------------------------------

    @property
    def result(self) -> Result | None:
        """How it ended; None while nobody knows."""
        return self._result

    def finish(self, result: Result) -> Result:
        """Write down how it ended, once; returns what stands."""
        if self._result is None:
            told: Any = wire.to_json(result)
            self._store(_RESULT, told)
            self._result = result
            faults.point("kube.harvested")
        return self._result

    def forget(self, trash: Path) -> None:
        """Remove all of it."""
        private.make(str(trash))
        aside = trash / uuid.uuid4().hex
        try:
            self.folder.rename(aside)
        except FileNotFoundError:
            return
        faults.point("kube.forgotten")
        shutil.rmtree(aside, ignore_errors=True)
        self._about = self._result = None

    # --- its log --------------------------------------------------------------------------------

    @property
    def has_log(self) -> bool:
        """Whether its log is here, or what is left of it."""
        self._has_log = self._has_log or (self.folder / _LOG).exists()
        return self._has_log

    @property
    def secret_gone(self) -> bool:
        """Whether its Secret was seen to be gone from the cluster."""
        self._secret_gone = self._secret_gone or self.watched().get("secret_gone") is True
        return self._secret_gone

    @contextlib.contextmanager
    def staged_log(self) -> Iterator[StagedLog]:
        """Give a file for its log, which shows once it is kept; two programs have one each."""
        private.make(str(self.folder))
        path = self.folder / f"{_LOG}.{uuid.uuid4().hex}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
        try:
            yield StagedLog(self, fd, path)
        finally:
            os.close(fd)
            path.unlink(missing_ok=True)

    @property
    def log_from(self) -> int:
        """Offset of the first byte of the log that is here."""
        start = self.watched().get("log_from")
        return start if isinstance(start, int) and start > 0 else 0

    def read_log(self, offset: int) -> bytes:
        """Return bytes of the log that are here, from an offset in what is here; b"" at its end."""
        try:
            fd = os.open(self.folder / _LOG, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(fd, PIECE, offset)
        finally:
            os.close(fd)

    # --- files ----------------------------------------------------------------------------------

    def _text(self, name: str) -> str:
        found = self._about.get(name) if self._about else None
        return found if isinstance(found, str) else ""

    def _load(self, name: str) -> dict[str, Any] | None:
        return jsonfiles.load(str(self.folder), name)

    def _store(self, name: str, value: dict[str, Any], *, sync: bool = True) -> None:
        private.make(str(self.folder))
        jsonfiles.store(str(self.folder), name, value, sync=sync)
        if sync:
            jsonfiles.sync_folder(str(self.folder))

    def _read_result(self) -> Result | None:
        found = self._load(_RESULT)
        if found is None:
            return None
        try:
            result = wire.from_json(Result, found)
            odd = plausible.odd_result(result)
        except (UsageError, RecursionError) as error:
            odd, result = str(error), Result(state=State.LOST)
        if odd:
            message = border.line(f"its file {_RESULT} was changed: {odd}")
            return Result(state=State.LOST, reason=border.BROKEN, message=message)
        return result


class StagedLog(NamedTuple):
    """The log of a worker that has not come whole yet."""

    kept: Kept
    fd: int
    path: Path

    def keep(self, missing: int) -> None:
        """Let it be the log.

        Args:
            missing: bytes of its beginning that nobody has any more.
        """
        os.fsync(self.fd)
        if missing:
            self.kept.watch(log_from=missing)
        self.path.replace(self.kept.folder / _LOG)
        faults.point("kube.log_kept")


class Keeping:
    """All that is kept of an outpost's workers.

    Args:
        state: the outpost's own state folder; made when the first thing is kept.
    """

    def __init__(self, state: Path) -> None:
        self.state = state
        self._folder = state / "harvest"
        self._known: dict[str, Kept] = {}

    def of(self, worker: str) -> Kept:
        """Return what is kept of a worker, which may be nothing.

        Raises:
            UsageError: that is no worker's id.
        """
        known = self._known.get(worker)
        if known is not None:
            known.refresh()
            return known
        split_worker_id(worker)  # what is no id could lead out of the folder
        kept = self._known[worker] = Kept(self._folder / worker, worker)
        return kept

    def all(self) -> Iterator[Kept]:
        """Yield what is kept of each worker."""
        try:
            names = sorted(entry.name for entry in self._folder.iterdir())
        except FileNotFoundError:
            return
        for name in names:
            try:
                kept = self.of(name)
            except UsageError:
                continue
            if kept.exists:
                yield kept

    def claim(self) -> None:
        """Have the state folder, for this user alone.

        Raises:
            NotPrivateError: somebody else could change it.
            OSError: it cannot be made.
        """
        private.claim(str(self.state))

    def forget(self, kept: Kept) -> None:
        """Remove what is kept of a worker."""
        self._known.pop(kept.worker, None)
        trash = self.state / "trash"
        kept.forget(trash)
        with contextlib.suppress(FileNotFoundError):
            left = [*trash.iterdir()]  # of killed programs, and of others that are at it just now
            for aside in left:  # never the trash itself: others move their workers into it
                shutil.rmtree(aside, ignore_errors=True)
