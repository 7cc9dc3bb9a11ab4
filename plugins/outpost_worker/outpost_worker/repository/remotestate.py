"""What a remote has, as far as it was asked."""

from __future__ import annotations

import os

from outpost_worker.folder import guarded
from outpost_worker.repository import store


class RemoteState:
    """The remote as it was told, and what of it the mirror holds.

    Attributes:
        path: the mirror.
        refs: every ref of the remote with its hash; annotated tags also as `<ref>^{}`.
        default: the ref that the remote's HEAD names, or None.
        have: hashes that the mirror holds for certain.
        base: the commit to start from; None for a repository without any commit.
        base_branch: the branch that `base` is the tip of, or None for a tag or commit.
        shallow: the mirror's `shallow` file, "" when it has all history.
        stamp: when it was told (monotonic, ns).
    """

    __slots__ = ("base", "base_branch", "default", "have", "path", "refs", "shallow", "stamp")

    def __init__(self, path: str) -> None:
        self.path = path
        self.refs: dict[str, str] = {}
        self.default: str | None = None
        self.have = store.hashes(os.path.join(path, store.HAVE))
        self.base: str | None = None
        self.base_branch: str | None = None
        self.shallow = store.shallow(path)
        self.stamp = -1
        told = guarded.text(os.path.join(path, store.SNAPSHOT), store.MOST)
        stamp, _, told = told.partition("\n")
        if stamp.isascii() and stamp.isdigit():
            self.learn(told, int(stamp))

    @property
    def sha256(self) -> bool:
        """Whether the rig has hashes of SHA-256."""
        return any(len(value) == 64 for value in {*self.refs.values(), *self.have})

    def learn(self, told: str, stamp: int) -> None:
        """Take the output of `git ls-remote --symref`; a name or a hash that is none is left out.

        Args:
            told: the output.
            stamp: when it was asked.
        """
        self.refs, self.default, self.stamp = {}, None, stamp
        for line in told.splitlines():
            value, _, name = line.partition("\t")
            if value.startswith("ref: "):
                if name == "HEAD" and is_ref(value[5:]):
                    self.default = value[5:]
            elif store.is_hash(value) and (name == "HEAD" or is_ref(name.removesuffix("^{}"))):
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


def is_ref(name: str) -> bool:
    """Whether git takes a text as the whole name of a ref (`git check-ref-format`)."""
    return (
        name.startswith("refs/")
        and not any(c < " " or c in _NOT_IN_REFS for c in name)
        and ".." not in name
        and "@{" not in name
        and not name.endswith(".")
        and all(part and part[0] != "." and part[-5:] != ".lock" for part in name.split("/"))
    )


_NOT_IN_REFS = frozenset(" ~^:?*[\\\x7f")
