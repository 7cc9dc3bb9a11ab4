"""Making a new plugin package from templates: `outpost plugin new`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outpost_core.errors import UsageError

KINDS: Final = ("outpost", "agent", "policy", "command")
_NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", re.ASCII)
_LONGEST: Final = 40
#: Names of distributions of ours, and of what they register.
_TAKEN: Final = frozenset(
    {
        *("agents", "core", "manager", "shared", "testing", "worker"),
        *("cloudrun", "exec", "k8s", "local", "ssh"),
    }
)
_TEMPLATES: Final = Path(__file__).parent / "templates"
#: The end of a template's name: no tool takes it for source of ours.
_SUFFIX: Final = ".in"


@dataclass(frozen=True, kw_only=True)
class Made:
    """A new package.

    Args:
        distribution: its name for pip.
        folder: where it is.
        files: what is in it, relative to the folder.
    """

    distribution: str
    folder: Path
    files: tuple[str, ...]


def make_plugin(name: str, kind: str, folder: Path | None = None) -> Made:
    """Write a package with one plugin that works, and tests that pass.

    Args:
        name: what it adds is called so: an outpost type, an agent, a command.
        kind: one of `KINDS`.
        folder: where to; None for one of the distribution's name in the current folder.

    Raises:
        UsageError: the name cannot be used, or the folder holds something.
    """
    short = name.removeprefix("outpost-")
    if not _NAME.fullmatch(short) or len(short) > _LONGEST:
        raise UsageError(
            f"{name[:80]!a} is not a name for a plugin",
            hint="use small letters, digits and single dashes, beginning with a letter: my-policy",
        )
    if short in _TAKEN:
        raise UsageError(f"outpost-{short} is a package of Outpost itself", hint="use another name")
    distribution = f"outpost-{short}"
    target = folder or Path(distribution)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(
            f"{target} is there already, and not empty",
            hint="use another name, or --dir FOLDER",
        )
    words = {
        "name": short,
        "distribution": distribution,
        "module": distribution.replace("-", "_"),
        "Class": "".join(part.capitalize() for part in short.split("-")),
        "function": short.replace("-", "_"),
        "ENV": short.replace("-", "_").upper(),
    }
    written = []
    for source in (_TEMPLATES / "common", _TEMPLATES / kind):
        for template in sorted(source.rglob(f"*{_SUFFIX}")):
            relative = _fill(str(template.relative_to(source)).removesuffix(_SUFFIX), words)
            path = target / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_fill(template.read_text(encoding="utf-8"), words), encoding="utf-8")
            written.append(relative)
    return Made(distribution=distribution, folder=target, files=tuple(sorted(written)))


def _fill(text: str, words: dict[str, str]) -> str:
    """Put words in the place of `@word@`: braces and dollars mean something in the files."""
    return re.sub(r"@(\w+)@", lambda found: words.get(found[1], found[0]), text)
