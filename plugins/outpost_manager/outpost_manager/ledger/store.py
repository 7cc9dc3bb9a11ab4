"""The ledger's file: opened privately, shared fairly, and every mishap told in one sentence.

Any number of processes write to it at once. With SQLite's own waiting one process of a crowd wins
nearly always and the others starve; here whoever has waited long looks more often.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from stat import S_ISREG
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, TypeVar

from outpost_core.errors import LedgerError
from outpost_manager.ledger import aside, schema
from outpost_shared import access, private

if TYPE_CHECKING:
    import sqlite3

T = TypeVar("T")

FILE: Final = "ledger.db"
#: Seconds that a statement waits for other processes before it gives up.
PATIENCE: Final = 30.0
#: Seconds of the first nap of a waiter, of its longest one, and of those after a `_LONG` wait.
_NAP_FIRST: Final = 0.00025
_NAP_MOST: Final = 0.05
_NAP_LATE: Final = 0.002
_LONG: Final = 0.5
_CACHE_KIB: Final = 8192
#: Pages of the log after which they are taken over into the file itself, which waits for the disk
#: twice: 16 MiB.
_CHECKPOINT: Final = 4096
#: Bytes of a disk below which it counts as full: the shared index of a quiet ledger takes 32 KiB.
_ROOM: Final = 64 * 1024

# Primary result codes of SQLite.
_BUSY, _LOCKED, _READONLY, _IOERR, _CORRUPT, _FULL, _CANTOPEN, _NOTADB = 5, 6, 8, 10, 11, 13, 14, 26


class Store:
    """One connection to `<folder>/ledger.db`, usable from any thread of this process.

    Args:
        folder: the state folder; made with mode 0700, with its parents, when it is missing.
        migrations: the schema's versions, see `schema.MIGRATIONS`.

    Raises:
        LedgerError: it cannot be opened; nothing was changed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        migrations: Sequence[Sequence[str]] = schema.MIGRATIONS,
        patience: float = PATIENCE,
    ) -> None:
        import sqlite3  # here, because `outpost --help` has no use for it

        self.path = folder / FILE
        self._error = sqlite3.Error
        self._operational = sqlite3.OperationalError
        self._version = len(migrations)
        self._patience = patience
        self._lock = Lock()
        self._reading = Lock()
        self._reader: sqlite3.Connection | None = None
        self._durable = True
        self._given_up = False
        self._pid = os.getpid()
        self._migrations = migrations
        #: why nothing that is written here is kept; None when it is
        self.aside: LedgerError | None = None
        #: said when others could write the folder until now; else ""
        self.closed = ""
        if why := aside.no_room(folder):
            self._step_aside(why)
            return
        self._open()

    def _open(self) -> None:
        import sqlite3

        try:
            self.closed = private.claim(str(self.path.parent)) or self.closed
            _make_private(self.path)
            self._db = self._connect()
        except (OSError, sqlite3.Error) as error:
            raise self._explain(error) from error
        try:
            self._set_up(self._migrations)
        except BaseException as error:
            self._db.close()
            if isinstance(error, sqlite3.Error):
                raise self._explain(error) from error
            raise

    def _step_aside(self, why: str) -> None:
        """Continue with a copy in memory, so that people can look, stop and clean."""
        try:
            private.claim(str(self.path.parent), make=False)
            db = aside.copy(self.path)
            if not schema.check(db, self._version):
                db.execute("BEGIN")
                schema.migrate(db, self._migrations)
                db.execute("COMMIT")
        except schema.NewerSchemaError as error:
            raise self._newer(error.args[0]) from None
        except (OSError, self._error) as error:
            raise self._explain(error) from error
        self._db = db
        self.aside = LedgerError(
            f"the ledger {self.path} cannot be written: {why}; nothing was changed",
            hint="make room: outpost clean, or free some space on that disk",
        )

    def back(self) -> bool:
        """Use the file again if there is room by now; return whether what is written is kept.

        What was written to the copy in memory is gone then.
        """
        if self.aside is None:
            return True
        with self._lock:
            if aside.no_room(self.path.parent):
                return False
            memory, self.aside = self._db, None
            try:
                self._open()
            except LedgerError as error:
                self._db, self.aside = memory, error
                return False
            memory.close()
            self._durable = True
            return True

    def give_up(self) -> None:
        """Have whatever waits for other processes fail now, and wait no more."""
        self._given_up = True

    def close(self) -> None:
        """Let go of the file. Closing twice is fine."""
        with self._reading:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
        with self._lock:
            self._db.close()

    def read(self, sql: str, args: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of one SELECT.

        Raises:
            LedgerError: the file cannot be read.
        """
        if self._lock.acquire(blocking=self.aside is not None):
            try:
                return self._fetch(self._db, sql, args)
            finally:
                self._lock.release()
        # another thread writes, and may wait for another process: what is committed is read beside
        with self._reading:
            if self._reader is None:
                self._reader = self._connect()
            return self._fetch(self._reader, sql, args)

    def _fetch(
        self, db: sqlite3.Connection, sql: str, args: Sequence[object]
    ) -> list[tuple[Any, ...]]:
        self._check_process()
        try:
            try:
                return self._patiently(lambda: db.execute(sql, args).fetchall())
            except self._operational as error:
                if "decode" not in str(error):
                    raise
            # a damaged text is no reason to show nothing; the slower way is for these alone
            db.text_factory = _decoded
            return self._patiently(lambda: db.execute(sql, args).fetchall())
        except self._error as error:
            raise self._explain(error) from error

    def _connect(self) -> sqlite3.Connection:
        import sqlite3

        return sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)

    @contextmanager
    def write(
        self, *, durable: bool = True, only_here: bool = False
    ) -> Iterator[sqlite3.Connection]:
        """Hold the one write transaction of all processes; commits at the end of the block.

        Args:
            durable: wait until the disk has it. False for what the backends would tell again:
                it survives a crash of any process, and may be gone after a power cut.
            only_here: nobody else knows it, so it is refused where it cannot be kept.

        Raises:
            LedgerError: the file cannot be written, or a newer Outpost has migrated it
                meanwhile; nothing of the block was kept.
        """
        with self._lock:
            self._check_process()
            if only_here and self.aside is not None:
                raise self.aside
            db = self._db
            try:
                if durable is not self._durable:
                    level = "FULL" if durable else "NORMAL"
                    self._patiently(lambda: db.execute(f"PRAGMA synchronous = {level}"))
                    self._durable = durable
                self._patiently(lambda: db.execute("BEGIN IMMEDIATE"))
                found = schema.version(db)
                if found != self._version:
                    raise self._newer(found)
                yield db
                db.execute("COMMIT")
            except BaseException as error:
                if db.in_transaction:
                    with suppress(self._error):
                        db.execute("ROLLBACK")
                if isinstance(error, self._error):
                    raise self._explain(error) from error
                raise

    def _set_up(self, migrations: Sequence[Sequence[str]]) -> None:
        db = self._db
        for pragma in (
            "foreign_keys = ON",
            "synchronous = FULL",
            f"cache_size = -{_CACHE_KIB}",
            f"wal_autocheckpoint = {_CHECKPOINT}",
        ):
            self._patiently(partial(db.execute, f"PRAGMA {pragma}"))
        try:
            if self._patiently(self._is_current):
                return
            (mode,) = self._patiently(lambda: db.execute("PRAGMA journal_mode = WAL").fetchone())
            if mode != "wal":
                raise LedgerError(
                    f"the file system of {self.path} cannot share it between processes",
                    hint="let $OUTPOST_STATE name a folder on a local disk",
                )
            self._patiently(lambda: db.execute("BEGIN IMMEDIATE"))
            try:
                schema.migrate(db, migrations)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
        except schema.NewerSchemaError as error:
            raise self._newer(error.args[0]) from None
        except schema.ForeignFileError:
            raise LedgerError(
                f"{self.path} is a database of another program, not a ledger of Outpost",
                hint="move it away, or let $OUTPOST_STATE name another folder",
            ) from None

    def _is_current(self) -> bool:
        """Look at the file as it is at one moment: another process may be making it right now."""
        self._db.execute("BEGIN")
        try:
            return schema.check(self._db, self._version)
        finally:
            self._db.execute("ROLLBACK")

    def _patiently(self, action: Callable[[], T]) -> T:
        """Do it as soon as no other process is in the way.

        Short naps at first, then longer ones, which let whoever is at it continue with warm caches;
        who has waited long looks often, so that nobody starves.
        """
        began = 0.0
        pause = _NAP_FIRST
        while True:
            try:
                return action()
            except self._operational as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF != _BUSY:
                    raise
                now = time.monotonic()
                began = began or now
                if now - began >= self._patience or self._given_up:
                    raise
                pause = _NAP_LATE if now - began > _LONG else min(pause * 2, _NAP_MOST)
            time.sleep(pause * random.random())  # noqa: S311 - spreads waiters, no secret

    def _check_process(self) -> None:
        # A connection that crossed a fork would break the locks of the parent's.
        if os.getpid() != self._pid:
            raise LedgerError(
                "the ledger was opened before this process was forked", hint="open it afterwards"
            )

    def _newer(self, found: int) -> LedgerError:
        return LedgerError(
            f"the ledger {self.path} has version {found}, this Outpost knows version"
            f" {self._version}; it was left as it is",
            hint="upgrade Outpost here too: pip install it again from where the newer one came",
        )

    def _explain(self, error: Exception) -> LedgerError:
        if isinstance(error, access.NotPrivateError):
            where = "" if error.path == str(self.path.parent) else f"{error.path}: "
            return LedgerError(
                f"the state folder {self.path.parent} is refused: {where}{error.why}; nothing was"
                " changed",
                hint=error.hint
                if "$OUTPOST_STATE" in error.hint
                else f"{error.hint}, or let $OUTPOST_STATE name another folder",
            )
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (_BUSY, _LOCKED):
            return LedgerError(
                f"the ledger {self.path} was locked by another process for"
                f" {self._patience:g} seconds",
                hint=f"see who holds it with: fuser -v {self.path}",
            )
        if code in (_CORRUPT, _NOTADB):
            return LedgerError(
                f"the ledger {self.path} is damaged ({error}); it was left as it is",
                hint="move it away together with its -wal and -shm files; a new one learns the"
                " workers again from their outposts",
            )
        if code == _FULL or (code == _IOERR and self._is_full()):
            return LedgerError(
                f"no space is left for the ledger {self.path}; nothing was changed",
                hint="free some space on that disk and try again",
            )
        if code in (_READONLY, _CANTOPEN, _IOERR) or isinstance(error, OSError):
            return LedgerError(
                f"the ledger {self.path} cannot be written ({error}); nothing was changed",
                hint=f"make {self.path.parent} a folder that you can write to, or let"
                " $OUTPOST_STATE name another one",
            )
        return LedgerError(
            f"the ledger {self.path} failed ({error}); nothing was changed",
            hint="if that stays so, move it away together with its -wal and -shm files; a new one"
            " learns the workers again from their outposts",
        )

    def _is_full(self) -> bool:
        """Whether the disk has no room for SQLite's own files, which it calls an I/O error."""
        try:
            disk = os.statvfs(self.path.parent)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize < _ROOM


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def _make_private(path: Path) -> None:
    """Make the file 0600, whatever the umask; other files of SQLite take its mode."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        # Only a file that is new is opened here: closing a descriptor of a database that this
        # process has open would drop its locks.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    else:
        if S_ISREG(mode) and mode & 0o077:
            path.chmod(mode & 0o700)
