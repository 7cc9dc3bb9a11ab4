"""Begins the mirror of a rig with what the machine has of it already: a container's image, say.

What is taken over from there is worth a download and nothing else: which commit a worker begins
from is asked of the rig, and proved down to its files, as without a reference.
"""

from __future__ import annotations

import os

from outpost_core.errors import WorkerError
from outpost_shared import private
from outpost_worker.repository import store
from outpost_worker.repository.git import Git
from outpost_worker.repository.mirror import mirror_path
from outpost_worker.repository.mirrorlock import Lock

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds for taking it over.
_TIMEOUT = 600.0
#: A reference often belongs to another user than workers do; it is read, and nothing of it is run.
_READ = "git -c 'safe.directory=*' upload-pack"


def begin(root: str, rig: str, reference: str, report: Callable[[str], None]) -> str:
    """Take what a reference has into the mirror of a rig that has nothing yet.

    Args:
        root: the state root.
        rig: the rig.
        reference: the path of a bare repository or of a bundle, which is only read.
        report: told what is being done.

    Returns:
        Why nothing was taken over; "" where it was, or is not needed. It is never in the way.
    """
    path = mirror_path(root, rig)
    if os.path.exists(os.path.join(path, store.HAVE)):
        return ""
    if not os.path.isabs(reference) or not os.path.exists(reference):
        return f"{reference} is not there"
    try:
        private.make(os.path.dirname(path))
        with Lock(path, report) as lock:
            store.restore(path, report)
            if os.path.exists(os.path.join(path, store.HAVE)):
                return ""
            return _take(path, reference, lock.note)
    except (WorkerError, OSError) as error:
        return error.message if isinstance(error, WorkerError) else str(error)


def _take(path: str, reference: str, note: Callable[[int], None]) -> str:
    frame = store.Frame(path, sha256=False, shallow="")
    try:
        git = Git(frame.path, objects=frame.objects)
        quiet = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
        done = git.run(
            *("fetch", *quiet, f"--upload-pack={_READ}", "--", reference),
            "+refs/*:refs/taken/*",
            timeout=_TIMEOUT,
            started=note,
        )
        if done.code:
            return f"{reference} cannot be read: {git.words(done)}"
        told = git.run("for-each-ref", "--format=%(objectname)", "refs/taken")
        store.put(os.path.join(path, store.HAVE), "\n".join(sorted(set(told.text.split()))))
    finally:
        frame.remove()
    return ""
