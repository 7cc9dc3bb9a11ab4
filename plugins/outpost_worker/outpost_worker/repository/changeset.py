"""What differs between a working tree and its last commit."""

from __future__ import annotations

#: What git says, besides its answer, when there is a file or folder that it cannot look at.
_BLIND = ("could not open directory", "unable to access", "Permission denied")


class Changes:
    """The state of a working tree.

    Attributes:
        head: the commit that is checked out; None before the first.
        branch: the branch that is checked out; None when HEAD is detached.
        conflicts: paths with an unresolved merge conflict.
        tracked: a tracked file was changed, added or deleted.
        untracked: there are files that git does not know and does not ignore.
        nested: folders (ending in `/`) that are git repositories of their own.
        entries: changed paths that git knows: `(X of the status, mode in HEAD, blob in HEAD)`.
        new: paths that git does not know and does not ignore.
        dirt: paths that only the checkout made different; never to be committed.
        unfiltered: changed paths whose filter cannot be run here; likewise.
        filters, lacking: filters that attributes name, and those of them that cannot be run.
        known: `entries` as they were before anything was taken out.
        staged: the index holds something else than `head`.
        open: paths of which the index does not hold what is in the tree.
        blind: git could not look everywhere.
    """

    __slots__ = (
        *("blind", "branch", "conflicts", "dirt", "entries", "filters", "head", "known"),
        *("lacking", "nested", "new", "open", "staged", "tracked", "unfiltered", "untracked"),
    )

    def __init__(self, told: str, said: str = "") -> None:
        self.head: str | None = None
        self.branch: str | None = None
        self.conflicts: list[str] = []
        self.tracked = False
        self.untracked = False
        self.nested: list[str] = []
        self.entries: dict[str, tuple[str, str, str]] = {}
        self.new: list[str] = []
        self.dirt: list[str] = []
        self.unfiltered: list[str] = []
        self.filters: set[str] = set()
        self.lacking: set[str] = set()
        self.staged = False
        self.open: list[str] = []
        self.blind = any(sign in said for sign in _BLIND)
        for record in told.split("\0"):
            kind, _, rest = record.partition(" ")
            if kind == "?":
                if rest.endswith("/"):
                    self.nested.append(rest)
                else:
                    self.untracked = True
                    self.new.append(rest)
                    self.open.append(rest)
            elif kind == "u":
                self.conflicts.append(rest.split(" ", 9)[9])
            elif kind == "1":
                self.tracked = True
                fields = rest.split(" ", 7)
                self.entries[fields[7]] = (fields[0][0], fields[2], fields[5])
                self.staged = self.staged or rest[0] != "."
                # in a submodule git shows work that belongs to another repository
                if rest[1] != "." and rest[3] != "S":
                    self.open.append(fields[7])
            elif rest.startswith("branch.oid ") and rest != "branch.oid (initial)":
                self.head = rest[len("branch.oid ") :]
            elif rest.startswith("branch.head ") and rest != "branch.head (detached)":
                self.branch = rest[len("branch.head ") :]
        self.known = dict(self.entries)

    def take_out(self, paths: set[str], *, unfiltered: bool) -> None:
        """Count these paths as not changed, since they must not be committed."""
        if not paths:
            return
        (self.unfiltered if unfiltered else self.dirt).extend(sorted(paths))
        self.entries = {path: v for path, v in self.entries.items() if path not in paths}
        self.new = [path for path in self.new if path not in paths]
        self.tracked, self.untracked = bool(self.entries), bool(self.new)

    @property
    def held(self) -> list[str]:
        """The paths that were taken out."""
        return [*self.dirt, *self.unfiltered]

    @property
    def dirty(self) -> bool:
        """Whether there is anything that is in no commit."""
        return bool(self.tracked or self.untracked or self.conflicts or self.nested)
