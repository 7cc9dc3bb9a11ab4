"""Removing what an ended worker left, after its unpushed work was rescued (law 5)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from outpost_core.errors import OutpostError
from outpost_core.types import Cleaned
from outpost_core.worker import files, status

TRASH = "trash"
RESCUED = "rescued"


def clean(root: Path, folder: Path, *, force: bool) -> Cleaned:
    """Rescue what an ended worker has not pushed, then remove its folder.

    Args:
        root: the state root.
        folder: the worker's folder.
        force: remove it even when the rescue failed.
    """
    empty_trash(root)
    with locked(folder) as mine:
        if not folder.exists():
            return Cleaned(removed=True)
        state = status.read(folder).state
        if not mine or not state.terminal:
            return Cleaned(removed=False, detail=f"it has not ended ({state}): stop it first")
        if status.needs_recovery(folder):
            return Cleaned(removed=False, detail="it is being recovered: try again in a moment")
        try:
            rescued = rescue(root, folder)
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
def locked(folder: Path) -> Iterator[bool]:
    """Hold the lock that a supervisor holds while it lives; False when somebody else does."""
    try:
        lock = os.open(folder / files.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:  # no such worker
        yield True
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(lock)


def rescue(root: Path, folder: Path) -> str | None:
    """Save the worker's unpushed work outside of its folder; return where, or None.

    Raises:
        OutpostError: it could not be saved.
    """
    order = _load(folder / files.ORDER)
    where: str | None = None
    if order.get("rig") and (folder / files.WORKSPACE).exists():
        from outpost_core.worker import checkpoint, deliver

        workspace = _load(folder / files.WORKSPACE)
        if deliver.unpushed(str(folder), workspace):
            saved = checkpoint.save(order, str(folder), workspace)
            where = saved["ref"] if saved["pushed"] else saved["kept"]
    # An earlier rescue may lie in the folder, because the remote did not take it.
    bundle = folder / "checkpoint.bundle"
    if bundle.exists():
        kept = root / RESCUED / f"{folder.name}.bundle"
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        bundle.replace(kept)
        if where is None or where == str(bundle):
            where = str(kept)
    return where


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


def _load(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return data
