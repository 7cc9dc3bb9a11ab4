"""Pushes the commits of submodules that a delivery links to, and sees them on their remotes."""

from __future__ import annotations

import os

from outpost_core.errors import UsageError, WorkerError
from outpost_core.names import check_rig, redact, split_rig
from outpost_worker.folder.files import root_of
from outpost_worker.folder.folders import StrangeError
from outpost_worker.repository import gitdirs, index
from outpost_worker.repository.git import Done, Git, persistently, read, write
from outpost_worker.repository.repostate import UnusableError
from outpost_worker.work.aside import UNPUSHED
from outpost_worker.work.submodule_names import REASON, is_ours, named_in
from outpost_worker.work.target import credentials, lfs_used

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from outpost_worker.repository.owngit import Own

#: The URL comes from a repository, not from the user, so what git allows for such counts.
_GUARDED = {"GIT_PROTOCOL_FROM_USER": "0"}
#: Below the state root: copies of rigs that are paths of other machines.
_HOSTED = "hosted"
_HEADS = "refs/heads/"
_MEND = (
    "let the outpost push there, or push the commits from the archive by hand; then outpost retry"
    " ISSUE"
)
_MEND_FILE = "to allow submodules with such URLs: git config --global protocol.file.allow always"


class Sender:
    """Sends the submodules' commits of one delivery.

    Args:
        order: the order's JSON.
        folder: the worker's folder.
        branch: the branch to push to.
        report: told what is being done.
    """

    def __init__(
        self, order: Mapping[str, Any], folder: str, branch: str, report: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._root = root_of(folder)
        self._rig: str = order["rig"]
        self._branches = (branch, f"{branch}-{order['attempt']}")
        self._report = report

    def send(self, git: Own, url: str, commit: str, base: str | None, above: str = "") -> bool:
        """Let remotes show what a commit links to; whether there was anything to look at.

        Args:
            git: the repository of the commit.
            url: where that repository is known to come from, for relative URLs.
            commit: the commit.
            base: the commit whose `.gitmodules` can be trusted and whose links are left as they
                are; None when there is none.
            above: where the repository is in the working tree, ending in `/`.

        Raises:
            WorkerError: `submodule_unpushed`.
        """
        before = index.links_of(git, base) if base else {}
        links = index.links_of(git, commit)
        changed = {path: to for path, to in links.items() if before.get(path) != to}
        if not changed:
            return False
        now, then = named_in(git, commit), named_in(git, base) if base else {}
        by_name = dict(then.values())
        for path, to in sorted(changed.items()):
            whole = above + path
            if path not in now:
                raise _unpushed(whole, to, "no .gitmodules names its repository", "")
            name, told = now[path]
            before_it = then[path][1] if path in then else by_name.get(name)
            source = self._checked(whole, to, url, told, known=told == before_it)
            goal = source if before_it is None else self._checked(whole, to, url, before_it)
            sub = self._repository(git, name, whole, to)
            try:
                self._one(sub, whole, to, before.get(path), source, goal)
            except WorkerError:
                if sub:  # whatever the agent's `origin/…` say, it is to be kept
                    sub.run("update-ref", UNPUSHED + to, to)
                raise
            if sub:
                self._note(sub, to)
        return True

    def _checked(self, path: str, commit: str, above: str, told: str, *, known: bool = True) -> str:
        """Return the absolute URL of a submodule; `known` when the base has it."""
        try:
            url = split_rig(check_rig(resolve(above, told)))[0]
        except UsageError as error:
            raise _unpushed(path, commit, error.message, "") from None
        place = url.removeprefix("file://")
        if place.startswith("/"):
            why = ""
            if self._rig.startswith(os.path.join(self._root, _HOSTED, "")):
                why = "that is a path of the rig's machine, and the worker ran on another one"
            elif is_ours(self._folder, place):
                why = "that is in the worker's own folder"
            elif not known and not self._rig.removeprefix("file://").startswith("/"):
                why = "that is a path of the machine where the worker ran"
            if why:
                raise _unpushed(path, commit, why, url)
        return url

    def _one(
        self, sub: Own | None, path: str, commit: str, base: str | None, source: str, goal: str
    ) -> None:
        """Let one submodule's remote show a commit.

        Args:
            sub: the worker's own repository of it, None when that lacks the commit.
            path: in the worker's tree.
            commit: what is linked to.
            base: what was linked to at the base.
            source: where others will look for it.
            goal: where it may be pushed.
        """
        if sub:
            if base and sub.run("cat-file", "-e", base + "^{commit}").code:
                base = None  # it was never fetched
            self.send(sub, goal, commit, base, path + "/")
        place = self._place(sub, source)
        if self._shown(place, source, commit, sub is not None, path):
            return
        if sub is None:
            raise _unpushed(path, commit, "it is not in the working tree either", source)
        if goal == source:
            self._push(place, sub, path, commit, base, goal)
            return
        place = self._place(sub, goal)
        if not self._shown(place, goal, commit, True, path):
            self._push(place, sub, path, commit, base, goal)
        if not self._shown(place, source, commit, True, path):
            raise _unpushed(path, commit, f"it is at {redact(goal)}, the URL before", source)

    def _repository(self, git: Own, name: str, path: str, commit: str) -> Own | None:
        """Return the worker's own repository of a submodule, if that holds the commit."""
        top = os.path.join(self._folder, "work", path)
        found = (gitdirs.of(top), os.path.join(git.theirs, "modules", name))
        for git_dir in found:
            if git_dir and is_ours(self._folder, git_dir) and os.path.isdir(git_dir):
                try:
                    sub = git.of(git_dir, None)
                except (StrangeError, UnusableError):
                    continue
                if not sub.run("cat-file", "-e", commit + "^{commit}").code:
                    return sub
        return None

    def _place(self, sub: Own | None, url: str) -> Git:
        """Make a repository that has no setting of the agent and borrows a submodule's objects."""
        import shutil

        path = os.path.join(self._folder, "submodule.git")
        shutil.rmtree(path, ignore_errors=True)
        for folder in ("objects/info", "refs"):
            os.makedirs(os.path.join(path, folder))
        config = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"
        if sub:
            form = sub.run("rev-parse", "--show-object-format").text
            if form == "sha256":
                config = config.replace("= 0", "= 1") + "[extensions]\n\tobjectformat = sha256\n"
            objects = os.path.realpath(os.path.join(sub.git_dir, "objects"))
            write(os.path.join(path, "objects/info/alternates"), objects + "\n")
            shallow = read(os.path.join(sub.git_dir, "shallow"))
            if shallow:
                write(os.path.join(path, "shallow"), shallow)
        write(os.path.join(path, "config"), config)
        write(os.path.join(path, "HEAD"), "ref: refs/heads/none\n")
        return Git(path, credentials=credentials(url, self._folder))

    def _ask(self, place: Git, *argv: str, doing: str) -> Done:
        return persistently(lambda: place.run(*argv, env=_GUARDED), self._report, doing)

    def _shown(self, place: Git, url: str, commit: str, here: bool, path: str) -> bool:
        """Whether the remote shows a commit: a ref of it is at that, or has moved on from it."""
        self._report(f"looking at the remote of {path}")
        told = self._ask(place, "ls-remote", "--", url, doing="asking a submodule's remote")
        if told.code:
            raise _unpushed(path, commit, self._why(place, told, url), url, _hint(told))
        values = {line.partition("\t")[0] for line in told.text.splitlines()}
        if commit in values:
            return True
        quiet = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head")
        if not here:
            alone = self._ask(place, *quiet, "--depth=1", "--", url, commit, doing="fetching")
            return alone.code == 0
        refs = f"+{_HEADS}*:refs/seen/*"
        self._ask(place, *quiet, "--prune", "--", url, refs, doing="fetching a submodule")
        listing = os.path.join(place.git_dir, "seen")
        write(listing, "".join(f"^{value}\n" for value in sorted(values)))
        beyond = place.run(
            *("rev-list", "--ignore-missing", "--max-count=1", commit, "--stdin"), stdin=listing
        )
        return beyond.code == 0 and not beyond.out

    def _push(
        self, place: Git, sub: Own, path: str, commit: str, base: str | None, url: str
    ) -> None:
        self._upload_large(sub, path, commit, base, url)
        branches = (*self._branches, f"{self._branches[1]}-{commit[:8]}")
        for branch in branches:
            self._report(f"pushing {branch} of {path}")
            refspec = f"{commit}:{_HEADS}{branch}"
            argv = ("push", "--porcelain", "--no-recurse-submodules", "--", url, refspec)
            done = self._ask(place, *argv, doing="pushing")
            if done.code == 0:
                self._see(place, path, commit, url, branch)
                return
            lines = done.out.splitlines()
            if not any(line.startswith(b"!") and b"[rejected]" in line for line in lines):
                refused = [line for line in done.text.splitlines() if line.startswith("!")]
                answer = "".join(f" ({line.rpartition(chr(9))[2]})" for line in refused)
                why = self._why(place, done, url) + redact(answer)
                raise _unpushed(path, commit, why, url, _hint(done))
        raise _unpushed(path, commit, f"{', '.join(branches)} there have other work", url)

    def _upload_large(self, sub: Own, path: str, commit: str, base: str | None, url: str) -> None:
        """Upload objects of git-lfs: with no hook run, a push does not do that."""
        storage = os.path.join(sub.git_dir, "lfs")
        if not lfs_used(sub, {}):
            return
        from outpost_worker.work import lfs

        try:
            wanted = lfs.in_commits(sub, self._folder, commit, base)
            lfs.bring(sub, wanted)
            here = [o for o in wanted if lfs.is_whole(lfs.object_path(storage, o), o)]
            if here:
                some = {oid: wanted[oid] for oid in here}
                settings = (sub.git_dir, base or "")
                lfs.send(
                    url, self._folder, sub.git_dir, some, here, self._report, settings=settings
                )
        except WorkerError as error:
            raise _unpushed(path, commit, error.message, url) from None

    def _see(self, place: Git, path: str, commit: str, url: str, branch: str) -> None:
        name = _HEADS + branch
        told = self._ask(place, "ls-remote", "--", url, name, doing="looking at the remote")
        seen = [line.partition("\t")[0] for line in told.text.splitlines()]
        if seen != [commit] and not self._shown(place, url, commit, True, path):
            there = seen[0] if seen else "nothing"
            why = f"the push was answered, but {branch} there is at {there}"
            raise _unpushed(path, commit, why, url)

    def _note(self, sub: Own, commit: str) -> None:
        """Let the worker's repository know that the commit is safe, so that it is not rescued."""
        sub.run("update-ref", "-d", UNPUSHED + commit)
        sub.run("update-ref", f"refs/remotes/outpost/{self._branches[0]}", commit)

    def _why(self, place: Git, done: Done, url: str) -> str:
        if url.startswith("/") and not os.path.exists(url):
            return "there is no such path on the machine where the worker ran"
        return redact(place.words(done))


def resolve(above: str, told: str) -> str:
    """Return the URL of a submodule; one that begins with `./` or `../` is relative to `above`."""
    if not told.startswith(("./", "../")):
        return told
    base, separator = above.rstrip("/"), "/"
    while told:
        if told.startswith("../"):
            told = told[3:]
            if "/" in base:
                base = base.rpartition("/")[0]
            elif ":" in base:
                base, separator = base.rpartition(":")[0], ":"
            else:
                return ""
        elif told.startswith("./"):
            told = told[2:]
        else:
            break
    return (base + separator + told).rstrip("/")


def _hint(done: Done) -> str:
    return _MEND_FILE if "transport 'file' not allowed" in done.err else _MEND


def _unpushed(path: str, commit: str, why: str, url: str, hint: str = _MEND) -> WorkerError:
    where = f" at {redact(url)}" if url else ""
    return WorkerError(
        f"submodule {path}: nobody can fetch its commit {commit[:12]}{where}, so the branch was not"
        f" pushed: {why}",
        reason=REASON,
        hint=hint,
    )
