"""What was staged beside an agent at work is what lies in its tree, reached through no link.

git looks at a path and opens it later. An agent can exchange a folder for a link in between, and
what a fence hides from it would go out with its next checkpoint. So everything that was staged is
looked at again through the descriptor of the working tree, folder by folder, and only what is
found so stays in the index.
"""

from __future__ import annotations

import os
import stat

from outpost_worker.folder import files
from outpost_worker.folder.folders import Folder, StrangeError
from outpost_worker.repository.index import feed
from outpost_worker.repository.objects import digest

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from outpost_worker.repository.owngit import Own

_EMPTY = {
    40: "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    64: "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321",
}
_LINK = "120000"
_OTHER = "160000"
_CHUNK = 1 << 20


def may_hide(folder: str) -> bool:
    """Whether something of a fenced agent may still be at work when its agent has ended.

    With processes of its own (`namespace`), nothing is; without a fence, nothing is hidden from it.

    Args:
        folder: the worker's folder.
    """
    fence = (files.load(folder, files.STATE) or {}).get("fence")
    fenced = isinstance(fence, str) and fence and not fence.startswith(("off", "none"))
    return bool(fenced) and fence != "namespace"


def only(git: Own, folder: str, head: str | None, env: dict[str, str]) -> None:
    """Let an index hold nothing but what can be reached in the working tree.

    A file that is another one by now is staged as it is; what is behind a link, or gone, is left
    as it was in the commit.

    Args:
        git: our repository.
        folder: where a list may be put for a moment.
        head: the commit that is checked out; None before the first.
        env: more environment, with `GIT_INDEX_FILE`.

    Raises:
        WorkerError: `commit_failed` or `disk_full`.
    """
    told = git.must(
        *("diff-index", "--cached", "--raw", "-z", "--no-renames"),
        head or _EMPTY[git.hash_length()],
        doing="look at what is staged",
        reason="commit_failed",
        env=env,
    )
    tree = _Tree(git)
    lines = []
    fields = os.fsdecode(told.out).split("\0")
    for about, path in zip(fields[::2], fields[1::2], strict=False):
        before, mode, was, value = about[1:].split(" ")[:4]
        if set(value) == {"0"} or mode == _OTHER:
            continue
        there = tree.blob(path, mode, value)
        if there == value:
            continue
        if there:
            lines.append(f"{mode} {there}\t{path}")
        else:
            gone = set(was) == {"0"}
            lines.append(f"0 {was}\t{path}" if gone else f"{before} {was}\t{path}")
    if not lines:
        return
    feed(git, ["--index-info"], lines, folder, env, doing="stage what was reached")


class _Tree:
    """A working tree, looked into by descriptors; the folder of the last path stays open."""

    def __init__(self, git: Own) -> None:
        self._git = git
        self._at = ""
        self._folder: Folder | None = git.top

    def blob(self, path: str, mode: str, value: str) -> str:
        """Return the blob of what is at a path now, "" where nothing of that kind is.

        Args:
            path: relative to the working tree.
            mode: of the entry in the index.
            value: the blob that it should be.
        """
        above, _, name = path.rpartition("/")
        try:
            if above != self._at:
                self._at, self._folder = above, None
                assert self._git.top is not None
                self._folder = self._git.top.walk(above) if above else self._git.top
            if self._folder is None:
                return ""
            if mode == _LINK:
                return self._link(name, value)
            fd = self._folder.open(name)
        except StrangeError:
            return ""
        if fd < 0:
            return ""
        try:
            if _hash(fd, len(value)) == value:
                return value
            return self._as_git_has_it(fd, path)
        finally:
            os.close(fd)

    def _link(self, name: str, value: str) -> str:
        assert self._folder is not None
        about = self._folder.stat(name)
        if about is None or not stat.S_ISLNK(about.st_mode):
            return ""
        try:
            said = os.fsencode(os.readlink(name, dir_fd=self._folder.fd))
        except OSError:
            return ""
        made = digest(len(value))
        made.update(b"blob %d\0" % len(said) + said)
        return value if made.hexdigest() == value else ""

    def _as_git_has_it(self, fd: int, path: str) -> str:
        """Store what an open file holds, as git has it at that path: through its filters."""
        told = self._git.run(
            *("hash-object", "-w", "--stdin", f"--path={path}"), stdin=f"/proc/self/fd/{fd}"
        )
        return "" if told.code else told.text


def _hash(fd: int, length: int) -> str:
    made = digest(length)
    made.update(b"blob %d\0" % os.fstat(fd).st_size)
    while data := os.read(fd, _CHUNK):
        made.update(data)
    return str(made.hexdigest())
