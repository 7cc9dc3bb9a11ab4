"""Refs for unpushed work: what they are called, and how a worker moves its own and no other.

`refs/outpost/<owner>/<worker>` says which ledger ordered the worker, since two people may work on
the same issue of one rig. Orders without an owner have `refs/outpost/<worker>`, as all had in 0.1;
a worker's id has a dot and an owner has none, so neither name is ever a folder of the other.

A worker moves and removes its ref only from values that it gave it itself. They are written down in
`<folder>/checkpoint-ref.json`, each before it is pushed, so that a crash between the push and
the note leaves no value that nobody knows.
"""

from __future__ import annotations

from outpost_shared import faults
from outpost_worker.folder import files
from outpost_worker.repository.git import Done, Git

#: In a worker's folder: `{"ref", "seen", "tried"}`: the value that the rig was last seen to have,
#: and those whose push was begun since then.
NOTE = "checkpoint-ref.json"
#: How often a ref is pushed that another program moves meanwhile.
_TRIES = 3
#: Values whose push may have been begun; a rig that refuses each would make the list endless.
_MOST = 20


class OwnRef:
    """A worker's ref on its rig.

    Args:
        git: git on the worker's repository, whose remote `outpost` is where it is.
        asked: git on another repository whose `url` is the same, to look there.
        name: the ref.
        folder: the worker's folder.
        before: the value that the rig has as far as was known before there was a note.
    """

    def __init__(self, git: Git, asked: Git, name: str, folder: str, before: str = "") -> None:
        self._git = git
        self._asked = asked
        self._folder = folder
        self.name = name
        note = files.load(folder, NOTE) or {}
        seen, tried = note.get("seen"), note.get("tried")
        values = [seen, *tried] if isinstance(tried, list) and len(tried) <= 2 * _MOST else [None]
        known = note.get("ref") == name and all(map(_is_value, values))
        self.seen: str = note["seen"] if known else before
        self._tried: list[str] = note["tried"] if known else []

    def push(self, commit: str, timeout: float) -> bool:
        """Let the rig's ref be at a commit; whether it was seen there.

        A value that this worker did not give it stays: it is another one's work.

        Args:
            commit: the commit.
            timeout: seconds that it may take.

        Raises:
            OSError: it could not be written down what is pushed.
        """
        if commit not in self._tried:
            self._note(self.seen, [*self._tried[-_MOST:], commit])
        faults.point("checkpoint.noted")
        if not self._move(commit, timeout) or self._there(timeout) != commit:
            return False
        faults.point("checkpoint.pushed")
        self._note(commit, [])
        return True

    def drop(self, timeout: float) -> bool:
        """Remove the rig's ref; whether none of our values is there any more.

        Raises:
            OSError: it could not be written down.
        """
        if not (self.seen or self._tried):
            return True
        if not self._move("", timeout) and self._there(timeout) in (None, self.seen, *self._tried):
            return False
        self._note("", [])
        return True

    def shows(self, commit: str, timeout: float) -> bool:
        """Whether the rig shows a commit under the ref, now; False also when it cannot be asked.

        Args:
            commit: the commit.
            timeout: seconds that it may take.
        """
        return self._there(timeout) == commit

    def _move(self, commit: str, timeout: float) -> bool:
        """Push a commit, or "" to remove the ref, from whichever of our values is there."""
        expected = self.seen
        for _ in range(_TRIES):
            done = self._git.run(
                *("push", "--porcelain", "--no-recurse-submodules"),
                *(f"--force-with-lease={self.name}:{expected}", "outpost", f"{commit}:{self.name}"),
                timeout=timeout,
            )
            if done.code == 0:
                return True
            if not _was_moved(done):
                return False
            there = self._there(timeout)
            if there == commit:
                return True
            if there is None or (there and there not in (self.seen, *self._tried)):
                return False
            expected = there
        return False

    def _there(self, timeout: float) -> str | None:
        """Return the rig's value of the ref, "" for none; None when it cannot be asked."""
        done = self._asked.run("ls-remote", "--", self._asked.url, self.name, timeout=timeout)
        if done.code:
            return None
        told = [line.split("\t") for line in done.text.splitlines()]
        return next((value for value, name in told if name == self.name), "")

    def _note(self, seen: str, tried: list[str]) -> None:
        self.seen, self._tried = seen, tried
        about = {"ref": self.name, "seen": seen, "tried": tried}
        files.store(self._folder, NOTE, about, sync=True)


def _is_value(value: object) -> bool:
    """Whether it can be the value of a ref; "" for none."""
    return isinstance(value, str) and (
        not value or (len(value) in (40, 64) and set(value) <= set("0123456789abcdef"))
    )


def _was_moved(done: Done) -> bool:
    """Whether a push was refused, perhaps since the ref is not where it was expected."""
    return any(line.startswith(b"!") for line in done.out.splitlines())
