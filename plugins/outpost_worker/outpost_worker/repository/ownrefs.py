"""The refs of a repository of ours, which follow those of one that an agent works in."""

from __future__ import annotations

import os

from outpost_worker.folder import folders
from outpost_worker.repository.git import read, write
from outpost_worker.repository.repostate import is_hash


def listed(refs: dict[str, str]) -> str:
    """Return refs as text: `<hash> <name>` each."""
    return "".join(f"{value} {name}\n" for name, value in sorted(refs.items()))


def parsed(text: str) -> dict[str, str]:
    """Return the refs of a text that `listed` made."""
    pairs = (line.partition(" ") for line in text.split("\n"))
    return {name: value for value, _, name in pairs if name}


def follow(git_dir: str, before: dict[str, str], now: dict[str, str]) -> None:
    """Let what differs between two looks at the agent's refs differ in ours, too.

    Args:
        git_dir: ours.
        before: the agent's refs at the last look.
        now: at this one.

    Raises:
        OSError: it could not be written.
    """
    if before == now:
        return
    gone = [name for name in before if name not in now]
    if gone:
        drop(git_dir, gone)
    fresh = {name: value for name, value in now.items() if before.get(name) != value}
    packed = os.path.join(git_dir, "packed-refs")
    if not before and not os.path.exists(packed):
        lines = [f"{value} {name}\n" for name, value in sorted(fresh.items())]
        write(packed, "# pack-refs with: \n" + "".join(lines))
        return
    for name, value in fresh.items():
        path = os.path.join(git_dir, name)
        _make_way(git_dir, name)
        write(path, value + "\n")


def drop(git_dir: str, names: list[str]) -> None:
    """Remove refs of ours; those that are not there are fine.

    Raises:
        OSError: it could not be written.
    """
    folders.remove(os.path.join(git_dir, name) for name in names)
    packed = os.path.join(git_dir, "packed-refs")
    lines, dropped = read(packed).split("\n"), set(names)
    left, skipping = [], False
    for line in lines:
        if line.startswith("^") and skipping:
            continue
        skipping = line.partition(" ")[2] in dropped
        if not skipping:
            left.append(line)
    if len(left) != len(lines):
        write(packed, "\n".join(left))


def _make_way(git_dir: str, name: str) -> None:
    """Make the folders of a ref, where a ref of that name may have been before it."""
    folder = git_dir
    for part in name.split("/")[:-1]:
        folder = os.path.join(folder, part)
        if not os.path.isdir(folder):
            folders.remove([folder])
            os.mkdir(folder, 0o700)
    path = os.path.join(folder, name.rpartition("/")[2])
    if os.path.isdir(path):
        import shutil

        shutil.rmtree(path)


def tip(git_dir: str) -> str:
    """Return the commit that is checked out in a repository of ours; "" before the first."""
    said = read(os.path.join(git_dir, "HEAD")).strip()
    if not said.startswith("ref: "):
        return said if is_hash(said) else ""
    name = said[len("ref: ") :]
    value = read(os.path.join(git_dir, name)).strip()
    if not value:
        known = parsed(read(os.path.join(git_dir, "packed-refs")))
        value = known.get(name, "")
    return value if is_hash(value) else ""
