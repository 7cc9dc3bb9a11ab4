"""What of the user's own repository a worker will not have: commits not pushed, files changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from outpost_core.errors import UsageError
from outpost_core.names import redact, split_rig
from outpost_manager.orders.localgit import LocalGit, git, unreadable

#: Seconds that looking at a working tree may take: it is worth a hint, and no waiting.
PATIENCE: Final = 1.5
_PLAIN: Final = ("", "HEAD", "@")


@dataclass(frozen=True, kw_only=True)
class LeftBehind:
    """What stays behind.

    Args:
        start: where the worker starts from, with its commit where that is known here.
        branch: the branch that is checked out here; "" for none.
        commits: how many commits of it are on no remote.
        files: how many files are changed here, or new.
    """

    start: str
    branch: str
    commits: int
    files: int

    def __str__(self) -> str:
        parts = [f"the worker starts from {self.start}"]
        if self.commits:
            some = "1 commit" if self.commits == 1 else f"{self.commits} commits"
            are = "is" if self.commits == 1 else "are"
            parts.append(f"{some} of {self.branch or 'HEAD'} {are} not pushed")
        if self.files:
            some = "1 file is" if self.files == 1 else f"{self.files} files are"
            parts.append(f"{some} changed here")
        return "; ".join(parts)


def left(local: LocalGit, base: str | None, rig: str | None = None) -> LeftBehind | None:
    """Say what a worker for the repository around will not have; None for nothing.

    Args:
        local: asks git about the folder that the user stands in.
        base: what the order says to start from.
        rig: what the order is for; of another repository there is nothing to say.
    """
    try:
        around = local.around()
        if around is None or rig not in (None, split_rig(around.rig)[0]):
            return None
        top = around.top
        asked = (
            *("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=normal"),
            "--ignore-submodules=dirty",  # those have settings of their own
        )
        quiet = local.without_filters()
        told = git(top, *asked, patience=PATIENCE, settings=quiet).out.split("\0")
        head = {line.split(" ")[1]: line.split(" ", 2)[2] for line in told if line[:2] == "# "}
        commit = head.get("branch.oid", "")
        files = sum(line[:2] in ("1 ", "2 ", "u ", "? ") for line in told)
        elsewhere = around.rig != str(top)
        commits = 0
        if elsewhere and "(" not in commit:
            words = ("rev-list", "--count", commit, "--not", "--remotes=origin")
            commits = int(git(top, *words, patience=PATIENCE).out or 0)
        if not (commits or files) or (base and base == commit and not files):
            return None
        branch = head.get("branch.head", "")
        branch = "" if "(" in branch else branch
        start = _start(local, base, elsewhere=elsewhere, branch=branch)
        if base and base == commit:
            commits = 0
        return LeftBehind(start=start, branch=branch, commits=commits, files=files)
    except (UsageError, ValueError, IndexError):
        return None  # a hint: what cannot be said in time is not said


def _start(local: LocalGit, base: str | None, *, elsewhere: bool, branch: str) -> str:
    around = local.around()
    assert around is not None
    name = base or ""
    if not name and elsewhere:
        said = git(around.top, "symbolic-ref", "--quiet", "--short", "refs/remotes/origin/HEAD")
        name = said.out.removeprefix("origin/")
    name = name or ("the default branch" if elsewhere else branch or "HEAD")
    ref = f"refs/remotes/origin/{name}" if elsewhere and len(name) != 40 else name
    found = git(around.top, "rev-parse", "--short", "--verify", "--quiet", ref + "^{commit}")
    if len(name) == 40:
        return found.out or name
    return f"{name} at {found.out}" if found.out and not found.code else name


def base_of(local: LocalGit, base: str | None) -> str | None:
    """Return a base that is named by where the user's own HEAD is as what the rig calls it.

    Args:
        local: asks git about the folder that the user stands in.
        base: what was asked for; names of branches, tags and commits stay as they are.

    Raises:
        UsageError: there is no such commit, or the rig does not have it.
    """
    around = local.around()
    if around is None or base is None or not _of_head(base):
        return base
    elsewhere = around.rig != str(around.top)
    if base in _PLAIN and not elsewhere:
        return "HEAD"
    done = git(around.top, "rev-parse", "--verify", base + "^{commit}")
    if done.code:
        error = unreadable(around.top, done)
        raise UsageError(f"there is no {base!a} here: {done.words}", hint=error.hint)
    if elsewhere:
        words = ("rev-list", "--count", done.out, "--not", "--remotes=origin")
        missing = git(around.top, *words)
        if missing.code or missing.out != "0":
            raise UsageError(
                f"{base} here is at {done.out[:10]}, which {redact(around.rig)} does not have:"
                f" {missing.out or 'some'} of its commits are not pushed",
                hint="git push first; or --rig . starts from this repository, which then gets"
                " the work",
            )
    return done.out


def _of_head(base: str) -> bool:
    return base in _PLAIN[1:] or base.startswith(("HEAD~", "HEAD^", "HEAD@", "@~", "@^", "@{"))
