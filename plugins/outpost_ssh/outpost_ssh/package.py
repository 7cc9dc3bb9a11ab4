"""What is sent to a far machine: our own files and those of two small libraries, by address.

The address is made of the names and contents of all files, so a changed file is another package,
and two near sides with the same code share one there. It is worked out once per program (a few
milliseconds); the zip is only built for a machine that lacks the package.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from outpost_agents import registry
from outpost_core.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: What is sent, as importable names; `outpost_ssh.far` is all of this package that goes.
PACKAGES: Final = (
    *("outpost_core", "outpost_shared", "outpost_agents", "outpost_worker", "outpost_local"),
    *("outpost_ssh.far", "libtmux", "pluggy"),
)
#: What of them no machine needs to run workers.
LEFT_OUT: Final = frozenset(
    (
        *("libtmux/pytest_plugin.py", "libtmux/test"),
        # an SSH host stays, so its workers need no record elsewhere
        *(f"outpost_worker/record/{name}.py" for name in ("places", "segments", "volume")),
        "outpost_worker/container",
    )
)
#: The file that the far side runs.
ENTRY: Final = "outpost_ssh/far/boot.py"
#: The same moment for every file, so that the same files are the same zip (DOS time starts 1980).
_MOMENT: Final = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Package:
    """The files of the far side.

    Args:
        files: content by path, in the order of their names.
        address: what tells this package from every other, 32 hex digits.
    """

    files: Mapping[str, bytes]
    address: str

    def zipped(self) -> bytes:
        """Return a zip of the files; the same bytes for the same files."""
        import zipfile

        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in self.files.items():
                about = zipfile.ZipInfo(name, _MOMENT)
                about.external_attr = 0o600 << 16
                about.create_system = 3  # Unix, wherever it was built
                archive.writestr(about, content, zipfile.ZIP_DEFLATED, 9)
        return out.getvalue()


@lru_cache(maxsize=1)
def package() -> Package:
    """Read the files of the far side, once per program.

    Raises:
        PluginError: one of the packages cannot be found or read.
    """
    files: dict[str, bytes] = {}
    for name in PACKAGES:
        try:
            files.update(_files_of(name))
        except OSError as error:
            raise PluginError(
                f"{error.filename}, which SSH hosts need, cannot be read: {error.strerror}",
                hint="in a clone of Outpost: pip install --force-reinstall ./plugins/outpost_ssh",
            ) from error
    files["outpost_ssh/__init__.py"] = b""
    files.update(_readers())
    files = dict(sorted(files.items()))
    return Package(files=files, address=_address(files))


def _readers() -> Iterator[tuple[str, bytes]]:
    """Yield the readers of agents that other packages bring, as installed packages have them.

    A reader that cannot be used stays here: only orders that need it are refused there.
    """
    found = []
    for output, value in registry.installed().items():
        try:
            reader = registry.travelling(output)
        except PluginError:
            continue
        if reader is not None:
            yield f"{value.partition(':')[0].replace('.', '/')}.py", reader["text"].encode()
            found.append(f"{output} = {value}\n")
    if found:
        listed = f"[{registry.GROUP}]\n{''.join(found)}"
        yield "outpost_readers-0.dist-info/METADATA", b"Name: outpost-readers\nVersion: 0\n"
        yield "outpost_readers-0.dist-info/entry_points.txt", listed.encode()


def _address(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode("ascii"))
        digest.update(content)
    return digest.hexdigest()[:32]


def _files_of(package: str) -> Iterator[tuple[str, bytes]]:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise PluginError(
            f"{package}, which is sent to SSH hosts, is not installed as files",
            hint="in a clone of Outpost: pip install --force-reinstall ./plugins/outpost_ssh",
        )
    folder = next(iter(spec.submodule_search_locations))
    yield from _below(folder, package.replace(".", "/"))


def _below(folder: str, name: str) -> Iterator[tuple[str, bytes]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = f"{name}/{entry.name}"
            if path in LEFT_OUT or entry.name == "__pycache__":
                continue
            if entry.is_dir():
                yield from _below(entry.path, path)
            elif path.endswith(".py"):
                with open(entry.path, "rb") as file:  # noqa: PTH123 - a hundred files, every time
                    yield path, file.read()
