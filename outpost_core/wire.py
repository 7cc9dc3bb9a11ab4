"""Orders, results and statuses as JSON, the same in files, over pipes and over the network.

A reader takes unknown keys silently (a newer peer may send more) and refuses wrong types.
The values of secrets are never in this JSON: they travel apart.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from outpost_core.errors import UsageError
from outpost_core.types import Json, Order, Secrets, State

T = TypeVar("T")

#: Version of the JSON shapes; only ever counts up when a reader could misunderstand.
WIRE_VERSION = 1
_PLAIN = frozenset((NoneType, bool, int, float, str))
#: dataclass → its fields, and whether each is a float: `60` and `60.0` must be the same order.
_FIELDS: dict[type, tuple[tuple[str, bool], ...]] = {}
_UNIONS = (Union, UnionType)
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def to_json(value: object) -> Json:
    """Turn a dataclass of `types` into plain JSON; secrets become the sorted list of names."""
    kind = type(value)
    if kind in _PLAIN:
        return cast("Json", value)
    fields = _FIELDS.get(kind)
    if fields is not None:
        return {
            name: float(item)
            if is_float and item is not None
            else (item if type(item) in _PLAIN else to_json(item))
            for name, is_float in fields
            for item in (getattr(value, name),)
        }
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, Secrets):
        return cast("Json", sorted(value))
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        _FIELDS[kind] = tuple(
            (name, hint is float or float in get_args(hint)) for name, hint, *_ in _fields(kind)
        )
        return to_json(value)
    if isinstance(value, State):
        return value.value
    if isinstance(value, frozenset | set):
        return [*sorted(str(item) for item in value)]
    if isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} has no JSON shape")


def from_json(kind: type[T], data: Json) -> T:
    """Build a dataclass of `types` from JSON.

    Args:
        kind: the dataclass.
        data: what `to_json` made; unknown keys are ignored, missing ones take their default.

    Raises:
        UsageError: a value has the wrong type, or a required one is missing.
    """
    result: T = _build(kind, data, kind.__name__)
    return result


def dumps(value: object) -> str:
    """Return the canonical JSON text of a value: sorted keys, no spaces, ASCII."""
    return _encode(to_json(value))


def digest(order: Order) -> str:
    """Return the identity of an order: SHA-256 of its canonical JSON, 64 hex digits.

    The names of secrets count, their values do not, so a rotated key is still the same order.
    Fields marked `LATER` count where they have another value than their default, those marked
    `ASIDE` never.
    """
    return digest_of(_encode(identity(order)))


def identity(order: Order) -> dict[str, Json]:
    """Return the JSON of an order without what does not count in its digest."""
    shape = to_json(order)
    assert isinstance(shape, dict), "an order is an object"
    _leave_later_out(order, shape)
    return shape


def _leave_later_out(value: object, shape: Any) -> None:
    """Take fields that came later and have their default out of the JSON of a dataclass."""
    for name, later, aside, default in _defaults(type(value)):  # type: ignore[arg-type]
        inner = getattr(value, name)
        if aside or (later and inner == default):
            del shape[name]
        elif type(inner) in _FIELDS:  # a dataclass, of which `to_json` has just made `shape`
            _leave_later_out(inner, shape[name])


@lru_cache(maxsize=64)
def _defaults(kind: Any) -> tuple[tuple[str, bool, bool, Any], ...]:
    """Return the fields of a dataclass: name, whether it came later, never counts, its default."""
    return tuple(
        (
            f.name,
            bool(f.metadata.get("later")),
            bool(f.metadata.get("aside")),
            f.default if f.default_factory is dataclasses.MISSING else f.default_factory(),
        )
        for f in dataclasses.fields(kind)
    )


def digest_of(text: str) -> str:
    """Return the identity of the order whose canonical JSON is `text`."""
    return hashlib.sha256(text.encode("ascii")).hexdigest()


@lru_cache(maxsize=64)
def _fields(kind: type) -> tuple[tuple[str, Any, bool, frozenset[Any]], ...]:
    hints = get_type_hints(kind)
    return tuple(
        (
            f.name,
            hint,
            f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING,
            _PLAIN.intersection(get_args(hint) if get_origin(hint) in _UNIONS else (hint,)),
        )
        for f in dataclasses.fields(kind)
        for hint in (hints[f.name],)
    )


def _build(kind: Any, data: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(data, dict):
            raise UsageError(f"{where}: an object was expected, not {type(data).__name__}")
        values: dict[str, Any] = {}
        for name, hint, required, plain in _fields(kind):  # type: ignore[arg-type]
            if name in data:
                item = data[name]
                as_it_is = type(item) in plain
                values[name] = item if as_it_is else _build(hint, item, f"{where}.{name}")
            elif required:
                raise UsageError(f"{where}: {name!r} is missing")
        return kind(**values)  # type: ignore[operator]
    origin = get_origin(kind)
    if origin in _UNIONS:
        options = get_args(kind)
        if any(get_origin(option) is dict for option in options):  # the alias Json
            return data
        if data is None and NoneType in options:
            return None
        (inner,) = (option for option in options if option is not NoneType)
        return _build(inner, data, where)
    return _scalar(kind, origin, data, where)


def _items(kinds: tuple[Any, ...], data: list[Any], where: str) -> list[Any]:
    if len(kinds) == 1 or kinds[1] is Ellipsis:
        kinds = kinds[:1] * len(data)
    if len(kinds) != len(data):
        raise UsageError(f"{where}: {len(kinds)} items were expected, not {len(data)}")
    return [_build(kind, item, where) for kind, item in zip(kinds, data, strict=True)]


def _scalar(kind: Any, origin: Any, data: Any, where: str) -> Any:
    if kind is Secrets:
        if isinstance(data, list) and all(isinstance(name, str) for name in data):
            return Secrets(dict.fromkeys(data, ""))
        raise UsageError(f"{where}: a list of names was expected, not {type(data).__name__}")
    if origin in (tuple, frozenset) and isinstance(data, list):
        return origin(_items(get_args(kind), data, f"{where}[]"))
    if origin is not None and issubclass(origin, Mapping) and isinstance(data, dict):
        return {
            key: _build(get_args(kind)[1], item, f"{where}.{key}") for key, item in data.items()
        }
    if kind is State and isinstance(data, str):
        try:
            return State(data)
        except ValueError:
            raise UsageError(f"{where}: {data!r} is not a state") from None
    if kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        try:
            return float(data)
        except OverflowError:
            raise UsageError(f"{where}: the number is too large") from None
    if kind in (str, int, bool) and type(data) is kind:
        return data
    raise UsageError(f"{where}: {type(data).__name__} has the wrong type")
