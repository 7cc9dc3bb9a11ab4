"""Removing what an ended worker left, after its unpushed work was rescued (law 5)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from outpost_core.errors import OutpostError
from outpost_core.types import Cleaned, Result
from outpost_core.worker import files, status

TRASH = "trash"
RESCUED = "rescued"
#: What `checkpoint.save` leaves in the folder when the rig does not take a checkpoint.
BUNDLE = "checkpoint.bundle"
#: Seconds that a supervisor may live on after it has written its result.
LAST_MOMENTS = 5.0


def clean(root: Path, folder: Path, *, force: bool) -> Cleaned:
    """Rescue what an ended worker has not pushed, then remove its folder.

    Args:
        root: the state root.
        folder: the worker's folder.
        force: remove it even when the rescue failed.
    """
    empty_trash(root)
    with locked(folder, LAST_MOMENTS if (folder / files.RESULT).exists() else 0.0) as mine:
        if not folder.exists():
            return Cleaned(removed=True)
        if status.needs_recovery(folder):
            return Cleaned(removed=False, detail="it is not recovered yet: try again in a moment")
        found = status.read(folder)
        if not mine or found.result is None:
            return Cleaned(removed=False, detail=f"it has not ended ({found.state}): stop it first")
        try:
            rescued = rescue(root, folder, found.result)
            detail = ""
        except (OutpostError, OSError, ValueError) as error:
            why = error.message if isinstance(error, OutpostError) else str(error)
            if not force:
                return Cleaned(removed=False, detail=f"its work could not be rescued: {why}")
            rescued, detail = None, f"removed although its work could not be rescued: {why}"
        discard(root, folder)
    empty_trash(root)
    return Cleaned(removed=True, rescued=rescued, detail=detail)


@contextlib.contextmanager
def locked(folder: Path, patience: float = 0.0) -> Iterator[bool]:
    """Hold the lock that a supervisor holds while it lives; False when somebody else does.

    Args:
        folder: the worker's folder.
        patience: seconds to wait for it.
    """
    try:
        lock = os.open(folder / files.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:  # no such worker
        yield True
        return
    try:
        yield _take(lock, time.monotonic() + patience)
    finally:
        os.close(lock)


def _take(lock: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.005)
        else:
            return True


def rescue(root: Path, folder: Path, result: Result) -> str | None:
    """Save the worker's unpushed work outside of its folder; return where, or None.

    Raises:
        OutpostError: it could not be saved.
    """
    where = result.checkpoint
    order = files.order(str(folder))
    workspace = files.load(str(folder), files.WORKSPACE)
    if order is not None and workspace is not None:
        from outpost_core.worker import checkpoint

        saved = checkpoint.save(order, str(folder), workspace, ended=True)
        where = saved["kept"] or saved["ref"] or where
    bundle = folder / BUNDLE
    if bundle.exists():  # the remote did not take it, so it would go with the folder
        bundle.chmod(0o600)
        where = _keep(root, bundle, f"{folder.name}.bundle")
    for broken in folder.glob(f"{files.BROKEN}*"):  # an agent's commits may be in it
        kept = _keep(root, broken, f"{folder.name}.{broken.name}")
        where = where or kept
    return where


def _keep(root: Path, path: Path, name: str) -> str:
    kept = root / RESCUED / name
    kept.parent.mkdir(mode=0o700, exist_ok=True)
    path.replace(kept)
    return str(kept)


def discard(root: Path, folder: Path) -> None:
    """Take a worker's folder out of the state in one step; `empty_trash` removes its content."""
    trash = root / TRASH
    trash.mkdir(mode=0o700, exist_ok=True)
    folder.rename(trash / f"{folder.name}.{secrets.token_hex(4)}")


def empty_trash(root: Path) -> None:
    """Remove what was discarded; also what a crash left half removed.

    Symbolic links are removed, never followed (`shutil.rmtree` walks by file descriptors).
    """
    with contextlib.suppress(FileNotFoundError):
        for entry in list((root / TRASH).iterdir()):
            shutil.rmtree(entry, ignore_errors=True)
            if entry.exists():
                unprotect(entry)
                shutil.rmtree(entry, ignore_errors=True)


def unprotect(tree: Path) -> None:
    """Make every folder of `tree` writable: caches of Go modules, for one, are read-only."""
    tree.chmod(0o700)
    for _, folders, _, descriptor in os.fwalk(tree, follow_symlinks=False):
        for name in folders:
            mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                os.chmod(name, 0o700, dir_fd=descriptor)
