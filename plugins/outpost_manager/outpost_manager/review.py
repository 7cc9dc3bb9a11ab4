"""The work of a worker, brought to where a person can look at it: `diff` and `checkout`.

A comparison is made in a repository of its own that is thrown away: it borrows the objects of the
clone that one stands in, and fetches only what that lacks. So a clone is never changed by looking,
and looking works from any folder.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from outpost_core.errors import NotFoundError, OutpostError, UsageError
from outpost_core.names import owner_of, redact
from outpost_manager.orders.localgit import Around, Done, git
from outpost_shared import plausible

if TYPE_CHECKING:
    from outpost_core.types import Worker
    from outpost_manager.ledger import Ledger

#: Seconds that a fetch may take.
PATIENCE: Final = 600.0
#: Bytes of the longest list of commits without parents that is taken from a clone.
_SHALLOW: Final = 16 * 1024 * 1024
_WORK, _BASE = "refs/look/work", "refs/look/base"


@dataclass(frozen=True, kw_only=True)
class Work:
    """Where the work of a worker is.

    Args:
        worker: whose it is.
        rig: the repository that it started from.
        home: the repository that it was pushed to.
        base: what it started from; None for the default branch.
        ref: what to fetch there: a branch, the ref of a checkpoint; or the path of a bundle.
        branch: the delivered branch, or None.
        commit: the delivered commit, or None.
    """

    worker: Worker
    rig: str
    home: str
    base: str | None
    ref: str
    branch: str | None = None
    commit: str | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two commits in a repository that is there for a while.

    Args:
        folder: the repository.
        base: where the work left its base.
        commit: the work.
    """

    folder: Path
    base: str
    commit: str


def work_of(ledger: Ledger, worker: Worker, kept_under: Path | None) -> Work:
    """Return where the work of a worker is.

    Args:
        ledger: knows its order.
        worker: whose work it is.
        kept_under: the folder of this machine where its outpost keeps work; None where that is on
            another one. A path that is told is opened nowhere else.

    Raises:
        NotFoundError: it left none, or is not known here well enough.
        UsageError: it has not ended.
    """
    order = ledger.order(worker.id)
    rig = order.rig if order is not None else worker.rig
    result = worker.result
    if result is None:
        raise UsageError(
            f"{worker.id} is {worker.state.value} and has delivered nothing yet",
            hint=f"outpost wait {worker.id}, or look at it: outpost peek {worker.id}",
        )
    if rig is None:
        raise NotFoundError(
            f"{worker.id} worked in no repository", hint=f"outpost logs {worker.id}"
        )
    home = (order.delivery.push_url if order is not None and order.delivery else "") or rig
    base = order.base if order is not None else None
    if result.branch and result.commit:
        if not (plausible.branch(result.branch) and plausible.commit(result.commit)):
            raise NotFoundError(
                f"the branch and commit that are told of {worker.id} cannot be",
                hint=f"outpost show {worker.id}",
            )
        return Work(worker=worker, rig=rig, home=home, base=base,
                    ref=f"refs/heads/{result.branch}", branch=result.branch,
                    commit=result.commit)  # fmt: skip
    if owner_of(result.checkpoint, worker.id) is not None or _is_bundle(
        result.checkpoint, kept_under
    ):
        return Work(worker=worker, rig=rig, home=home, base=base, ref=result.checkpoint or "")
    kept = (
        f"; its work is kept at {worker.outpost}: {result.checkpoint}" if result.checkpoint else ""
    )
    raise NotFoundError(
        f"{worker.id} {worker.state.value} ({result.reason}) and left no branch{kept}",
        hint=f"outpost show {worker.id}",
    )


def _is_bundle(path: str | None, kept_under: Path | None) -> bool:
    """Whether a path is a bundle that an outpost of this machine keeps."""
    if not path or kept_under is None or not path.endswith(".bundle"):
        return False
    found = Path(path)
    try:
        plain = stat.S_ISREG(found.lstat().st_mode)
        return plain and found.resolve().is_relative_to(kept_under.resolve())
    except (OSError, ValueError):
        return False


# --- comparing ------------------------------------------------------------------------------------


@contextlib.contextmanager
def compared(work: Work, around: Around | None) -> Iterator[Comparison]:
    """Yield the work and where it left its base, in a repository that is removed afterwards.

    Args:
        work: what to look at.
        around: the clone that one stands in, if any.

    Raises:
        OutpostError: something cannot be fetched, or has nothing in common.
    """
    with tempfile.TemporaryDirectory(prefix="outpost-look-") as place:
        folder = Path(place)
        kind = "sha256" if len(work.commit or "") == 64 else "sha1"
        made = git(folder, "init", "-q", "--bare", "--template=", f"--object-format={kind}", ".")
        _must(made, "look at it")
        lender = _lender(work, around)
        if lender is not None:
            _borrow(folder, lender)
        base = _bring_base(folder, work)  # first: a bundle holds only what is not in it
        commit = _bring_work(folder, work)
        found = git(folder, "merge-base", base, commit)
        if found.code:
            raise OutpostError(
                f"the work of {work.worker.id} has no history in common with its base",
                hint=f"git show {commit}",
            )
        yield Comparison(folder=folder, base=found.out, commit=commit)


def _lender(work: Work, around: Around | None) -> Path | None:
    """Return the repository here whose objects are worth borrowing: a clone of the user's.

    No mirror of an outpost: an agent may have written there, and what it did is looked at here.
    """
    if around is None or not is_clone_of(around, work):
        return None
    found = git(around.top, "rev-parse", "--path-format=absolute", "--git-common-dir")
    partial = git(around.top, "config", "--get-regexp", r"^remote\..*\.promisor$")
    # one that lacks objects would have to fetch them
    return Path(found.out) if not found.code and partial.code else None


def is_clone_of(around: Around, work: Work) -> bool:
    """Whether the repository around a folder is the work's rig, or a clone of it."""
    ours = {around.rig, around.push, str(around.top)} - {""}
    return bool(ours & {work.rig, work.home})


def _borrow(folder: Path, lender: Path) -> None:
    info = folder / "objects" / "info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "alternates").write_text(f"{lender / 'objects'}\n")
    # it may be a stranger's, where a pipe or a link to a device would keep us reading for ever
    with contextlib.suppress(OSError):
        fd = os.open(lender / "shallow", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                (folder / "shallow").write_bytes(file.read(_SHALLOW))


def _bring_work(folder: Path, work: Work) -> str:
    """Have the work in the repository; return its commit."""
    if (
        work.commit is not None
        and not git(folder, "cat-file", "-e", work.commit + "^{commit}").code
    ):
        return work.commit
    if work.commit is None and not work.ref.startswith("refs/"):
        heads = _said(git(folder, "bundle", "list-heads", work.ref), "read the bundle")
        fetched = _fetch(folder, work.ref, heads.split("\n")[0].partition(" ")[2], _WORK)
    else:
        fetched = _fetch(folder, work.home, work.ref, _WORK)
    if fetched.code and work.commit is not None:  # the branch may be gone, the commit not yet
        fetched = _fetch(folder, work.home, work.commit, _WORK)
    _must(fetched, f"fetch {work.ref} of {redact(work.home)}")
    commit = work.commit or git(folder, "rev-parse", _WORK).out
    if git(folder, "cat-file", "-e", commit + "^{commit}").code:
        _must(_fetch(folder, work.home, commit, _WORK), f"fetch {commit}")
    return commit


def _bring_base(folder: Path, work: Work) -> str:
    name = work.base or "HEAD"
    _must(_fetch(folder, work.rig, name, _BASE), f"fetch {name} of {redact(work.rig)}")
    return git(folder, "rev-parse", _BASE + "^{commit}").out


def _fetch(folder: Path, source: str, what: str, to: str) -> Done:
    quiet = ("--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head")
    argv = ("fetch", *quiet, "--", source, f"+{what}:{to}")
    return git(folder, *argv, patience=PATIENCE, remote=True)


def _must(done: Done, doing: str) -> None:
    if done.code:
        raise OutpostError(f"could not {doing}: {done.words}", hint="is the repository reachable?")


# --- checking out ---------------------------------------------------------------------------------


def check_out(work: Work, around: Around | None) -> str:
    """Fetch the delivered branch into a clone and switch to it; return the commit that is there.

    Args:
        work: what to switch to.
        around: the clone.

    Raises:
        UsageError: the folder is no clone of the rig, its tree is dirty, or its own branch of that
            name has gone elsewhere; nothing was changed.
        OutpostError: git could not do it.
    """
    if around is None or not is_clone_of(around, work):
        here = f"{around.top} is a clone of {redact(around.rig)}" if around else "this is no clone"
        raise UsageError(
            f"the work of {work.worker.id} is for {redact(work.rig)}, and {here}",
            hint=f"cd to a clone of it; outpost diff {work.worker.issue} works anywhere",
        )
    if work.branch is None or work.commit is None:
        what = f"{redact(work.home)} {work.ref}" if work.ref.startswith("refs/") else work.ref
        raise UsageError(
            f"{work.worker.id} delivered no branch; its unpushed work is {work.ref}",
            hint=f"git fetch {what} && git switch --detach FETCH_HEAD",
        )
    top = around.top
    dirty = _said(git(top, "status", "--porcelain", "--untracked-files=no"), "look at the tree")
    if dirty:
        first = dirty.split("\n")[0][3:]
        raise UsageError(
            f"{top} has changes that are not committed ({first}"
            + (f" and {dirty.count(chr(10))} more)" if "\n" in dirty else ")"),
            hint="git stash (git stash pop brings them back), or commit them, then again",
        )
    if work.home != str(top):  # it is not this very repository, where the branch is already
        _update(top, work)
    _must(git(top, "switch", "--quiet", work.branch, own=True), f"switch to {work.branch}")
    return _said(git(top, "rev-parse", "HEAD"), "read the commit")


def _update(top: Path, work: Work) -> None:
    """Have a local branch at the remote's; one that has commits of its own stays."""
    branch = work.branch or ""
    remote = _remote_of(top, work.home)
    seen = f"refs/remotes/{remote}/{branch}" if remote else f"refs/outpost-checkout/{branch}"
    fetched = _fetch(top, remote or work.home, f"refs/heads/{branch}", seen)
    _must(fetched, f"fetch {branch} of {redact(work.home)}")
    local = f"refs/heads/{branch}"
    if git(top, "rev-parse", "--quiet", "--verify", local).code:
        track = ("--track",) if remote else ("--no-track",)
        target = f"{remote}/{branch}" if remote else seen
        _must(git(top, "branch", "--quiet", *track, branch, target), f"make the branch {branch}")
        return
    if not git(top, "merge-base", "--is-ancestor", seen, local).code:
        return  # it has all of it
    if git(top, "merge-base", "--is-ancestor", local, seen).code:
        raise UsageError(
            f"your branch {branch} and the one of {redact(work.home)} have gone apart",
            hint=f"git branch -m {branch} {branch}-mine, then again",
        )
    on = git(top, "symbolic-ref", "--quiet", "HEAD").out == local
    moved = git(top, "merge", "--quiet", "--ff-only", seen, own=True) if on else git(
        top, "branch", "--quiet", "--force", branch, seen
    )  # fmt: skip
    _must(moved, f"move {branch}")


def _remote_of(top: Path, home: str) -> str | None:
    for name in git(top, "remote").out.split():
        url = git(top, "remote", "get-url", name).out
        push = git(top, "remote", "get-url", "--push", name).out
        if home in (url, push, url.removeprefix("file://")) or _same_place(url, home, top):
            return name
    return None


def _same_place(url: str, home: str, top: Path) -> bool:
    """Whether a remote is a path that leads to the rig."""
    if not home.startswith("/") or ":" in url.partition("/")[0]:
        return False
    return os.path.realpath(top / url) == os.path.realpath(home)


def _said(done: Done, doing: str) -> str:
    _must(done, doing)
    return done.out


def diff_words(found: Comparison, more: Sequence[str] = ()) -> list[str]:
    """Return the arguments of `git diff` that show a comparison."""
    # attributes in the work choose among the programs that the user has for files of some kind
    return ["--no-ext-diff", "--no-textconv", *more, found.base, found.commit, "--"]


def diff_command(found: Comparison, more: Sequence[str] = ()) -> list[str]:
    """Return the git command that shows a comparison."""
    return ["git", "-C", str(found.folder), "diff", *diff_words(found, more)]
