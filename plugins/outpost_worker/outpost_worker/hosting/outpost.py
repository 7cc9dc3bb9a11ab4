"""The outpost of a machine that holds copies of other machines' repositories.

A worker whose rig is such a copy is shown as ended when its work is home, not before.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from outpost_core.errors import NotFoundError
from outpost_core.hookspecs import hookimpl
from outpost_core.names import owner_of
from outpost_core.types import Cleaned, Order, Result, State, WorkerStatus
from outpost_shared import plausible
from outpost_worker.folder import files, status
from outpost_worker.hosting import expiry
from outpost_worker.hosting.copies import Hosted
from outpost_worker.hosting.sentrefs import key_of, local_path
from outpost_worker.repository.hosted import HOSTED
from outpost_worker.serving.folderoutpost import FolderOutpost

#: What a worker is shown as that has ended and whose work is not home yet.
WAITS: Final = "waits to be fetched"
#: In a worker's folder: `{"branch", "commit", "checkpoint", "refused", "at"}`, its work is home;
#: or `{"given_up", "at"}`, where its work stays that is not waited for any more.
HOME: Final = "home.json"


class Hosting(FolderOutpost):
    """An outpost over a folder, for workers whose rig may be a copy of one on another machine.

    What else such an outpost is comes after it: `class Far(Hosting, LocalOutpost)`. Its server
    has `methods.METHODS` besides those of every outpost.
    """

    #: Identity of the near program's state, from its hello; "" for one that hosts nothing here.
    controller: str = ""
    #: Bytes of disk that an upload leaves free.
    disk_floor: int = 0

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        # ended workers that are shown as such, so that their files are not read again
        self._shown: dict[str, tuple[tuple[str, float | None], WorkerStatus]] = {}
        self._sweeping: asyncio.Task[None] | None = None
        self._next_sweep = 0.0

    @hookimpl
    async def outpost_list(self) -> Sequence[WorkerStatus]:
        """Return all workers; now and then, what nobody uses any more is removed behind it."""
        if time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + expiry.STALE
            self._shown.clear()  # other servers have cleaned some of them meanwhile
            self._sweeping = asyncio.create_task(asyncio.to_thread(expiry.sweep, self.root))
        return await super().outpost_list()

    def rig_here(self, order: Order) -> str | None:
        """Return the copy of the near machine's rig, where there is one."""
        path = local_path(order.rig)
        if path is None or not self.controller:
            return None
        hosted = Hosted(self.root, key_of(self.controller, path))
        return str(hosted.path) if hosted.exists else None

    def adjust_status(self, found: WorkerStatus) -> WorkerStatus:
        """Report a worker as ended when its work is home."""
        seen = super().adjust_status(found)
        return seen if seen.result is None else self._as_home(seen)

    def _as_home(self, seen: WorkerStatus) -> WorkerStatus:
        """Return an ended worker's status with what is known of its way home."""
        assert seen.result is not None
        known = self._shown.get(seen.id)
        if known is not None and known[0] == (seen.digest, seen.result.finished_at):
            return known[1]
        folder = self.root / files.WORKERS / seen.id
        home = home_of(folder)
        if home is None and copy_of(folder) is not None and _to_fetch(seen.id, seen.result):
            return dataclasses.replace(seen, state=State.WORKING, detail=WAITS, result=None)
        shown = seen if home is None else _at_home(seen, home)
        self._shown[seen.id] = ((seen.digest, seen.result.finished_at), shown)
        return shown

    def show(self, worker: str) -> WorkerStatus:
        """Return a worker's status as `outpost_list` shows it."""
        return self.adjust_status(status.read(self.folder_of(worker)))

    @hookimpl
    async def outpost_stop(self, worker: str, grace: float) -> None:
        """End the worker; one of another machine that only waits is not waited for any more.

        Its machine may never come back, and until then it would hold a slot everywhere.
        """
        await super().outpost_stop(worker=worker, grace=grace)
        await asyncio.to_thread(self._give_up, worker)

    def _give_up(self, worker: str) -> None:
        where = self._not_home(worker)
        if where:
            folder = self.folder_of(worker)
            rig = (files.load(str(folder), files.ORDER) or {}).get("rig")
            copy, path = copy_of(folder), local_path(rig)
            assert copy is not None
            if path is None or copy.name != f"{key_of(self.controller, path)}.git":
                about = {"given_up": where, "at": time.time()}
                note_home(folder, about)

    @hookimpl
    async def outpost_clean(self, worker: str, force: bool) -> Cleaned:
        """Remove an ended worker's files; not before its work was fetched, unless forced."""
        where = await asyncio.to_thread(self._not_home, worker)
        if where and not force:
            return Cleaned(removed=False, detail=f"its work {WAITS}; until then it is in {where}")
        cleaned: Cleaned = await super().outpost_clean(worker=worker, force=force)
        if cleaned.removed:
            self._shown.pop(worker, None)
            if where:
                detail = f"its work was not fetched; it stays on that machine in {where}"
                cleaned = dataclasses.replace(
                    cleaned, rescued=cleaned.rescued or where, detail=cleaned.detail or detail
                )
        return cleaned

    def _not_home(self, worker: str) -> str:
        """Return where the unfetched work of an ended worker is; "" when there is none."""
        try:
            folder = self.folder_of(worker)
            found = status.read(folder)
        except NotFoundError:
            return ""
        copy = copy_of(folder)
        if copy is None or found.result is None or home_of(folder) is not None:
            return ""
        result = found.result
        if not _to_fetch(worker, result):
            return ""
        return f"{copy}, {result.branch or result.checkpoint}"


def copy_of(folder: Path) -> Path | None:
    """Return the copy that a worker works on; None when its rig is no copy."""
    rig = (files.load(str(folder), files.LAUNCH) or {}).get("rig")
    if not isinstance(rig, str) or not rig.endswith(".git"):
        return None
    # whoever changed that file leads nobody to another place
    hosted = Path(files.root_of(str(folder))) / HOSTED
    return Path(rig) if Path(rig).parent == hosted and "\0" not in rig else None


def home_of(folder: Path) -> dict[str, Any] | None:
    """Return what is written about a worker's way home; None while nothing is that we wrote."""
    try:
        home = files.believed(str(folder), HOME)
    except files.Broken:
        return None
    if home is None:
        return None
    texts = [home.get(name) for name in ("branch", "checkpoint", "refused", "given_up")]
    if not all(text is None or (isinstance(text, str) and plausible.line(text)) for text in texts):
        return None
    return home if plausible.branch(home.get("branch")) else None


def note_home(folder: Path, about: dict[str, Any]) -> None:
    """Write down that a worker's work is home, unless that was written before.

    Raises:
        OSError: it could not be written.
    """
    if not files.store_once(str(folder), HOME, about, sync=True) and home_of(folder) is None:
        files.store(str(folder), HOME, about, sync=True)  # in the place of what nobody believes


def _to_fetch(worker: str, result: Result) -> bool:
    return bool(result.commit) or owner_of(result.checkpoint, worker) is not None


def _at_home(seen: WorkerStatus, home: Mapping[str, Any]) -> WorkerStatus:
    result = seen.result
    assert result is not None
    branch, checkpoint = home.get("branch"), home.get("checkpoint")
    if where := home.get("given_up"):
        result = dataclasses.replace(
            result,
            state=State.STOPPED,
            reason="stopped",
            message=f"it was stopped from another machine while its work {WAITS}; the work stays"
            f" in {where}",
            branch=None,
            commit=None,
            checkpoint=str(where),
        )
    elif home.get("refused"):
        result = dataclasses.replace(
            result,
            state=State.FAILED,
            reason="push_failed",
            message=str(home["refused"]),
            branch=None,
            commit=None,
            checkpoint=checkpoint,
        )
    else:
        message = result.message
        if branch != result.branch:
            message += f"; at home it is {branch}, since {result.branch} has other work there"
        result = dataclasses.replace(result, branch=branch, message=message)
    return dataclasses.replace(seen, state=result.state, detail=result.reason, result=result)
