"""Reads what a worker's folder says about it, without asking any process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from outpost_core import wire
from outpost_core.errors import NotFoundError, UsageError
from outpost_core.types import Result, State, Usage, WorkerStatus
from outpost_core.worker import claim, files, process


def read(folder: Path) -> WorkerStatus:
    """Return the state of one worker.

    LOST *without* a `finished_at` in its result is provisional: the supervisor is gone and left
    no result, so `needs_recovery` is true. Run `recover` before telling anybody, since a recovery
    may still find that the work is done, and a terminal state never changes.

    Raises:
        NotFoundError: there is no such worker.
    """
    path = str(folder)
    order = files.load(path, files.ORDER)
    if order is None:
        raise NotFoundError(f"there is no worker {folder.name}")
    return _status(path, folder.name, str(order.get("digest", "")))


def started(folder: Path) -> bool:
    """Whether the attempt has begun: then it never begins again."""
    return claim.exists(str(folder)) or claim.finished(str(folder))


def alive(folder: Path) -> bool:
    """Whether the worker's supervisor lives."""
    return claim.holder(str(folder)) is not None


def needs_recovery(folder: Path) -> bool:
    """Whether nobody works at this attempt any more, and it has no result."""
    path = str(folder)
    if claim.finished(path):
        return False
    if not claim.exists(path):
        return _of_another_boot(path)
    # looked at last, since a supervisor writes the result before it ends
    return claim.holder(path) is None and not claim.finished(path)


def scan(
    root: Path, cache: dict[str, tuple[object, str, WorkerStatus | None]]
) -> list[WorkerStatus]:
    """Return the state of every worker under `root`.

    Args:
        root: where workers live; may not exist.
        cache: empty at first, and handed in again at the next call: ended workers are then not
            read again.
    """
    workers = os.path.join(root, files.WORKERS)
    try:
        with os.scandir(workers) as entries:
            names = {entry.name: _made(entry) for entry in entries}
    except FileNotFoundError:
        names = {}
    for gone in cache.keys() - names.keys():
        del cache[gone]
    found = []
    for name, made in names.items():
        known = cache.get(name)
        if known is not None and known[0] != made:  # cleaned, and made anew
            known = None
        if known is not None and known[2] is not None:
            found.append(known[2])
            continue
        path = os.path.join(workers, name)
        if known is None:
            order = files.load(path, files.ORDER)
            if order is None:  # removed meanwhile, or not a worker
                continue
            digest = str(order.get("digest", ""))
        else:
            digest = known[1]
        status = _status(path, name, digest)
        ended = status.result is not None and status.result.finished_at is not None
        cache[name] = (made, digest, status if ended else None)
        found.append(status)
    return found


def _made(entry: os.DirEntry[str]) -> object:
    """Return what tells a folder from one of the same name that is made later.

    Its inode alone does not: the system gives that of a removed one away again.
    """
    try:
        about = entry.stat(follow_symlinks=False)
    except OSError:  # removed meanwhile
        return entry.inode()
    return about.st_ino, about.st_ctime_ns


def _status(path: str, name: str, digest: str) -> WorkerStatus:
    ended = _ended(path, name, digest)
    if ended:
        return ended
    begun = files.load(path, files.CLAIM)
    if begun is None:
        if _of_another_boot(path):
            return _lost(name, digest, "never_started", "the machine was restarted", None)
        return WorkerStatus(
            id=name, state=State.STARTING, digest=digest, detail="waits for its supervisor"
        )
    began = begun.get("at")
    now = files.load(path, files.STATE) or {}
    if claim.holder(path) is None:
        # it may have written its result and ended since we looked
        return _ended(path, name, digest) or _lost(
            name, digest, "lost_process", "its supervisor vanished without a result", began
        )
    return WorkerStatus(
        id=name,
        state=State(now.get("state", "starting")),
        digest=digest,
        detail=now.get("detail", ""),
        started_at=began,
        updated_at=now.get("updated_at", began),
        usage=_usage(now.get("usage")),
        tree=_tree(path),
    )


def _usage(data: Any) -> Usage | None:
    if not data:
        return None
    try:
        return wire.from_json(Usage, data)
    except UsageError:
        return None


def _ended(path: str, name: str, digest: str) -> WorkerStatus | None:
    data = files.load(path, files.RESULT)
    if data is None:
        return None
    try:
        result = wire.from_json(Result, data)
    except UsageError as error:
        result = Result(
            state=State.LOST, reason="internal", message=f"its result cannot be read: {error}",
            finished_at=0.0,
        )  # fmt: skip
    return WorkerStatus(
        id=name,
        state=result.state,
        digest=digest,
        detail=result.reason,
        started_at=result.started_at,
        updated_at=result.finished_at,
        result=result,
        tree=_tree(path),
    )


def _tree(path: str) -> str | None:
    tree = os.path.join(path, files.WORK)
    return tree if os.path.isdir(tree) else None


def _lost(name: str, digest: str, reason: str, message: str, began: float | None) -> WorkerStatus:
    result = Result(state=State.LOST, reason=reason, message=message, started_at=began)
    return WorkerStatus(
        id=name, state=State.LOST, digest=digest, detail=reason, started_at=began, result=result
    )


def _of_another_boot(path: str) -> bool:
    launched = files.load(path, files.LAUNCH)
    return launched is not None and launched.get("boot") != process.boot_id()
