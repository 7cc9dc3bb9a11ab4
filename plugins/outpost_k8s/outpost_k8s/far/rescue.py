"""Work that no remote took: which files it is in, and a copy of them on the volume.

A bundle of commits lies in the worker's folder, with the large files of git-lfs that it needs
beside it; archives of what no commit holds, and what a clean has rescued, lie in `rescued/`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from outpost_core.errors import NotFoundError, UsageError
from outpost_core.names import REFS
from outpost_core.types import Order, split_worker_id
from outpost_shared import faults, private
from outpost_worker.folder import files
from outpost_worker.repository import bundles
from outpost_worker.work import lfs

#: On the volume: a folder for each worker.
WORK: Final = "work"
#: A file of the Secret (`objects.job`): the work that its order goes on from.
BUNDLE: Final = "resume.bundle"
_COPY: Final = 1 << 20
_NEW: Final = ".new"


class Kept(NamedTuple):
    """A file: its name for whoever fetches it, its size, and where it is."""

    name: str
    size: int
    path: str


def find(root: Path, worker: str) -> list[Kept]:
    """Return the files that hold work of a worker that no remote took; the bundle first.

    Args:
        root: the state folder.
        worker: its id.

    Raises:
        UsageError: that is no id.
    """
    split_worker_id(worker)
    return [*_found(root, worker)]


def read(root: Path, worker: str, name: str, offset: int, most: int) -> tuple[bytes, int]:
    """Return bytes of one of these files, and its size.

    Raises:
        NotFoundError: it is none of them.
    """
    for each in find(root, worker):
        if each.name == name:
            fd = files.open_plain(each.path)
            try:
                return os.pread(fd, most, offset), os.fstat(fd).st_size
            finally:
                os.close(fd)
    raise NotFoundError(f"{ascii(name[:120])[1:-1]} is no file with work of {worker}")


def keep(root: Path, worker: str, volume: str) -> str:
    """Copy these files to the volume; returns the path of the first there, "" for none.

    The first one appears last, so that who sees it has the others. May be done again.

    Args:
        root: the state folder.
        worker: the worker's id.
        volume: where the volume is.

    Raises:
        OSError: it could not be written.
    """
    found = find(root, worker)
    folder = Path(volume) / WORK / worker
    for each in reversed(found):
        goal = folder / each.name
        private.make(str(goal.parent))
        _copy(Path(each.path), goal)
    if not found:
        return ""
    files.sync_folder(str(folder))
    faults.point("pod.kept")
    return str(folder / found[0].name)


def bring(root: Path, order: Order, volume: str) -> None:
    """Have here what an earlier attempt left on the volume and this one is to go on from.

    Args:
        root: the state folder.
        order: the order.
        volume: where the volume is.

    Raises:
        OSError: it could not be read or written.
    """
    resume = order.resume or ""
    worker = resume.rpartition("/")[2]
    with contextlib.suppress(UsageError):
        split_worker_id(worker)
        source = Path(volume) / WORK / worker
        if resume.startswith(REFS) and (source / bundles.NAME).is_file():
            rescued = root / bundles.RESCUED
            private.make(str(rescued))
            goal = rescued / f"{worker}.bundle"
            for path, name in _below(Path(lfs.beside(str(source / bundles.NAME)))):
                place = Path(lfs.beside(str(goal))) / name
                private.make(str(place.parent))
                _copy(path, place)
            _copy(source / bundles.NAME, goal)


def carried(root: Path, order: Order, folder: Path) -> None:
    """Have here what an earlier attempt left at the machine that ordered: it comes with the order.

    Args:
        root: the state folder.
        order: the order.
        folder: where the Secret of the Job is.

    Raises:
        OSError: it could not be read or written.
    """
    resume = order.resume or ""
    with contextlib.suppress(UsageError, FileNotFoundError):
        worker = resume.rpartition("/")[2]
        split_worker_id(worker)
        data = (folder / BUNDLE).read_bytes()  # the kubelet's own link; no agent writes there
        if resume.startswith(REFS):
            rescued = root / bundles.RESCUED
            private.make(str(rescued))
            _whole([data], rescued / f"{worker}.bundle")


def _found(root: Path, worker: str) -> Iterator[Kept]:
    places = [root / files.WORKERS / worker / bundles.NAME]
    with contextlib.suppress(FileNotFoundError):
        rescued = sorted((root / bundles.RESCUED).iterdir())
        places += [path for path in rescued if path.name.startswith(f"{worker}.")]
    for place in places:
        yield from _kept(place, place.name)
        if place.suffix == ".bundle":
            objects = Path(lfs.beside(str(place)))
            if objects.parent != root / bundles.RESCUED:  # there it is found by itself
                for path, name in _below(objects):
                    yield from _kept(path, f"{objects.name}/{name}")


def _kept(path: Path, name: str) -> Iterator[Kept]:
    with contextlib.suppress(FileNotFoundError):
        about = path.lstat()
        if stat.S_ISREG(about.st_mode):
            yield Kept(name, about.st_size, str(path))
        elif stat.S_ISDIR(about.st_mode):
            for inner, below in _below(path):
                yield from _kept(inner, f"{name}/{below}")


def _below(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files below a folder and what they are called in it; links lead nowhere."""
    for above, names, found in os.walk(folder):
        names.sort()
        for name in sorted(found):
            path = Path(above, name)
            yield path, path.relative_to(folder).as_posix()


def _copy(source: Path, goal: Path) -> None:
    """Copy a file that an agent may have had a hand in, whole or not at all."""
    with os.fdopen(files.open_plain(str(source)), "rb") as out_of:
        _whole(iter(lambda: out_of.read(_COPY), b""), goal)


def _whole(pieces: Iterable[bytes], goal: Path) -> None:
    """Write a file that is there whole or not at all."""
    staged = goal.with_name(goal.name + _NEW)
    with os.fdopen(_made(staged), "wb") as into:
        into.writelines(pieces)
        into.flush()
        os.fsync(into.fileno())
    staged.replace(goal)


def _made(path: Path) -> int:
    path.unlink(missing_ok=True)  # of a copy that was cut off
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
