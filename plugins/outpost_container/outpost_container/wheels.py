"""Wheels of what is installed here, to install it elsewhere: no index is asked, nothing is built.

So the far side in the image is the one that belongs to the near side on this machine, whether that
came from an index, a wheel, or a checkout that is being worked on. A wheel is the files of the
package and what its installation says of it (binary distribution format, PyPA specifications); the
same files are the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from outpost_core.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What runs in the container, in the order in which each stands on those before it.
FAR: Final = (
    "outpost-core", "outpost-shared", "outpost-agents", "outpost-worker", "outpost-cloudrun",
    "outpost-k8s",
)  # fmt: skip
#: Those whose near side stays away: of what they ask for, one extra alone is needed; "" for none.
PROGRAMS: Final = {"outpost-cloudrun": "server", "outpost-k8s": ""}
#: DOS time starts here; the same moment for every file.
_MOMENT: Final = (1980, 1, 1, 0, 0, 0)
#: Of what an installation says of a distribution, what belongs to the distribution.
_SAYS: Final = ("METADATA", "entry_points.txt", "licenses", "LICENSE")
_WHEEL: Final = (
    "Wheel-Version: 1.0\nGenerator: outpost-container\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
)
_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)")


def wheel(name: str) -> tuple[str, bytes]:
    """Return the file name and the bytes of a wheel of an installed distribution of ours.

    Args:
        name: the distribution; its package is called like it.

    Raises:
        PluginError: it is not installed, or not as files.
    """
    about = _distribution(name)
    package = name.replace("-", "_")
    info = f"{package}-{about.version}.dist-info"
    files = dict(sorted(_files(package)))
    files |= {f"{info}/{path}": content for path, content in sorted(_said(about))}
    files[f"{info}/WHEEL"] = _WHEEL.encode()
    rows = [f"{path},sha256={_hash(content)},{len(content)}" for path, content in files.items()]
    files[f"{info}/RECORD"] = "".join(f"{row}\n" for row in [*rows, f"{info}/RECORD,,"]).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path, _MOMENT)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # Unix, wherever it was built
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED, 9)
    return f"{package}-{about.version}-py3-none-any.whl", out.getvalue()


def requirements() -> list[str]:
    """Return what the far side needs that is not ours, as pip takes it.

    Raises:
        PluginError: a part of the far side is not installed.
    """
    found = set()
    for name in FAR:
        for line in _distribution(name).requires or ():
            requirement, _, marker = (part.strip() for part in line.partition(";"))
            matched = _REQUIREMENT.match(requirement)
            if matched is None or matched[1].replace("_", "-") in FAR:
                continue
            if (extra := PROGRAMS.get(name)) is not None:
                if extra and f"extra == '{extra}'" in marker.replace('"', "'"):
                    found.add(requirement)
            elif "extra ==" not in marker:
                found.add(line.strip())  # pip knows what to make of its marker
    return sorted(found)


def version() -> str:
    """Return the version of what is packed."""
    return _distribution(FAR[0]).version


def _distribution(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise PluginError(
            f"{name}, which goes into the image, is not installed",
            hint=f"pip install {name}, into the environment that outpost is in",
        ) from None


def _files(package: str) -> Iterator[tuple[str, bytes]]:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise PluginError(
            f"{package}, which goes into the image, is not installed as files",
            hint=f"pip install --force-reinstall {package.replace('_', '-')}",
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"{package}/{path.relative_to(folder).as_posix()}", path.read_bytes()


def _said(about: Distribution) -> Iterator[tuple[str, bytes]]:
    """Yield what belongs to the distribution, and nothing of how it was installed here."""
    for path in about.files or ():
        parts = path.parts
        if len(parts) > 1 and parts[0].endswith(".dist-info") and parts[1] in _SAYS:
            yield "/".join(parts[1:]), Path(str(path.locate())).read_bytes()


def _hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
