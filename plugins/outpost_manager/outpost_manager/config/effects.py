"""What a found file would make Outpost do, in lines for people who are asked to trust it.

All that it says of outposts, agents and defaults, since each of it may run, connect, or send
something; of a town's list of rigs the addresses. What a plugin calls a secret is not shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outpost_core.errors import ConfigError
from outpost_core.options import option_fields
from outpost_manager.config.town import RIGS

if TYPE_CHECKING:
    from outpost_core.backend import Backend

#: What stands in the place of a secret.
HIDDEN: Final = "***"
#: A password in an address; what a shell would obey is none, and is shown.
_PASSWORD: Final = re.compile(r"(?<=://)((?<!ssh://)[\w.~%+-]+|[\w.~%+-]*:[\w.~%+:-]+)(?=@)")


def without_password(text: str) -> str:
    """Return a text without the passwords of URLs in it."""
    return _PASSWORD.sub(HIDDEN, text)


def effects(path: Path, data: bytes, backends: Mapping[str, Backend]) -> dict[str, str]:
    """Return what a file says, by dotted key.

    Args:
        path: the file; its name tells what it is.
        data: all that is in it.
        backends: installed outpost types, which know what is secret.

    Raises:
        ConfigError: it cannot be read, so nobody can see what it would do.
    """
    if path.name == RIGS.name:
        return dict(_rigs(path, data))
    from outpost_manager.config.yamlnodes import Document, decode, plain

    root = plain(Document(str(path), decode(data, str(path))).root)
    found: dict[str, str] = {}
    for key, value in _sections(root if isinstance(root, dict) else {}, backends):
        while key in found:  # a name with dots, or one that is there twice, hides no other
            key += " (again)"  # noqa: PLW2901
        found[key] = value
    return found


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return what was taken out (`-`) and what came in (`+`), each with key and value."""
    found = []
    for key in (*before, *(key for key in after if key not in before)):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        if old is not None:
            found.append(("-", key, old))
        if new is not None:
            found.append(("+", key, new))
    return found


def _sections(
    root: Mapping[str, Any], backends: Mapping[str, Backend]
) -> Iterator[tuple[str, str]]:
    for section, value in root.items():
        if section != "outposts" or not isinstance(value, list):
            yield from _flat(str(section), value)
            continue
        for number, entry in enumerate(value):
            name = entry.get("name", number) if isinstance(entry, dict) else number
            key = f"outposts.{name}"
            if not isinstance(entry, dict):
                yield from _flat(key, entry)
                continue
            backend = backends.get(str(entry.get("type")))
            options = option_fields(backend.options_class) if backend else ()
            hidden = {option.name for option in options if option.secret}
            for word, said in entry.items():
                if word in hidden:
                    yield f"{key}.{word}", HIDDEN
                elif word != "name":
                    yield from _flat(f"{key}.{word}", said)


def _flat(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for word, said in value.items():
            yield from _flat(f"{key}.{word}", said)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for number, item in enumerate(value):
            yield from _flat(f"{key}.{number}", item)
    else:
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        # whole: what is cut off is what a stranger would hide, and no change there would be seen
        yield key, without_password(shown)


def _rigs(path: Path, data: bytes) -> Iterator[tuple[str, str]]:
    try:
        said = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"is no JSON: {error}",
            file=str(path),
            hint="hint it; a town's outposts.yaml can be named alone: outpost trust FILE",
        ) from None
    rigs = said.get("rigs") if isinstance(said, dict) else None
    for name, entry in rigs.items() if isinstance(rigs, dict) else ():
        for key in ("git_url", "beads"):
            if isinstance(entry, dict) and key in entry:
                yield from _flat(f"rigs.{name}.{key}", entry[key])
