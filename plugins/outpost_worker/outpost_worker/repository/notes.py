"""Notes in a worker's folder that say which archive of kept work is its own.

The archives lie in `<root>/rescued/`, see `archive.py`. This is apart from it since it is needed
at the end of the work, when an upgrade may have removed our files: `tarfile` is not.
"""

from __future__ import annotations

import os

from outpost_worker.folder.files import load
from outpost_worker.repository.bundles import RESCUED


def archive(folder: str, note: str, ending: str) -> str:
    """Return the archive that a note names, where it can be the worker's own; "" for none.

    What is named there is written and removed, so nothing but `<root>/rescued/<worker>…` counts.
    """
    path = (load(folder, note) or {}).get("path")
    if not isinstance(path, str):
        return ""
    start = beginning(folder)
    middle = path.removeprefix(start).removesuffix(ending)
    if path != start + middle + ending or not (middle == "" or _is_number(middle)):
        return ""
    return path


def _is_number(middle: str) -> bool:
    return middle.startswith("-") and middle[1:].isascii() and middle[1:].isdigit()


def beginning(folder: str) -> str:
    """Return how the paths of a worker's archives begin."""
    folder = os.path.abspath(folder)
    rescued = os.path.join(os.path.dirname(os.path.dirname(folder)), RESCUED)
    return os.path.join(rescued, os.path.basename(folder))
