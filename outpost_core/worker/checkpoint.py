"""Work in progress, committed aside and brought to safety while the agent goes on.

A checkpoint is a commit of everything in the working tree that is not ignored, on top of what
the agent has committed. It is made with an index of its own, so neither the agent's index nor its
HEAD nor its files change. It goes to `refs/outpost/<worker>` on the rig, which belongs to this
worker alone and is therefore overwritten; where that cannot be, to a bundle in the worker's
folder.
"""

from __future__ import annotations

import os

from outpost_core.worker.changes import look, stage
from outpost_core.worker.git import NETWORK_TIMEOUT, Git, read, write
from outpost_core.worker.workspace import (
    CHECKPOINT_MARK,
    checkpoint_ref,
    repository,
    worker_of,
)

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: Seconds that the push of one checkpoint may take; the next one tries again.
PUSH_TIMEOUT = min(120.0, NETWORK_TIMEOUT)
_IDENTITY = {
    "GIT_AUTHOR_NAME": "outpost",
    "GIT_AUTHOR_EMAIL": "outpost@localhost",
    "GIT_COMMITTER_NAME": "outpost",
    "GIT_COMMITTER_EMAIL": "outpost@localhost",
}


class _Last:
    """The last checkpoint, kept in `<folder>/checkpoint`: commit, tree, and where it is."""

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, "checkpoint")
        lines = read(self.path).splitlines()
        self.commit, self.tree, self.kept = lines if len(lines) == 3 else ("", "", "")

    def write(self, commit: str, tree: str, kept: str) -> None:
        self.commit, self.tree, self.kept = commit, tree, kept
        write(self.path, f"{commit}\n{tree}\n{kept}\n")

    def answer(self, order: Mapping[str, Any], *, nothing: bool) -> dict[str, Any]:
        ref = checkpoint_ref(worker_of(order))
        return {
            "ref": ref if self.commit and not self.kept else None,
            "commit": self.commit or None,
            "pushed": bool(self.commit) and not self.kept,
            "kept": self.kept or None,
            "nothing": nothing,
        }


class _Found:
    """What there is to save: the tree, HEAD, and whether any of it is new."""

    __slots__ = ("head", "new", "tree")

    def __init__(self, tree: str, head: str | None, new: bool) -> None:
        self.tree = tree
        self.head = head
        self.new = new


def save(
    order: Mapping[str, Any],
    folder: str,
    workspace: Mapping[str, Any],
    *,
    ended: bool = False,
) -> dict[str, Any]:
    """Bring work that is not on the rig to safety. The agent may be at work meanwhile.

    Commits on other local branches and in stashes come along as further parents.

    Args:
        order: the order's JSON.
        folder: the worker's folder.
        workspace: what `workspace.prepare` returned.
        ended: the agent's processes have ended, so that a broken repository can be mended.

    Returns:
        `ref` and `pushed` when the rig has it; else `kept`, the path of a bundle; `commit`; and
        `nothing` when there was nothing new: then the others tell of the checkpoint before, or
        are None when there is none.

    Raises:
        WorkerError: `commit_failed` or `disk_full`, it could not even be committed.
    """
    if ended:
        from outpost_core.worker.mending import mend

        mend(order, folder, workspace)
    git = repository(order, folder)
    last = _Last(folder)
    found = _find(git, folder, workspace, last.commit, last.tree)
    if not found.new:
        if last.kept:  # it could not be pushed then; perhaps it can be now
            _send(git, order, folder, workspace, last, last.commit, last.tree)
        return last.answer(order, nothing=True)
    commit = _commit(git, order, found, workspace)
    _send(git, order, folder, workspace, last, commit, found.tree)
    return last.answer(order, nothing=False)


def unsaved(folder: str, workspace: Mapping[str, Any]) -> bool:
    """Return whether there is work that is neither on the rig nor in a checkpoint.

    Raises:
        WorkerError: `commit_failed`, nobody can tell.
    """
    work = os.path.join(folder, "work")
    git, last = Git(os.path.join(work, ".git"), work), _Last(folder)
    return _find(git, folder, workspace, last.commit, last.tree).new


def discard(git: Git, order: Mapping[str, Any], folder: str, workspace: Mapping[str, Any]) -> None:
    """Take the checkpoint off the rig after a delivery, when nothing else needs it.

    It stays where the rig cannot be reached, or where the agent left more than was delivered.
    """
    last = _Last(folder)
    if not last.commit or _find(git, folder, workspace).new:
        return
    ref = checkpoint_ref(worker_of(order))
    if last.kept:
        os.unlink(last.kept)
    elif git.run("push", "--porcelain", "outpost", f":{ref}", timeout=PUSH_TIMEOUT).code:
        return
    last.write("", "", "")


def place(order: Mapping[str, Any], folder: str) -> str | None:
    """Return where the last checkpoint is: a ref of the rig, a path, or None."""
    answer = _Last(folder).answer(order, nothing=True)
    where: str | None = answer["ref"] or answer["kept"]
    return where


def stashes(git: Git) -> list[str]:
    """Return the commits of everything that the agent stashed and left there."""
    lines = read(os.path.join(git.git_dir, "logs/refs/stash")).splitlines()
    return [line.split(" ")[1] for line in lines if line.count(" ") > 1]


def _find(
    git: Git, folder: str, workspace: Mapping[str, Any], commit: str = "", tree: str = ""
) -> _Found:
    """Look for work that is neither on the rig nor in the given commit and tree."""
    index = os.path.join(folder, f"checkpoint-{os.getpid()}.index")
    env = {"GIT_INDEX_FILE": index}
    try:
        _copy_index(os.path.join(git.git_dir, "index"), index)
        changes = look(git, env)
        now = ""
        if changes.dirty:
            stage(git, os.path.join(folder, "work"), changes, folder, env=env)
            written = git.must("write-tree", doing="save", reason="commit_failed", env=env)
            now = written.text
    finally:
        for path in (index, index + ".lock"):
            if os.path.lexists(path):
                os.unlink(path)
    if now and now != tree:
        return _Found(now, changes.head, True)
    known = [known for known in (workspace["base_commit"], commit) if known]
    tips = ["--branches", *(["HEAD"] if changes.head else []), *stashes(git)]
    # the last checkpoint is missing from a repository that was made anew
    commits = git.must(
        *("rev-list", "--ignore-missing", "--max-count=1"),
        *(*tips, "--not", "--remotes=origin", *known),
        doing="look for commits",
        reason="commit_failed",
    )
    return _Found(now, changes.head, bool(commits.out))


def _copy_index(theirs: str, ours: str) -> None:
    """Copy the agent's index, if there is one: it tells which files git need not read again.

    The time of the index belongs to what it says: git reads a file again that was written in the
    same second as the index or later. With a copy that looks younger it would miss a change of the
    same size in the second of the checkout (https://git-scm.com/docs/racy-git).
    """
    try:
        with open(theirs, "rb") as source, open(ours, "wb") as copy:
            copy.write(source.read())
            copy.flush()
            written = os.fstat(source.fileno())
            os.utime(copy.fileno(), ns=(written.st_atime_ns, written.st_mtime_ns))
    except FileNotFoundError:
        pass


def _commit(git: Git, order: Mapping[str, Any], found: _Found, workspace: Mapping[str, Any]) -> str:
    base = [workspace["base_commit"]] if workspace["base_commit"] else []
    merged = [f"--no-merged={found.head}"] if found.head else []
    others = git.run("for-each-ref", *merged, "--format=%(objectname)", "refs/heads").text.split()
    others += stashes(git)
    others = [
        tip
        for tip in dict.fromkeys(others)
        if git.run("rev-list", "--max-count=1", tip, "--not", "--remotes=origin", *base).out
    ]
    if not found.tree and found.head and not others:
        return found.head
    tree = found.tree or f"{found.head}^{{tree}}"
    parents = [word for tip in (found.head, *others) if tip for word in ("-p", tip)]
    worker = worker_of(order)
    message = f"Checkpoint of {worker}\n\n{CHECKPOINT_MARK}{worker}"
    made = git.must(
        *("commit-tree", tree, *parents, "-m", message),
        doing="commit the checkpoint",
        reason="commit_failed",
        env=_IDENTITY,
    )
    return made.text


def _send(
    git: Git,
    order: Mapping[str, Any],
    folder: str,
    workspace: Mapping[str, Any],
    last: _Last,
    commit: str,
    tree: str,
) -> None:
    """Push the checkpoint, else bundle it; `last` says which."""
    ref = checkpoint_ref(worker_of(order))
    bundle = os.path.join(folder, "checkpoint.bundle")
    pushed = git.run("push", "--porcelain", "outpost", f"+{commit}:{ref}", timeout=PUSH_TIMEOUT)
    if pushed.code == 0:
        last.write(commit, tree, "")
        if os.path.exists(bundle):
            os.unlink(bundle)
        return
    if last.commit == commit and last.kept:
        return
    staged = bundle + ".new"
    base = [workspace["base_commit"]] if workspace["base_commit"] else []
    git.must("update-ref", ref, commit, doing="keep the checkpoint", reason="commit_failed")
    git.must(
        *("bundle", "create", "-q", staged, ref, "--not", "--remotes=origin", *base),
        doing="keep the checkpoint",
        reason="commit_failed",
    )
    os.rename(staged, bundle)
    last.write(commit, tree, bundle)
