"""The shared bare mirror of a rig: asked and fetched by one worker at a time, used by all.

A mirror is `<root>/rigs/<name>-<hash>.git` with `<same>.lock` beside it. The holder of the lock
fetches only when the commit that it needs is not there. Objects are never pruned: the workers'
repositories borrow them.

Inside the mirror, `outpost-snapshot` holds the remote's refs as last told, with the moment,
`outpost-have` the hashes of the refs that were fetched, and `outpost-sound` which commits were
proved (`proof.py`) since the objects last changed. Where all agents were fenced off that, it is
believed: what was asked after a worker came to wait serves that worker too, so many workers at
once cost one question. Where one was not (`exposed.py`), each worker asks the remote itself, and
the commit that it starts from is proved anew, down to its files. In both cases, remotes are asked
without any repository's settings.
"""

from __future__ import annotations

import os
import time

from outpost_core.errors import WorkerError
from outpost_core.names import split_rig
from outpost_shared import private
from outpost_shared.programs import NOWHERE
from outpost_worker.folder import exposed, guarded
from outpost_worker.repository import credentials as logins
from outpost_worker.repository import hosted, store
from outpost_worker.repository.fetching import Fetch
from outpost_worker.repository.git import MISSING, Git, persistently
from outpost_worker.repository.mirrorlock import Lock
from outpost_worker.repository.preflight import explain_fetch
from outpost_worker.repository.proof import DamagedError, ForgedError
from outpost_worker.repository.remotestate import RemoteState

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Callable


def mirror_path(root: str, rig: str) -> str:
    """Return where the mirror of `rig` is; its password does not count and does not show."""
    try:  # hashlib would load all of OpenSSL for its other algorithms
        from _blake2 import blake2b
    except ImportError:
        from hashlib import blake2b

    url, _ = split_rig(rig)
    url = url.rstrip("/")
    name = url.rpartition("/")[2].rpartition(":")[2].removesuffix(".git")
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)[:40]
    # A user name (`https://me@host/…`) may be a token, so it is only hashed.
    key = blake2b(os.fsencode(url), digest_size=8).hexdigest()
    return os.path.join(root, "rigs", f"{name.lstrip('.-') or 'rig'}-{key}.git")


def asking(rig: str, credentials: str) -> Git:
    """Return git to ask a remote with, by the user's own configuration alone.

    Args:
        rig: the remote.
        credentials: as for `Git`.
    """
    return Git(NOWHERE, credentials=credentials, rig=rig)


def sync(
    root: str,
    rig: str,
    base: str | None,
    depth: int | None,
    credentials: str,
    report: Callable[[str], None],
) -> RemoteState:
    """Make the mirror of `rig` hold the commit that `base` names now, and return what it knows.

    A mirror that somebody has changed so that it cannot be used is put aside and made anew.

    Args:
        root: the folder that holds `rigs/`.
        rig: URL or path, already checked.
        base: branch, tag or commit; None for the remote's default branch.
        depth: history depth of a first clone; None for all of it.
        credentials: as for `Git`.
        report: told what is being done.

    Raises:
        WorkerError: `base_not_found`, or `workspace_failed` when the remote cannot be read.
        OSError: the mirror cannot be written.
    """
    asked = time.monotonic_ns()
    path = mirror_path(root, rig)
    private.make(os.path.dirname(path))
    hosted.restore_if_hosted(root, rig, report)
    git = asking(rig, credentials)
    believe = not exposed.was(root)
    told = None if believe else _ask(git, report)
    with Lock(path, report) as lock:
        for last in (False, True):
            store.restore(path, report)
            seen = RemoteState(path)
            if told is None and not asked <= seen.stamp <= time.monotonic_ns():
                told = _ask(git, report)
            if told is not None:
                seen.learn(told[1], told[0])
                store.configure(path, sha256=seen.sha256)
                store.put(os.path.join(path, store.SNAPSHOT), f"{told[0]}\n{told[1]}\n")
            fetch = Fetch(seen, git.url, credentials, rig, depth, report, lock.note)
            with fetch:
                try:
                    fetch.provide(base)
                    fetch.prove(believe=believe)
                    break
                except WorkerError as error:
                    wrong = error
                    if not isinstance(error, ForgedError):
                        wrong = explain_fetch(error, fetch.git, git.url)
            if last or not isinstance(wrong, DamagedError):
                raise wrong
            guarded.put_aside(path, f"cannot be used ({wrong.message})", report)
    return seen


def _ask(git: Git, report: Callable[[str], None]) -> tuple[int, str]:
    """Return what the remote tells of its refs, and when that was asked."""
    report("asking the rig for its branches")
    stamp = time.monotonic_ns()
    done = persistently(
        lambda: git.run("ls-remote", "--symref", "--", git.url), report, "asking the rig"
    )
    if not done.code:
        return stamp, done.text
    error = git.error(done, "read the rig", "workspace_failed")
    error.hint = "check the address, and that this machine may read it: git ls-remote URL"
    if done.code == MISSING:
        error.hint = "install git on the outpost"
    elif git.logs_in:
        error.hint = logins.hint(done.err) or error.hint
    raise explain_fetch(error, git, git.url)


def remove_locks(git_dir: str) -> None:
    """Remove lock files in a repository that no process writes to any more."""
    for folder, names, files in os.walk(git_dir):
        if folder == git_dir:
            names[:] = [name for name in names if name not in ("objects", "modules")]
        for name in files:
            if name.endswith(".lock"):
                os.unlink(os.path.join(folder, name))
