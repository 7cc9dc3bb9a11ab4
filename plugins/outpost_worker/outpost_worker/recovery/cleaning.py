"""Removing what an ended worker left, after its unpushed work was rescued (law 5)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from outpost_core.errors import OutpostError, WorkerError
from outpost_core.types import Cleaned, Result
from outpost_shared import faults, private, programs
from outpost_shared.backoff import every
from outpost_worker.folder import believing, files, seal, status
from outpost_worker.repository import bundles, credentials
from outpost_worker.repository.git import within
from outpost_worker.repository.leftover import named
from outpost_worker.system import removal

TRASH = files.TRASH
RESCUED = bundles.RESCUED
#: Seconds that a supervisor may live on after it has written its result.
LAST_MOMENTS = 5.0
#: Seconds until one program looks again for what others left half removed.
SWEEP_EVERY = 60.0
_STAYS = "not all of it could be removed: "


def clean(root: Path, folder: Path, *, force: bool) -> Cleaned:
    """Rescue what an ended worker has not pushed, then remove its folder.

    Args:
        root: the state root.
        folder: the worker's folder.
        force: remove it even when the rescue failed.
    """
    _sweep(root)
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
        return _clean_other(folder, force=force)
    with locked(folder, LAST_MOMENTS if (folder / files.RESULT).exists() else 0.0) as mine:
        if not folder.exists():
            left = leftovers(root, folder.name)
            return Cleaned(removed=force or not left, detail=left and _STAYS + left)
        if status.needs_recovery(folder):
            return Cleaned(removed=False, detail="it is not recovered yet: try again in a moment")
        found = status.read(folder)
        if not mine or found.result is None:
            return Cleaned(removed=False, detail=f"it has not ended ({found.state}): stop it first")
        try:
            rescued, detail = rescue(root, folder, found.result, force=force)
        except (OutpostError, OSError, ValueError) as error:
            why = error.message if isinstance(error, OutpostError) else str(error)
            if not force:
                return Cleaned(removed=False, detail=f"its work could not be rescued: {why}")
            rescued, detail = None, f"removed although its work could not be rescued: {why}"
        try:
            gone = discard(root, folder)
        except OSError as error:
            why = f"{removal.shown(str(folder))}: {error.strerror}"
            return Cleaned(removed=False, rescued=rescued, detail=f"it cannot be moved: {why}")
        faults.point("clean.discarded")
    if left := str(_remove(root, gone)):
        detail = "; ".join(filter(None, [detail, _STAYS + left]))
        return Cleaned(removed=force, rescued=rescued, detail=detail)
    return Cleaned(removed=True, rescued=rescued, detail=detail)


def _clean_other(path: Path, *, force: bool) -> Cleaned:
    """Remove what somebody put in the place of a worker's folder; of a link, nothing behind it."""
    if not force:
        what = f"a link to {removal.shown(os.readlink(path))}" if path.is_symlink() else "a file"
        why = f"{path} is {what}, and no folder of ours"
        return Cleaned(removed=False, detail=f"{why}; look at it, then force it")
    left = str(removal.remove(path))
    return Cleaned(removed=not left, detail=left or "only what stood in its place was removed")


@contextlib.contextmanager
def locked(folder: Path, patience: float = 0.0) -> Iterator[bool]:
    """Hold the lock that a supervisor holds while it lives; False when somebody else does.

    Args:
        folder: the worker's folder.
        patience: seconds to wait for it.
    """
    try:
        lock = files.open_own(str(folder / files.LOCK), os.O_RDWR)
    except FileNotFoundError:  # no such worker
        yield True
        return
    try:
        yield _take(lock, patience)
    finally:
        os.close(lock)


def _take(lock: int, patience: float) -> bool:
    for _ in every(0.005, within=patience).tries():
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


def rescue(root: Path, folder: Path, result: Result, *, force: bool) -> tuple[str | None, str]:
    """Save the worker's unpushed work outside of its folder.

    Args:
        root: the state root.
        folder: the worker's folder.
        result: how the worker ended.
        force: continue although some of it cannot be read.

    Returns:
        where it is, or None, and what there is to say besides.

    Raises:
        OutpostError: it could not be saved.
    """
    where = result.checkpoint
    order, workspace = None, None
    launched: dict[str, Any] = {}
    words = []
    try:
        order, launched = believing.truth(str(folder))
        workspace = believing.workspace(str(folder), order)
    except files.Broken as error:
        if (folder / files.WORK).is_dir():
            words.append(_refuse_broken(folder, error.said, force=force))
    if order is not None and workspace is not None:
        from outpost_worker.work import checkpoint

        with within(_environment(order, launched)):
            saved = checkpoint.save(order, str(folder), workspace, ended=True)
        if unreadable := saved.get("unreadable"):
            words.append(_refuse(folder / files.WORK, unreadable, force=force))
        archive = saved.get("archive")
        where = saved["kept"] or saved["ref"] or archive or saved.get("unfiltered")
        words += [
            f"also kept: {more}"
            for more in (archive, saved.get("unfiltered"))
            if more and more != where
        ]
    bundle = folder / bundles.NAME
    if os.path.lexists(bundle):  # the remote did not take it, so it would go with the folder
        owner = (order or {}).get("owner") or ""
        where = bundles.keep(str(root), str(bundle), folder.name, owner)
        faults.point("clean.kept")
    for broken in folder.glob(f"{files.BROKEN}*"):  # an agent's commits may be in it
        kept = _keep(root, broken, f"{folder.name}.{broken.name}")
        where = where or kept
    return where, "; ".join(words)


def _environment(order: dict[str, Any], launched: dict[str, Any]) -> dict[str, str]:
    """Return the environment that the worker's own git commands had, and nothing of the caller's.

    Whoever cleans may have secrets in his environment that no program of a rig should see.
    """
    # a program that starts no supervisor has noted none
    env = launched.get("env") or programs.base_env(os.environ)
    agent = order.get("agent") or {}
    return {**env, **agent.get("env", {}), **order.get("env", {})}


def _refuse(work: Path, unreadable: dict[str, str], *, force: bool) -> str:
    """Say what cannot be saved; raises it unless that is forced."""
    some = named([f"{path} ({why})" for path, why in unreadable.items()])
    if force:
        return f"removed although it could not be read: {some}"
    raise WorkerError(
        f"{some} in {work} cannot be read; make it readable (chmod -R u+rwX {work}), or force it",
        reason="commit_failed",
    )


def _refuse_broken(folder: Path, why: str, *, force: bool) -> str:
    """Say that nothing of a broken worker is run to save its work; raises it unless forced."""
    if force:
        return f"removed although {why}"
    raise WorkerError(
        f"{why}, so nothing of it is run; look for work in {folder / files.WORK} yourself,"
        " then force it",
        reason="broken",
    )


def _keep(root: Path, path: Path, name: str) -> str:
    kept = root / RESCUED / name
    private.make(str(kept.parent))
    path.replace(kept)
    return str(kept)


def discard(root: Path, folder: Path) -> Path:
    """Take a worker's folder out of the state in one step; return where its content is now.

    `empty_trash` removes that, also after a crash right here.
    """
    # by its name, whoever removes it knows which seal goes with it
    word = (files.load(str(folder), files.ORDER) or {}).get("seal")
    word = word if isinstance(word, str) and word.isalnum() else secrets.token_hex(4)
    trash = _trash(root)
    gone = trash / f"{folder.name}.{word[:32]}"
    if os.path.lexists(gone):
        gone = trash / f"{folder.name}.{secrets.token_hex(4)}"
    folder.rename(gone)
    credentials.remove(str(root), folder.name)
    return gone


def _remove(root: Path, gone: Path) -> removal.Removed:
    """Remove what was discarded, and its seal."""
    done = removal.remove(gone)
    worker, _, word = gone.name.rpartition(".")
    seal.drop(str(root), word, worker)
    return done


def leftovers(root: Path, worker: str) -> str:
    """Try again to remove what is left of a worker's files; say what cannot be, "" when all is."""
    said = ""
    with contextlib.suppress(FileNotFoundError):
        for entry in (root / TRASH).iterdir():
            if entry.name.rpartition(".")[0] == worker:
                said = said or str(_remove(root, entry))
    return said


def empty_trash(root: Path) -> list[removal.Unremoved]:
    """Remove what was discarded; also what a crash left half removed.

    Returns:
        what cannot be removed, the first of each discarded folder; it is tried again next time.
    """
    left = []
    with contextlib.suppress(FileNotFoundError):
        for entry in list((root / TRASH).iterdir()):
            left += _remove(root, entry).left[:1]
    return left


def _trash(root: Path) -> Path:
    trash = root / TRASH
    try:
        private.make(str(trash))
    except OSError:
        # a full disk has no room for a folder; what lies in staging is swept, too
        if not (root / files.STAGING).is_dir():
            raise
        return root / files.STAGING
    return trash


def _sweep(root: Path) -> None:
    """Empty the trash, by one program at a time and not with every worker that goes."""
    now = time.monotonic()
    with _SWEEPING:
        if now < _swept.get(str(root), now):
            return
        _swept[str(root)] = now + SWEEP_EVERY
    empty_trash(root)


_SWEEPING = threading.Lock()
_swept: dict[str, float] = {}
