"""Work that the rig cannot take, kept in a plain archive: `<root>/rescued/<worker>.tar`.

In it are, below `files/`, files that git did not take, and below `repositories/` a bundle of each
repository inside the working tree that has commits which are nowhere else (`git clone X.bundle`
or `git fetch X.bundle`), or the repository itself where git cannot read it.
"""

from __future__ import annotations

import os

from outpost_core.errors import WorkerError
from outpost_shared import faults
from outpost_worker.folder.files import load
from outpost_worker.repository import gitdirs, notes
from outpost_worker.repository.git import Git, read
from outpost_worker.repository.index import links, links_of
from outpost_worker.repository.snapshot import Taken, linked_work, open_work, take

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from outpost_worker.repository.owngit import Own

#: In the worker's folder: which archive holds what.
NOTE = "aside.json"
_ENDING = ".tar"
_REFS = "refs/outpost/kept"
#: In a submodule's repository: commits that were seen not to be on its remote.
UNPUSHED = "refs/outpost/unpushed/"


class Aside:
    """What is to be kept beside the rig.

    Attributes:
        files: name in the archive to the path of the file or folder.
        bundles: name in the archive to the repository and what it holds.
        unreadable: what cannot be read, with the reason.
    """

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.bundles: dict[str, tuple[Git, list[str], list[str]]] = {}
        self.unreadable: dict[str, str] = {}

    def add(self, work: str, top: str, taken: Taken) -> None:
        """Add what was left out of the tree of the working tree at `top`."""
        for path in taken.left.files:
            whole = os.path.join(top, path)
            self.files["files/" + _inside(work, whole)] = whole
        for path, why in taken.left.unreadable.items():
            self.unreadable[_inside(work, os.path.join(top, path))] = why

    def mark(self) -> list[str]:
        """Return what the archive will hold, so that the same is not made twice."""
        mark = [f"{name} {' '.join(tips)}" for name, (_, tips, _) in self.bundles.items()]
        for name, path in self.files.items():
            about = os.lstat(path)
            mark.append(f"{name} {about.st_size} {about.st_mtime_ns}")
        return sorted(mark)


def _inside(work: str, path: str) -> str:
    """Return a path relative to `work`, or one that cannot be taken for such."""
    name = os.path.relpath(path, work)
    if name == ".." or name.startswith("../"):
        return "elsewhere" + os.path.abspath(path)
    return name


def collect(
    git: Own,
    folder: str,
    workspace: Mapping[str, Any],
    taken: Taken,
    linked: Mapping[str, Taken],
    *,
    final: bool,
) -> Aside:
    """Return what is in the working tree and will be in no commit of the rig.

    Args:
        git: the worker's repository.
        folder: the worker's folder.
        workspace: what `workspace.prepare` returned.
        taken: what was taken of the working tree.
        linked: what was taken of working trees that are linked to it.
        final: nobody is at work in it.

    Raises:
        WorkerError: `commit_failed` or `disk_full`.
    """
    work = os.path.join(folder, "work")
    aside = Aside()
    for each in (taken, *linked.values()):
        aside.add(work, work, each)
    _add_unattached(aside, git, work)
    modules = gitdirs.modules(git.theirs)
    own = os.path.realpath(git.theirs)
    trees: dict[str, str] = {}
    linked_to = links(git, os.path.join(git.git_dir, "index"))
    for top in git.inside():
        git_dir = os.path.realpath(gitdirs.of(top) or os.path.join(top, ".git"))
        if git_dir != own and not git_dir.startswith(own + "/worktrees/"):
            trees.setdefault(git_dir, top)
    for path in modules:
        trees.setdefault(os.path.realpath(path), "")
    known = base_links(git, workspace) if modules else {}
    for git_dir, top in trees.items():
        inside = git_dir.startswith(os.path.realpath(folder) + "/")
        if inside or os.path.isfile(git_dir):
            plain = bool(top) and os.path.relpath(top, work) in taken.plain
            _add_repository(
                aside, git, folder, git_dir, top, plain, list(known.values()), final=final
            )
        elif top and os.path.relpath(top, work) in linked_to:
            _add_open(aside, git, top)
    return aside


def _add_unattached(aside: Aside, git: Own, work: str) -> None:
    """Add the files in folders of submodules that are not checked out: git looks at none."""

    def note(error: OSError) -> None:
        if os.path.lexists(error.filename):
            aside.unreadable[_inside(work, error.filename)] = error.strerror or str(error)

    for path in links(git, os.path.join(git.git_dir, "index")):
        top = os.path.join(work, path)
        if not gitdirs.is_below(work, path) or os.path.islink(top):
            continue
        if not gitdirs.of(top) and not _is_attached(git, path):
            for folder, _, names in os.walk(top, onerror=note):
                for whole in (os.path.join(folder, name) for name in names):
                    if os.path.isfile(whole) or os.path.islink(whole):
                        aside.files["files/" + _inside(work, whole)] = whole


def _is_attached(git: Own, path: str) -> bool:
    try:
        return git.at(path) is not None
    except WorkerError:
        return False


def _add_open(aside: Aside, git: Own, top: str) -> None:
    """Add uncommitted files of a repository that is not the worker's: it is not to be changed."""
    work = git.work
    try:
        there = git.at(os.path.relpath(top, work))
    except WorkerError as error:
        aside.unreadable[_inside(work, top)] = error.message
        return
    if there is None:
        return
    listed = there.run("ls-files", "--modified", "--others", "--exclude-standard", "-z")
    for name in filter(None, os.fsdecode(listed.out).split("\0")):
        whole = os.path.join(top, name)
        if gitdirs.is_below(top, name) and (os.path.isfile(whole) or os.path.islink(whole)):
            aside.files["files/" + _inside(work, whole)] = whole


def _add_repository(
    aside: Aside,
    main: Own,
    folder: str,
    git_dir: str,
    top: str,
    plain: bool,
    known: list[str],
    *,
    final: bool,
) -> None:
    work = main.work
    name = "repositories/" + _inside(work, top or git_dir)
    try:
        git = main.of(git_dir, main.walk(top) if top else None)
        tips = kept_commits(git, folder, final=final)
        for taken in linked_work(git, folder, final=final).values():
            aside.add(work, work, taken)
        if top and not plain:
            taken = take(git, top, folder, final=final)
            aside.add(work, top, taken)
            tip = open_work(git, taken, os.path.relpath(top, work))
            tips += [tip] if tip else []
        new = [tip for tip in dict.fromkeys(tips) if _is_new(git, tip, known)]
    except WorkerError as error:
        if error.reason == "disk_full":
            raise
        if final and os.path.isdir(git_dir):  # git cannot say what is in it
            aside.files[name] = git_dir
        return
    if new:
        aside.bundles[name + ".bundle"] = (git, new, known)


def kept_commits(git: Own, folder: str, *, final: bool) -> list[str]:
    """Return the commits at which branches, stashes, HEAD and linked trees of a repository are.

    Args:
        git: the repository.
        folder: where an index may be put for a moment.
        final: nobody is at work in it.

    Raises:
        WorkerError: `commit_failed` or `disk_full`.
    """
    listed = git.must(
        *("for-each-ref", "--format=%(objectname)", "refs/heads", "refs/stash", UNPUSHED),
        doing="list the branches",
        reason="commit_failed",
    )
    head = git.run("rev-parse", "--quiet", "--verify", "HEAD^{commit}")
    tips = [*listed.text.split(), *([head.text] if not head.code else []), *stashes(git)]
    return [*tips, *linked_work(git, folder, final=final)]


def stashes(git: Git) -> list[str]:
    """Return the commits of everything that the agent stashed and left there."""
    lines = read(os.path.join(git.git_dir, "logs/refs/stash")).splitlines()
    return [line.split(" ")[1] for line in lines if line.count(" ") > 1]


def _remotes(git: Git) -> str:
    """Return the option of git for what is on remotes: those have been seen to lack something."""
    lacks = git.run("for-each-ref", "--count=1", UNPUSHED)
    return "--remotes=outpost" if lacks.out else "--remotes"


def _is_new(git: Git, tip: str, known: list[str]) -> bool:
    listed = git.must(
        *("rev-list", "--ignore-missing", "--max-count=1", tip, "--not", _remotes(git), *known),
        doing="look for commits",
        reason="commit_failed",
    )
    return bool(listed.out)


def base_links(git: Git, workspace: Mapping[str, Any]) -> dict[str, str]:
    """Return the submodules of the commit that the work began from, path to commit."""
    base = workspace["base_commit"]
    return links_of(git, base) if base else {}


def place(folder: str) -> str:
    """Return the archive that was made for a worker; "" when there is none."""
    path = notes.archive(folder, NOTE, _ENDING)
    return path if path and os.path.exists(path) else ""


def is_kept(aside: Aside, folder: str) -> bool:
    """Whether there is nothing to keep, or an archive holds it."""
    mark = aside.mark()
    return not mark or bool(place(folder) and (load(folder, NOTE) or {}).get("holds") == mark)


def keep(aside: Aside, folder: str) -> str:
    """Make the archive, unless there is one that holds just that, and return its path.

    Returns "" when there is nothing to keep; what an earlier archive holds stays.

    Args:
        aside: what `collect` found.
        folder: the worker's folder.

    Raises:
        WorkerError: `commit_failed` or `disk_full`.
    """
    mark, there = aside.mark(), place(folder)
    if is_kept(aside, folder):
        return there if mark else ""
    from outpost_worker.repository import archive

    bundles: dict[str, str] = {}
    try:
        for number, (name, (git, tips, known)) in enumerate(aside.bundles.items()):
            bundles[name] = _bundle(git, tips, known, os.path.join(folder, f"aside-{number}"))
        path = archive.keep(folder, NOTE, _ENDING, {**aside.files, **bundles}, mark)
    finally:
        for bundle in bundles.values():
            if os.path.exists(bundle):
                os.unlink(bundle)
    faults.point("worker.kept")
    return path


def discard(folder: str) -> None:
    """Remove this worker's archive: what it holds is delivered."""
    path = place(folder)
    if path:
        os.unlink(path)


def _bundle(git: Git, tips: list[str], known: list[str], path: str) -> str:
    """Write commits that no remote has to a bundle, and let git verify it."""
    refs = []
    for number, tip in enumerate(tips):
        refs.append(f"{_REFS}/{number}")
        git.must("update-ref", refs[-1], tip, doing="keep commits", reason="commit_failed")
    here = [name for name in known if not git.run("cat-file", "-e", name).code]
    git.must(
        *("bundle", "create", "-q", path, *refs, "--branches", "--not", _remotes(git), *here),
        doing="keep the commits of a repository inside the tree",
        reason="commit_failed",
    )
    git.must("bundle", "verify", "-q", path, doing="verify a bundle", reason="commit_failed")
    return path
