"""The shared bare mirror of a rig: asked and fetched by one worker at a time, used by all.

A mirror is `<root>/rigs/<name>-<hash>.git` with `<same>.lock` beside it. The holder of the lock
asks the remote for its refs and fetches only when the commit that it needs is not there. What was
asked after a worker came to wait serves that worker too, so many workers at once cost one
question. Objects are never pruned: the workers' repositories borrow them.

Inside the mirror, `outpost-snapshot` holds the remote's refs as last told, with the moment, and
`outpost-have` the hashes of the refs that were fetched.
"""

from __future__ import annotations

import fcntl
import os
import time

from outpost_core.errors import WorkerError
from outpost_core.worker import process
from outpost_core.worker.foresee import explain_fetch
from outpost_core.worker.git import MISSING, Done, Git, persistently, read, write
from outpost_core.worker.names import split_rig

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

_KILL = 9
_HEADS = "refs/heads/"
_TAGS = "refs/tags/"
_HEX = frozenset("0123456789abcdef")
#: From so many packs on they are joined; a fetch leaves one behind.
_MANY_PACKS = 40


class Snapshot:
    """The remote as it was told, and what of it the mirror holds.

    Attributes:
        path: the mirror.
        refs: every ref of the remote with its hash; annotated tags also as `<ref>^{}`.
        default: the ref that the remote's HEAD names, or None.
        have: hashes that the mirror holds for certain.
        base: the commit to start from; None for a repository without any commit.
        base_branch: the branch that `base` is the tip of, or None for a tag or commit.
        shallow: the mirror's `shallow` file, "" when it has all history.
    """

    __slots__ = ("base", "base_branch", "default", "have", "path", "refs", "shallow", "stamp")

    def __init__(self, path: str) -> None:
        self.path = path
        self.refs: dict[str, str] = {}
        self.default: str | None = None
        self.have = set(read(os.path.join(path, "outpost-have")).split())
        self.base: str | None = None
        self.base_branch: str | None = None
        self.shallow = read(os.path.join(path, "shallow"))
        self.stamp = -1
        stamp, _, told = read(os.path.join(path, "outpost-snapshot")).partition("\n")
        if stamp:
            self.stamp = int(stamp)
            self.learn(told)

    def learn(self, told: str) -> None:
        """Take the output of `git ls-remote --symref`."""
        self.refs, self.default = {}, None
        for line in told.splitlines():
            value, _, name = line.partition("\t")
            if value.startswith("ref: "):
                if name == "HEAD":
                    self.default = value[5:]
            elif name:
                self.refs[name] = value

    def find(self, base: str | None) -> tuple[str, str] | None:
        """Return the ref that `base` names and its commit; None when there is none."""
        names = [f"refs/heads/{base}", f"refs/tags/{base}"]
        if base is None or base == "HEAD":
            names = [self.default or "HEAD"]
        elif base.startswith("refs/"):
            names.append(base)
        for name in names:
            if name in self.refs:
                return name, self.refs.get(name + "^{}") or self.refs[name]
        return None


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


def sync(
    root: str,
    rig: str,
    base: str | None,
    depth: int | None,
    credentials: str,
    report: Callable[[str], None],
) -> Snapshot:
    """Make the mirror of `rig` hold the commit that `base` names now, and return what it knows.

    Args:
        root: the folder that holds `rigs/`.
        rig: URL or path, already checked.
        base: branch, tag or commit; None for the remote's default branch.
        depth: history depth of a first clone; None for all of it.
        credentials: path of a git-credential-store file, or "".
        report: told what is being done.

    Raises:
        WorkerError: `base_not_found`, or `workspace_failed` when the remote cannot be read.
    """
    asked = time.monotonic_ns()
    path = mirror_path(root, rig)
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    with _Lock(path, report) as lock:
        _make(path)
        git = Git(path, credentials=credentials, rig=rig)
        seen = Snapshot(path)
        try:
            if not asked <= seen.stamp <= time.monotonic_ns():
                report("asking the rig for its branches")
                seen = _ask(git, report)
            _Fetch(git, depth, report, lock.note).provide(seen, base)
        except WorkerError as error:
            raise explain_fetch(error, git, rig) from None
        seen.shallow = read(os.path.join(path, "shallow"))
    return seen


def _make(path: str) -> None:
    # `makedirs` gives its mode to the last folder only.
    for folder in (path, f"{path}/objects", f"{path}/objects/pack", f"{path}/refs"):
        os.makedirs(folder, 0o700, exist_ok=True)
    if not os.path.exists(os.path.join(path, "HEAD")):
        config = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"
        write(os.path.join(path, "config"), config)
        write(os.path.join(path, "HEAD"), "ref: refs/heads/main\n")


class _Lock:
    """The mirror's lock.

    The system frees the lock of a killed holder, but not the mirror: its git may still run and
    its lock files remain. A note in the lock file tells the next holder.
    """

    def __init__(self, path: str, report: Callable[[str], None]) -> None:
        self._path = path
        self._report = report
        self._fd = -1

    def __enter__(self) -> Self:
        name = self._path.removesuffix(".git") + ".lock"
        self._fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._report("waiting for another worker to fetch the rig")
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        left = os.pread(self._fd, 100, 0).decode()
        if left:
            _recover(self._path, left)
        os.ftruncate(self._fd, 0)
        return self

    def __exit__(self, *_: object) -> None:
        os.ftruncate(self._fd, 0)
        os.close(self._fd)

    def note(self, pid: int) -> None:
        """Write down a git that writes to the mirror."""
        os.pwrite(self._fd, f"{pid} {process.start_time(pid)}\n".encode(), 0)


def _recover(path: str, note: str) -> None:
    """End the git of a holder that died, and remove the lock files that it left."""
    pid, _, started = note.strip().partition(" ")
    if pid.isdigit() and started.isdigit() and int(started):
        leader, start = int(pid), int(started)
        if process.start_time(leader) == start:
            os.killpg(leader, _KILL)
        deadline = time.monotonic() + 10
        while process.start_time(leader) == start and time.monotonic() < deadline:
            time.sleep(0.01)
    remove_locks(path)


def remove_locks(git_dir: str) -> None:
    """Remove lock files in a repository that no process writes to any more."""
    for folder, names, files in os.walk(git_dir):
        if folder == git_dir:
            names[:] = [name for name in names if name not in ("objects", "modules")]
        for name in files:
            if name.endswith(".lock"):
                os.unlink(os.path.join(folder, name))


def _ask(git: Git, report: Callable[[str], None]) -> Snapshot:
    stamp = time.monotonic_ns()
    done = persistently(
        lambda: git.run("ls-remote", "--symref", "--", git.url), report, "asking the rig"
    )
    if done.code:
        error = git.error(done, "read the rig", "workspace_failed")
        error.mend = "check the address, and that this machine may read it: git ls-remote URL"
        if done.code == MISSING:
            error.mend = "install git on the outpost"
        raise error
    write(os.path.join(git.git_dir, "outpost-snapshot"), f"{stamp}\n{done.text}\n")
    seen = Snapshot(git.git_dir)
    if any(len(value) == 64 for value in seen.refs.values()):
        config = "[core]\n\trepositoryformatversion = 1\n\tbare = true\n"
        config += "[extensions]\n\tobjectformat = sha256\n"
        write(os.path.join(git.git_dir, "config"), config)
    return seen


class _Fetch:
    """Brings what an order needs into the mirror, under its lock."""

    def __init__(
        self,
        git: Git,
        depth: int | None,
        report: Callable[[str], None],
        note: Callable[[int], None],
    ) -> None:
        self.git = git
        self.depth = depth
        self.report = report
        self.note = note
        self.shallow = os.path.exists(os.path.join(git.git_dir, "shallow"))

    def provide(self, seen: Snapshot, base: str | None) -> None:
        """Fill in `seen.base` and `seen.base_branch`, fetching what is missing."""
        # A mirror with all history stays so: a depth would cut it off for everybody.
        partly = self.depth is not None and (self.shallow or not seen.have)
        found = seen.find(base)
        if found is None:
            seen.base = self._other(seen, base, partly)
            return
        if partly and found[1] not in seen.have:
            self._must([f"--depth={self.depth}"], f"+{found[0]}:{_own(found[0])}")
            self._learn(seen, found[0], all_refs=False)
        elif not partly and (self.shallow or found[1] not in seen.have):
            self._all(seen, found[0])
        found = seen.find(base)
        if found is None:
            raise _missing(seen, base)
        ref, seen.base = found
        seen.base_branch = ref[len(_HEADS) :] if ref.startswith(_HEADS) else None

    def _other(self, seen: Snapshot, base: str | None, partly: bool) -> str | None:
        """Return the commit of a base that is no ref; None for a repository without commits."""
        if base is None and not any(name.startswith(_HEADS) for name in seen.refs):
            return None
        if not base or not 7 <= len(base) <= 64 or not _HEX.issuperset(base.lower()):
            raise _missing(seen, base)
        commit = self._commit(base)
        if not commit and len(base) in (40, 64):
            # Not every server gives out a commit by its hash; the branches may still hold it.
            self._fetch([f"--depth={self.depth}"] if partly else [], base)
            commit = self._commit(base)
        if not commit:
            self._all(seen)
            commit = self._commit(base)
        if not commit:
            raise _missing(seen, base)
        return commit

    def _commit(self, text: str) -> str:
        return self.git.run("rev-parse", "--quiet", "--verify", text + "^{commit}").text

    def _all(self, seen: Snapshot, ref: str = "") -> None:
        """Fetch every branch and tag, and `ref` where it is neither."""
        refspecs = [f"+{_HEADS}*:{_HEADS}*", f"+{_TAGS}*:{_TAGS}*"]
        if ref and not ref.startswith((_HEADS, _TAGS)):
            refspecs.append(f"+{ref}:{_own(ref)}")
        deeper = ["--unshallow"] if self.shallow else []
        # a rig may itself be a shallow clone: its history begins where it begins there
        self._must([*deeper, "--prune", "--update-shallow"], *refspecs)
        self._learn(seen, ref, all_refs=True)

    def _must(self, options: list[str], *refspecs: str) -> None:
        done = self._fetch(options, *refspecs)
        if done.code:
            raise self.git.error(done, "fetch the rig", "workspace_failed")

    def _fetch(self, options: list[str], *refspecs: str) -> Done:
        self.report("fetching the rig")
        quiet = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
        argv = ("fetch", *quiet, *options, "--", self.git.url, *refspecs)
        done = persistently(
            lambda: self.git.run(*argv, started=self.note), self.report, "fetching the rig"
        )
        if len(os.listdir(os.path.join(self.git.git_dir, "objects", "pack"))) > 2 * _MANY_PACKS:
            # Joins packs with every object in them, also those that no ref needs any more.
            self.git.run("repack", "--geometric=2", "-d", "-q", started=self.note)
        return done

    def _learn(self, seen: Snapshot, ref: str, *, all_refs: bool) -> None:
        """Take the mirror's refs for the remote's: they may have moved since it was asked.

        Args:
            seen: what to correct.
            ref: the ref that was fetched for its own sake, or "".
            all_refs: every branch and tag was fetched.
        """
        form = "--format=%(objectname) %(refname) %(*objectname)"
        told = self.git.must("for-each-ref", form, doing="read the mirror", reason="internal")
        fresh: dict[str, str] = {}
        for line in told.text.splitlines():
            value, name, peeled = line.split(" ")
            fresh[name] = value
            if peeled:
                fresh[name + "^{}"] = peeled
        seen.have = set(fresh.values())
        write(os.path.join(seen.path, "outpost-have"), "\n".join(seen.have))
        if all_refs:
            kept = {k: v for k, v in seen.refs.items() if not k.startswith((_HEADS, _TAGS))}
            seen.refs = {**kept, **fresh}
        for end in ("", "^{}"):
            if _own(ref) + end in fresh:
                seen.refs[ref + end] = fresh[_own(ref) + end]


def _own(ref: str) -> str:
    """Return where the mirror keeps a ref of the remote; its own HEAD is not to be moved."""
    return "refs/outpost/HEAD" if ref == "HEAD" else ref


def _missing(seen: Snapshot, base: str | None) -> WorkerError:
    branches = sorted(name[len(_HEADS) :] for name in seen.refs if name.startswith(_HEADS))
    some = ", ".join(branches[:8]) + (" …" if len(branches) > 8 else "")
    if base is None:
        what = "the rig's default branch has no commit"
    else:
        what = f"the rig has no branch, tag or commit {base!a}"
    mend = f"name one with --base; it has: {some}" if some else "it is empty: leave --base out"
    return WorkerError(what, reason="base_not_found", mend=mend)
