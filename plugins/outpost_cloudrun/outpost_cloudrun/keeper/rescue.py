"""Unpushed work of a container brought home, before the container is gone.

What no rig took is in a bundle over there, and nowhere else. It counts as rescued once git has
read it here: every object of it, with those of the rig that it builds on.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from outpost_cloudrun.keeper.records import WorkerRecord
from outpost_core.errors import UnreachableError
from outpost_core.names import checkpoint_ref
from outpost_shared import border, faults, plain, private, programs
from outpost_worker.repository import bundles

#: Bytes of a bundle that are taken: more than any repository that an agent can clone into memory.
_MOST: Final = 16 << 30
#: Seconds for one command of git.
_GIT: Final = 600.0


async def bring_home(record: WorkerRecord, pieces: AsyncIterator[bytes]) -> tuple[str | None, str]:
    """Keep a worker's bundle in the state folder.

    Args:
        record: whose it is; its result is not written yet.
        pieces: the bundle.

    Returns:
        The path of the bundle, or None when there is none that can be used; and what is to be said
        besides, as an addition to a sentence.

    Raises:
        NotFoundError: the container that answers has none.
        UnreachableError: it did not come whole, or cannot be written.
    """
    root = record.folder.parent.parent
    staging = root / "staging"
    private.make(str(staging))
    staged = staging / f"{uuid.uuid4().hex}.bundle"
    try:
        await _write(staged, pieces)
        why, doubt = await asyncio.to_thread(_check, record, staged)
        if why:
            return None, f"; what it sent as its unpushed work cannot be used: {why}"
        kept = await asyncio.to_thread(
            bundles.keep, str(root), str(staged), record.worker, record.order.owner
        )
    except OSError as error:
        raise UnreachableError(f"a bundle cannot be written: {error.strerror}") from error
    finally:
        staged.unlink(missing_ok=True)
    faults.point("keeper.rescued")
    return kept, doubt


async def _write(path: Path, pieces: AsyncIterator[bytes]) -> None:
    room = _MOST
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        async for piece in pieces:
            room -= len(piece)
            if room < 0:
                raise UnreachableError(f"a bundle has more than {_MOST} bytes")
            plain.write_all(fd, piece)
        await asyncio.to_thread(os.fsync, fd)
    finally:
        os.close(fd)


def _check(record: WorkerRecord, path: Path) -> tuple[str, str]:
    """Return why a bundle cannot be used, and what could not be made sure of; "" for nothing."""
    order = record.order
    head = bundles.Head(str(path))
    ref = checkpoint_ref(record.worker, order.owner)
    if [*head.refs] != [ref]:
        return f"it does not hold {ref}", ""
    scratch = tempfile.mkdtemp(prefix="outpost-bundle-")
    try:
        _git(scratch, "init", "--quiet", "--bare", ".")
        missing = [commit for commit in head.needs if not _fetch(scratch, order.rig or "", commit)]
        if missing:
            doubt = "it builds on commits that could not be had from the rig to look at it"
            return "", f"; the bundle was kept unread: {doubt}"
        _git(scratch, "bundle", "verify", "--quiet", str(path))
        _git(scratch, "fetch", "--quiet", str(path), f"{ref}:refs/heads/kept")
        commit = _git(scratch, "rev-parse", "refs/heads/kept^{tree}")
    except subprocess.CalledProcessError as error:
        return border.line(error.stderr or "git cannot read it", 300), ""
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"; the bundle was kept unread: {type(error).__name__}"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return ("", "") if commit else ("it holds no commit", "")


def _fetch(folder: str, rig: str, commit: str) -> bool:
    """Whether a commit that a bundle builds on could be had from the rig."""
    try:
        _git(folder, "fetch", "--quiet", "--no-tags", rig, commit, remote=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError):
        return False
    return True


def _git(folder: str, *argv: str, remote: bool = False) -> str:
    env = programs.git_env(os.environ, remote=remote)
    if not remote:
        env["GIT_ALLOW_PROTOCOL"] = "file"  # the bundle is a file
    done = subprocess.run(
        ["git", "-c", "core.fsmonitor=false", "-c", "transfer.fsckObjects=false", *argv],
        cwd=folder, env=env, capture_output=True, text=True, errors="replace", check=True,
        timeout=_GIT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stdout.strip()
