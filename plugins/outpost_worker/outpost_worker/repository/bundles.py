"""Unpushed work in a file, where the rig does not take it: made, found again, and continued from.

A bundle holds one ref and all that it needs beyond the base that the work began from. It lies in
the folder of its worker, and under `rescued/` once that was cleaned. While one is there it is
newer than what the rig has under the same name: a push that succeeds removes it.
"""

from __future__ import annotations

import os

from outpost_core.errors import WorkerError
from outpost_shared import faults, private
from outpost_worker.folder.files import WORKERS, discard, open_plain
from outpost_worker.repository.git import Git

#: In the worker's folder.
NAME = "checkpoint.bundle"
RESCUED = "rescued"
_SUFFIX = ".bundle"
_SIGNATURES = (b"# v2 git bundle\n", b"# v3 git bundle\n")
#: Lines of a bundle's head that are read: one for each commit that it builds on.
_MOST = 10_000


class Head:
    """What a bundle says of itself.

    Attributes:
        refs: its refs with their commits; empty for a file that is no bundle.
        needs: commits that have to be there already.
    """

    __slots__ = ("needs", "refs")

    def __init__(self, path: str) -> None:
        self.refs: dict[str, str] = {}
        self.needs: list[str] = []
        try:
            with open(open_plain(path), "rb") as file:
                if file.readline(100) not in _SIGNATURES:
                    return
                for _ in range(_MOST):
                    line = os.fsdecode(file.readline(4096)).rstrip("\n")
                    if not line:
                        break
                    if line.startswith("-"):
                        self.needs.append(line[1:].partition(" ")[0])
                    elif not line.startswith("@"):
                        value, _, name = line.partition(" ")
                        self.refs[name] = value
        except OSError:
            pass


def make(git: Git, ref: str, commit: str, base: str | None, path: str) -> None:
    """Write a bundle of a commit; it appears when it is whole.

    It leaves out only what the base has: other branches of the rig may be gone when it is used.

    Args:
        git: git on the worker's repository.
        ref: the name of the commit in it.
        commit: the commit.
        base: what the work began from; None for an empty rig.
        path: where it goes.

    Raises:
        WorkerError: `commit_failed` or `disk_full`.
    """
    staged = path + ".new"
    discard(staged)  # git would write through a link
    for argv in (
        ("update-ref", ref, commit),
        ("bundle", "create", "-q", staged, ref, *(["--not", base] if base else [])),
    ):
        git.must(*argv, doing="keep the checkpoint", reason="commit_failed")
    if Head(staged).refs.get(ref) != commit:
        raise WorkerError("could not keep the checkpoint: git left it out", reason="commit_failed")
    os.rename(staged, path)
    faults.point("checkpoint.kept")


def keep(root: str, path: str, worker: str, owner: str) -> str:
    """Move a worker's bundle to where it outlives the worker's folder; returns its place.

    One that is there of other work stays: the same host may serve several ledgers.

    Args:
        root: the state root.
        path: the bundle.
        worker: the worker's id.
        owner: whose worker it is, "" for nobody known.

    Raises:
        OSError: it could not be moved, or is no plain file.
    """
    folder = os.path.join(root, RESCUED)
    private.make(folder)
    with open(open_plain(path, os.O_RDWR), "r+b") as bundle:  # it may have no other name
        os.fchmod(bundle.fileno(), 0o600)
    told = Head(path).refs
    name = f"{worker}.{owner}" if owner else worker
    number = 1
    while True:
        more = f".{number}" if number > 1 else ""
        place = os.path.join(folder, f"{name}{more}{_SUFFIX}")
        if not os.path.lexists(place) or Head(place).refs == told:
            _move_beside(path, place)
            os.replace(path, place)
            return place
        number += 1


def _move_beside(path: str, place: str) -> None:
    """Move the large files that a bundle needs, before it: without them it is of no use."""
    objects, goal = (name.removesuffix(_SUFFIX) + ".lfs" for name in (path, place))
    if os.path.isdir(objects):
        import shutil

        shutil.rmtree(goal, ignore_errors=True)
        os.rename(objects, goal)


def find(root: str, ref: str) -> str:
    """Return the newest bundle of this machine that holds a ref; "" when there is none.

    Args:
        root: the state root.
        ref: a worker's ref for unpushed work.
    """
    worker = ref.rpartition("/")[2]
    places = [os.path.join(root, WORKERS, worker, NAME)]
    rescued = os.path.join(root, RESCUED)
    try:
        names = os.listdir(rescued)
    except OSError:
        names = []
    places += [
        os.path.join(rescued, name)
        for name in names
        if name.startswith(worker + ".") and name.endswith(_SUFFIX)
    ]
    found = [place for place in places if ref in Head(place).refs]
    return max(found, key=_age, default="")


def _age(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def take(git: Git, path: str, ref: str) -> None:
    """Bring a bundle's ref into a worker's repository, with all that it needs.

    What the bundle builds on is taken from the mirror, which keeps what the rig has forgotten, or
    from the rig by its hash.

    Args:
        git: git on the worker's repository, whose remote `outpost` is the rig.
        path: the bundle.
        ref: the ref.

    Raises:
        WorkerError: `base_not_found`, and what is missing or broken.
    """
    quiet = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
    for commit in Head(path).needs:
        if git.run("cat-file", "-e", commit + "^{commit}").code:
            shallow = os.path.exists(os.path.join(git.git_dir, "shallow"))
            deep = ["--depth=1"] if shallow else []
            done = git.run("fetch", *quiet, *deep, "--", "outpost", commit)
            if done.code:
                raise _unusable(path, f"it builds on {commit[:12]}, which the rig has no more")
        # a commit that no ref holds does not count as had; the rig may have forgotten its branch
        git.run("update-ref", f"refs/outpost-needs/{commit}", commit)
    for argv in (
        ("bundle", "verify", "-q", path),
        ("fetch", *quiet, "--", path, f"+{ref}:{ref}"),
    ):
        done = git.run(*argv)
        if done.code:
            raise _unusable(path, git.words(done))


def _unusable(path: str, why: str) -> WorkerError:
    return WorkerError(
        f"could not continue from the bundle {path}: {why}",
        reason="base_not_found",
        hint=f"look at it by hand: git bundle verify {path}",
    )
