"""Reads what a worker's folder says about it, without asking any process.

Nothing in it is believed as it stands: the agent could have written it. A result counts when it
says what can be and no supervisor lives that would know better; while one lives, its worker goes
on whatever the files say. What is broken is said, and is one worker's matter.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, TypeAlias

from outpost_core import wire
from outpost_core.errors import NotFoundError, UsageError
from outpost_core.types import Result, State, Usage, WorkerStatus, split_worker_id
from outpost_shared import plain, plausible, process
from outpost_worker.folder import believing, claim, files, seal

#: Reason of a worker of which nothing can be believed.
BROKEN = "broken"
_LIVING = frozenset({State.STARTING, State.WORKING, State.IDLE})


class _About:
    """What is known of a worker's order: its digest, its seal, and what is wrong with it."""

    __slots__ = ("digest", "doubt", "seal")

    def __init__(self, digest: str, own: seal.Seal | None, doubt: str) -> None:
        self.digest = digest
        self.seal = own
        self.doubt = doubt


#: Of each worker: what tells its folder from a later one, its order, and how it ended.
Cache: TypeAlias = dict[str, tuple[object, _About, WorkerStatus | None]]


def read(folder: Path) -> WorkerStatus:
    """Return the state of one worker.

    LOST *without* a `finished_at` in its result is provisional: the supervisor is gone and left
    no result, so `needs_recovery` is true. Run `recover` before telling anybody, since a recovery
    may still find that the work is done, and a terminal state never changes.

    Raises:
        NotFoundError: there is no such worker.
    """
    found, _ = _look(str(folder), folder.name, claim.Supervisors())
    if found is None:
        raise NotFoundError(f"there is no worker {folder.name}")
    return found


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


def scan(root: Path, cache: Cache) -> list[WorkerStatus]:
    """Return the state of every worker under `root`.

    Args:
        root: where workers live; may not exist.
        cache: empty at first, and handed in again at the next call: ended workers are then not
            read again.
    """
    workers = os.path.join(root, files.WORKERS)
    try:
        above = plain.folder(os.path.abspath(root))
    except FileNotFoundError:
        return []
    try:
        return _scan(workers, plain.inner(above, files.WORKERS), str(root), cache)
    except FileNotFoundError:
        cache.clear()
        return []
    finally:
        os.close(above)


def _scan(workers: str, above: int, root: str, cache: Cache) -> list[WorkerStatus]:
    found = []
    supervisors, shelf = claim.Supervisors(), None
    try:
        with os.scandir(above) as entries:
            names = {entry.name: _made(entry) for entry in entries}
        for gone in cache.keys() - names.keys():
            del cache[gone]
        for name, made in names.items():
            known = cache.get(name)
            if known is not None and known[0] != made:  # cleaned, and made anew
                known = None
            if known is not None and known[2] is not None:
                found.append(known[2])
                continue
            path, about = os.path.join(workers, name), None if known is None else known[1]
            status = None
            if about is None:
                shelf = shelf or seal.Shelf(root)
                status, about = _look_shortly(path, name, above, shelf)
            if status is None:
                status, about = _look(path, name, supervisors, about)
            if status is None:  # removed meanwhile, or not a worker
                continue
            if about is not None and not about.doubt:
                ended = status.result is not None and status.result.finished_at is not None
                cache[name] = (made, about, status if ended else None)
            found.append(status)
    finally:
        os.close(above)
        if shelf is not None:
            shelf.close()
    return found


def _look_shortly(
    path: str, name: str, above: int, shelf: seal.Shelf
) -> tuple[WorkerStatus | None, _About | None]:
    """Return the status of a worker whose supervisor has signed its result; else None.

    Most of a long list are such: nothing else in their folders need be looked at.

    Args:
        path: its folder.
        name: its id.
        above: descriptor of the folder that holds all of them.
        shelf: the seals.
    """
    own = shelf.of(name)
    if own is None:
        return None, None
    try:
        at = plain.inner(above, name)
    except OSError:
        return None, None
    about = _About(own.digest, own, "")
    try:
        result, _ = _result(at, about)
    except OSError:
        return None, None
    finally:
        os.close(at)
    return (None, None) if result is None else (_ended(result, path, name, own.digest), about)


def _made(entry: os.DirEntry[str]) -> object:
    """Return what tells a folder from one of the same name that is made later.

    Its inode alone does not: the system gives that of a removed one away again.
    """
    try:
        about = entry.stat(follow_symlinks=False)
    except OSError:  # removed meanwhile
        return entry.inode()
    return about.st_ino, about.st_ctime_ns


def _look(
    path: str, name: str, supervisors: claim.Supervisors, about: _About | None = None
) -> tuple[WorkerStatus | None, _About | None]:
    """Return the state of a worker, None when there is none of that name; and what it is about.

    Args:
        path: its folder.
        name: its id.
        supervisors: where to look for its supervisor.
        about: when that was looked at before.
    """
    try:
        at = plain.folder(path)
    except FileNotFoundError:
        return None, None
    except files.Broken as error:
        if not _is_worker(path, name):
            return None, None
        doubt = f"its folder {error.strerror}"
        living = supervisors.of(path)
        if living is not None:
            began = process.moment(living[1])
            hidden = WorkerStatus(id=name, state=State.WORKING, detail=doubt, started_at=began)
            return hidden, None
        return _broken(path, name, "", doubt), None
    try:
        about = about or _about(at, path)
        found = _status(at, path, name, about, supervisors)
        # what is being removed meanwhile has no order any more, and is not there by its name
        return (found if not about.doubt or _is_there(at, path) else None), about
    finally:
        os.close(at)


def _about(at: int, path: str) -> _About:
    """Look at what a worker was ordered, and at its seal."""
    order, own, doubt = None, None, ""
    try:
        data = files.content(at, files.ORDER)
        if data is None:
            doubt = f"{files.ORDER} is missing"
        else:
            order = files.parse(files.ORDER, data)
    except files.Broken as error:
        doubt, data = error.said, None
    try:
        own = seal.of(path, order, at)
        if own is not None and data is not None:
            own.check(files.ORDER, data)
    except files.Broken as error:
        doubt = doubt or error.said
    said = own.digest if own is not None else (order or {}).get("digest")
    return _About(
        said if isinstance(said, str) and len(said) <= plausible.SHORT else "", own, doubt
    )


def _is_there(at: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(at), os.lstat(path))
    except OSError:
        return False


def _is_worker(path: str, name: str) -> bool:
    """Whether what is no folder stands where a worker's should: a file besides may be anything."""
    try:
        split_worker_id(name)
    except UsageError:
        return False
    return os.path.islink(path) or os.path.isdir(path)


def _status(
    at: int, path: str, name: str, about: _About, supervisors: claim.Supervisors
) -> WorkerStatus | None:
    digest, doubt = about.digest, about.doubt
    if about.seal is not None:  # whatever keeps living, this is the supervisor's own word
        result, _ = _result(at, about)
        if result is not None:
            return _ended(result, path, name, digest)
    try:
        begun = files.examine(at, files.CLAIM)
    except files.Broken as error:
        begun, doubt = {}, doubt or error.said
    living = None if begun is None else claim.proved(path, begun, supervisors)
    if living is not None:
        began = claim.moment(begun) or process.moment(living[1])
        return _living(at, path, name, digest, began, doubt or _result(at, about)[1])
    # looked at last, since a supervisor writes the result before it ends
    result, odd = _result(at, about)
    if result is not None:
        return _ended(result, path, name, digest)
    doubt = doubt or odd
    if begun is None:
        if _has(at, files.STATE) and (living := supervisors.of(path)) is not None:
            doubt = doubt or f"{files.CLAIM} is missing"
            return _living(at, path, name, digest, process.moment(living[1]), doubt)
        return _unbegun(at, path, name, digest, doubt)
    message = "its supervisor vanished without a result"
    if doubt:
        message += f" that can be believed: {doubt}"
    return _lost(name, digest, "lost_process", message, claim.moment(begun))


def _unbegun(at: int, path: str, name: str, digest: str, doubt: str) -> WorkerStatus | None:
    if doubt:
        return _broken(path, name, digest, doubt) if _was_published(at) else None
    if _of_another_boot(at):
        return _lost(name, digest, "never_started", "the machine was restarted", None)
    return WorkerStatus(
        id=name, state=State.QUEUED, digest=digest, detail="waits for its supervisor"
    )


def _has(at: int, name: str) -> bool:
    """Whether there is anything under a name: a supervisor alone makes some of the files."""
    try:
        os.stat(name, dir_fd=at, follow_symlinks=False)
    except OSError:
        return False
    return True


def _was_published(at: int) -> bool:
    """Whether a folder is one that was made for a worker, whatever is in it now."""
    names = os.listdir(at)
    return files.ORDER in names or files.LAUNCH in names


def _living(
    at: int, path: str, name: str, digest: str, began: float | None, doubt: str
) -> WorkerStatus:
    """Return the status of a worker whose supervisor lives, as far as its files can be believed."""
    state, detail, updated, usage, fence = State.STARTING, "", began, None, ""
    try:
        now = files.examine(at, files.STATE)
        if now is not None:
            state, detail, updated, usage = _said(now, began)
            fence = said_fence(now)
    except files.Broken as error:
        state, doubt = State.WORKING, doubt or error.said
    if doubt:
        detail = f"{detail}; {doubt}" if detail else doubt
    return WorkerStatus(
        id=name,
        state=state,
        digest=digest,
        detail=detail,
        started_at=began,
        updated_at=updated,
        usage=usage,
        tree=_tree(path),
        fence=fence,
    )


def said_fence(now: dict[str, Any]) -> str:
    """Return which fence `state.json` says that the agent has; "" for what cannot be one."""
    fence = now.get("fence")
    return fence if isinstance(fence, str) and plausible.line(fence) else ""


def _said(
    now: dict[str, Any], began: float | None
) -> tuple[State, str, float | None, Usage | None]:
    """Return what `state.json` says.

    Raises:
        Broken: something in it cannot be.
    """
    state, detail = now.get("state", "starting"), now.get("detail", "")
    if not isinstance(state, str) or state not in _LIVING:
        raise files.Broken(files.STATE, "says a state that it cannot be in")
    if not isinstance(detail, str) or not plausible.line(detail):
        raise files.Broken(files.STATE, "says a detail that is no line of text")
    usage = None
    if now.get("usage"):
        try:
            usage = wire.from_json(Usage, now["usage"])
        except UsageError as error:
            raise files.Broken(files.STATE, f"cannot be read: {error}") from None
        if odd := plausible.odd_usage(usage):
            raise files.Broken(files.STATE, f"says what cannot be as its {odd}")
    updated = _moment(now.get("updated_at", began))
    return State(state), detail, updated, usage


def _moment(value: Any) -> float | None:
    """Return a moment, None for what cannot be one."""
    if isinstance(value, int | float) and not isinstance(value, bool) and plausible.moment(value):
        return float(value)
    return None


def _result(at: int, about: _About) -> tuple[Result | None, str]:
    """Return the result that is there, and why it cannot be believed; "" when it can."""
    try:
        data = files.content(at, files.RESULT)
        if data is None:
            return None, ""
        value = files.signed(about.seal, files.RESULT, data)
        if about.seal is None and about.doubt and not files.is_broken(value):
            return None, about.doubt
        return believing.result(files.RESULT, value), ""
    except files.Broken as error:
        return None, error.said


def _ended(result: Result, path: str, name: str, digest: str) -> WorkerStatus:
    return WorkerStatus(
        id=name,
        state=result.state,
        digest=digest,
        detail=result.reason,
        started_at=result.started_at,
        updated_at=result.finished_at,
        result=result,
        tree=_tree(path),
        fence=result.fence,
    )


def _broken(path: str, name: str, digest: str, why: str) -> WorkerStatus:
    """Return the status of a worker of which nothing can be believed, ever since it was changed."""
    try:
        since = os.lstat(path).st_ctime
    except OSError:
        since = 0.0
    result = Result(state=State.LOST, reason=BROKEN, message=why, finished_at=since)
    return WorkerStatus(id=name, state=State.LOST, digest=digest, detail=BROKEN, result=result)


def _tree(path: str) -> str | None:
    tree = f"{path}/{files.WORK}"
    try:
        return tree if stat.S_ISDIR(os.lstat(tree).st_mode) else None
    except OSError:
        return None


def _lost(name: str, digest: str, reason: str, message: str, began: float | None) -> WorkerStatus:
    result = Result(state=State.LOST, reason=reason, message=message, started_at=began)
    return WorkerStatus(
        id=name, state=State.LOST, digest=digest, detail=reason, started_at=began, result=result
    )


def _of_another_boot(folder: str | int) -> bool:
    launched = files.load(folder, files.LAUNCH)
    return launched is not None and launched.get("boot") != process.boot_id()
