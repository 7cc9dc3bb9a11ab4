"""The code of the far side, for tests that run it apart from what is installed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import outpost_agents
import outpost_core
import outpost_shared
import outpost_worker

#: The packages that a worker's process imports.
PACKAGES = tuple(
    Path(package.__file__).parent
    for package in (outpost_agents, outpost_core, outpost_shared, outpost_worker)
)
#: Where they are found, for `sys.path`.
ROOTS = [str(package.parent) for package in PACKAGES]
#: The same for `PYTHONPATH`.
PYTHONPATH = os.pathsep.join(ROOTS)


def install(folder: Path) -> Path:
    """Copy the far side into a folder, as a wheel's installation has it.

    Returns:
        its first file, which runs verbs.
    """
    for package in PACKAGES:
        shutil.copytree(
            package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__")
        )
    return folder / "outpost_worker" / "boot.py"
