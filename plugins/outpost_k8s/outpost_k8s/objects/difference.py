"""What is different between two things of a cluster. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

#: What a server writes by itself.
_SERVERS: Final = frozenset(
    ("creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid")
)
_LONGEST: Final = 100


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return what becomes different, `where: from → to` each."""
    return list(_changes("", _own(before), _own(after)))


def missing(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return what of a thing is not there as it was sent; what is there besides does not count."""
    return list(_missing("", wanted, found))


def _own(thing: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in thing.items() if key != "status"}
    metadata = own.get("metadata")
    if isinstance(metadata, Mapping):
        own["metadata"] = {key: value for key, value in metadata.items() if key not in _SERVERS}
    return own


def _changes(where: str, before: Any, after: Any) -> Iterator[str]:
    if _same(before, after):
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted(before.keys() | after.keys()):
            yield from _changes(_below(where, key), before.get(key), after.get(key))
    elif before is None:
        yield f"{where}: {_shown(after)}"
    elif after is None:
        yield f"{where}: {_shown(before)} is taken out"
    else:
        yield f"{where}: {_shown(before)} → {_shown(after)}"


def _missing(where: str, wanted: Any, found: Any) -> Iterator[str]:
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key, value in wanted.items():
            yield from _missing(_below(where, key), value, found.get(key))
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for number, (one, other) in enumerate(zip(wanted, found, strict=True)):
            yield from _missing(f"{where}[{number}]", one, other)
    elif not _same(wanted, found):
        yield f"{where} is {_shown(found)} and not {_shown(wanted)}"


def _same(one: Any, other: Any) -> bool:
    """Whether two values mean the same: a server leaves out what is empty."""
    return bool(one == other) or (not one and not other and not isinstance(one, bool))


def _below(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _shown(value: Any) -> str:
    text = "nothing" if value is None else ascii(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
