"""The folder that the image is built in: everything that the Containerfile copies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from outpost_container import wheels
from outpost_core.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

#: Files of this package that are copied, and their modes.
_OURS: Final = {"Containerfile": 0o644, "enter": 0o755, "pick": 0o755}


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What was laid out.

    Args:
        version: of Outpost in it.
        digest: tells what is in it from everything else, 16 hex digits.
    """

    version: str
    digest: str


def lay_out(folder: Path) -> Folder:
    """Write everything that the image is built from into an empty folder.

    Raises:
        UsageError: the folder is not empty, or cannot be written.
        PluginError: what goes into the image is not installed here.
    """
    packed = dict(wheels.wheel(name) for name in wheels.FAR)
    content = {
        name: files("outpost_container").joinpath("image", name).read_bytes() for name in _OURS
    }
    content["requirements.txt"] = "".join(f"{one}\n" for one in wheels.requirements()).encode()
    content |= {f"wheels/{name}": data for name, data in packed.items()}
    digest = hashlib.sha256()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty", hint="name a folder that is new or empty")
        (folder / "wheels").mkdir()
        for name, data in sorted(content.items()):
            digest.update(f"{name}\0{len(data)}\0".encode())
            digest.update(data)
            (folder / name).write_bytes(data)
            (folder / name).chmod(_OURS.get(name, 0o644))
    except OSError as error:
        raise UsageError(
            f"{error.filename} cannot be written: {error.strerror}", hint="name another folder"
        ) from error
    return Folder(version=wheels.version(), digest=digest.hexdigest()[:16])
