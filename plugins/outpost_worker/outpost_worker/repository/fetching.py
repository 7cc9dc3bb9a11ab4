"""Bringing what an order needs from the remote into a mirror, under its lock.

What comes is hashed by git as it arrives. The remote's refs are told by the fetch itself, into a
repository that is made for it (`store.Frame`): no ref, setting or file that somebody put into the
mirror is asked for anything.
"""

from __future__ import annotations

import os

from outpost_core.errors import WorkerError
from outpost_worker.repository import store
from outpost_worker.repository.git import Done, Git, persistently, write

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from outpost_worker.repository.remotestate import RemoteState

_HEADS = "refs/heads/"
_TAGS = "refs/tags/"
_HAVE = "refs/have/"
_HEX = frozenset("0123456789abcdef")
#: From so many packs on they are joined; a fetch leaves one behind.
MANY_PACKS = 40


class Fetch:
    """Brings what an order needs into a mirror.

    Args:
        seen: the remote as it was told, and what of it the mirror holds; it is filled in.
        url: the remote.
        credentials: as for `Git`.
        rig: the rig, whose password is taken out of errors.
        depth: history depth of a first clone; None for all of it.
        report: told what is being done.
        note: called with the pid of a git that writes to the mirror.
    """

    def __init__(
        self,
        seen: RemoteState,
        url: str,
        credentials: str,
        rig: str,
        depth: int | None,
        report: Callable[[str], None],
        note: Callable[[int], None],
    ) -> None:
        self._seen = seen
        self._url = url
        self._credentials = credentials
        self._rig = rig
        self._depth = depth
        self._report = report
        self._note = note
        self._frame: store.Frame | None = None
        self._git: Git | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._frame is not None:
            self._frame.remove()

    @property
    def git(self) -> Git:
        """git on a repository of its own with the mirror's objects."""
        if self._git is None:
            seen = self._seen
            frame = store.Frame(seen.path, sha256=seen.sha256, shallow=seen.shallow)
            self._frame = frame
            self._git = Git(
                frame.path, credentials=self._credentials, rig=self._rig, objects=frame.objects
            )
            if seen.have:
                frame.know(seen.have)
                self._believe_what_is_there(frame)
        return self._git

    def _believe_what_is_there(self, frame: store.Frame) -> None:
        """Forget of what the mirror is said to hold what is missing."""
        listing = os.path.join(frame.path, "asked")
        write(listing, "".join(f"{value}\n" for value in self._seen.have))
        assert self._git is not None
        told = self._git.run("cat-file", "--batch-check=%(objectname)", stdin=listing)
        there = set(told.text.splitlines()) if not told.code else set()
        if not self._seen.have <= there:
            self._seen.have &= there
            frame.know(self._seen.have)

    def provide(self, base: str | None) -> None:
        """Fill in `seen.base` and `seen.base_branch`, fetching what is missing.

        Raises:
            WorkerError: `base_not_found`, or the remote cannot be read.
        """
        seen = self._seen
        # A mirror with all history stays so: a depth would cut it off for everybody.
        partly = self._depth is not None and (bool(seen.shallow) or not seen.have)
        found = seen.find(base)
        if found is None:
            seen.base = self._other(base, partly)
            return
        if partly and found[1] not in seen.have:
            self._must([f"--depth={self._depth}"], f"+{found[0]}:{_own(found[0])}")
            self._learn(found[0], all_refs=False)
        elif not partly and (seen.shallow or found[1] not in seen.have):
            self._all(found[0])
        found = seen.find(base)
        if found is None:
            raise _missing(seen, base)
        ref, seen.base = found
        seen.base_branch = ref[len(_HEADS) :] if ref.startswith(_HEADS) else None

    def prove(self, *, believe: bool) -> None:
        """See that the base is what its hash says, and forget what else is not there.

        Args:
            believe: nobody else writes to the mirror, so what was proved is not proved again while
                its objects are the same.

        Raises:
            ForgedError: it is not.
        """
        seen = self._seen
        if seen.base is None:
            return
        done = store.proved(seen.path)
        if believe and seen.base in done:
            return
        from outpost_worker.repository import proof

        shown = {value for value in seen.refs.values() if value in seen.have}
        seen.have = proof.prove(self.git, [seen.base], shown)
        store.note_proved(seen.path, {*done, seen.base})

    def _other(self, base: str | None, partly: bool) -> str | None:
        """Return the commit of a base that is no ref; None for a repository without commits."""
        seen = self._seen
        if base is None and not any(name.startswith(_HEADS) for name in seen.refs):
            return None
        if not base or not 7 <= len(base) <= 64 or not _HEX.issuperset(base.lower()):
            raise _missing(seen, base)
        whole = len(base) in (40, 64)
        commit = self._commit(base)
        if not commit and whole:
            # Not every server gives out a commit by its hash; the branches may still hold it.
            self._fetch([f"--depth={self._depth}"] if partly else [], base)
            commit = self._commit(base)
        if not commit or not (whole or self._is_shown(commit)):
            self._all()
            commit = self._commit(base)
        if not commit or not (whole or self._is_shown(commit)):
            raise _missing(seen, base)
        return commit

    def _commit(self, text: str) -> str:
        return self.git.run("rev-parse", "--quiet", "--verify", text + "^{commit}").text

    def _is_shown(self, commit: str) -> bool:
        """Whether a ref of the remote holds a commit: anybody can make one whose hash begins so."""
        shown = [value for value in self._seen.refs.values() if value in self._seen.have]
        listing = os.path.join(self.git.git_dir, "shown")
        write(listing, "".join(f"^{value}\n" for value in dict.fromkeys(shown)))
        asked = ("rev-list", "--ignore-missing", "--max-count=1", commit, "--stdin")
        beyond = self.git.run(*asked, stdin=listing)
        return bool(shown) and not beyond.code and not beyond.out

    def _all(self, ref: str = "") -> None:
        """Fetch every branch and tag, and `ref` where it is neither."""
        refspecs = [f"+{_HEADS}*:{_HEADS}*", f"+{_TAGS}*:{_TAGS}*"]
        if ref and not ref.startswith((_HEADS, _TAGS)):
            refspecs.append(f"+{ref}:{_own(ref)}")
        deeper = ["--unshallow"] if self._seen.shallow else []
        # a rig may itself be a shallow clone: its history begins where it begins there
        self._must([*deeper, "--update-shallow"], *refspecs)
        self._learn(ref, all_refs=True)

    def _must(self, options: list[str], *refspecs: str) -> None:
        done = self._fetch(options, *refspecs)
        if done.code:
            raise self.git.error(done, "fetch the rig", "workspace_failed")

    def _fetch(self, options: list[str], *refspecs: str) -> Done:
        self._report("fetching the rig")
        quiet = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
        argv = ("fetch", *quiet, *options, "--", self._url, *refspecs)
        done = persistently(
            lambda: self.git.run(*argv, started=self._note), self._report, "fetching the rig"
        )
        self._take_shallow()
        if len(os.listdir(os.path.join(self._seen.path, "objects/pack"))) > 2 * MANY_PACKS:
            # Joins packs with every object in them, also those that no ref needs any more.
            self.git.run("repack", "--geometric=2", "-d", "-q", started=self._note)
        return done

    def _take_shallow(self) -> None:
        """Let the mirror's history end where it ends after a fetch."""
        now = store.shallow(self.git.git_dir)
        if now == self._seen.shallow:
            return
        path = os.path.join(self._seen.path, store.SHALLOW)
        if now:
            store.put(path, now)
        else:
            os.unlink(path)
        self._seen.shallow = now

    def _learn(self, ref: str, *, all_refs: bool) -> None:
        """Take the refs that were fetched for the remote's: they may have moved since it was asked.

        Args:
            ref: the ref that was fetched for its own sake, or "".
            all_refs: every branch and tag was fetched.
        """
        seen = self._seen
        form = "--format=%(objectname) %(refname) %(*objectname)"
        told = self.git.must("for-each-ref", form, doing="read the mirror", reason="internal")
        fresh: dict[str, str] = {}
        for line in told.text.splitlines():
            value, name, peeled = line.split(" ")
            if name.startswith(_HAVE):
                continue
            fresh[name] = value
            if peeled:
                fresh[name + "^{}"] = peeled
        seen.have = {*fresh.values(), *(() if all_refs else seen.have)}
        store.put(os.path.join(seen.path, store.HAVE), "\n".join(seen.have))
        if all_refs:
            kept = {k: v for k, v in seen.refs.items() if not k.startswith((_HEADS, _TAGS))}
            seen.refs = {**kept, **fresh}
        for end in ("", "^{}"):
            if _own(ref) + end in fresh:
                seen.refs[ref + end] = fresh[_own(ref) + end]


def _own(ref: str) -> str:
    """Return where a ref of the remote is fetched to: our own HEAD stays as it is."""
    return "refs/outpost/HEAD" if ref == "HEAD" else ref


def _missing(seen: RemoteState, base: str | None) -> WorkerError:
    branches = sorted(name[len(_HEADS) :] for name in seen.refs if name.startswith(_HEADS))
    some = ", ".join(branches[:8]) + (" …" if len(branches) > 8 else "")
    if base is None:
        what = "the rig's default branch has no commit"
    else:
        what = f"the rig has no branch, tag or commit {base!a}"
    hint = f"name one with --base; it has: {some}" if some else "it is empty: leave --base out"
    return WorkerError(what, reason="base_not_found", hint=hint)
