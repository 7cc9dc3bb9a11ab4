"""Options as dataclass fields: what each accepts, and how it is shown.

One description serves the configuration file, the flags of `outpost add TYPE` and the reference
in the docs.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from outpost_core.errors import PluginError
from outpost_core.units import format_bytes, format_duration, parse_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class OptionField:
    """One field of an options dataclass.

    Args:
        name: the key in YAML; the flag is `--name` with dashes.
        type: `str`, `int`, `float`, `bool`, `Path`, `tuple` (of text), `dict` (of text), `object`
            (whatever YAML says, as JSON) or a `StrEnum`.
        optional: None is a value too.
        required: it has no default.
        default: its default, None when required.
        help: one line.
        min: smallest allowed number.
        max: largest allowed number.
        unit: `duration`, `bytes` or "".
        secret: its value is never shown.
        metavar: what `--help` shows for a value.
        each: `outpost add` adds an outpost for each of its values.
        choices: the words of a `StrEnum`.
    """

    name: str
    type: type
    optional: bool = False
    required: bool = False
    default: Any = None
    help: str = ""
    min: float | None = None
    max: float | None = None
    unit: str = ""
    secret: bool = False
    metavar: str = ""
    each: bool = False
    choices: tuple[str, ...] = ()

    @property
    def expects(self) -> str:
        """What a value of it is, for error texts and the reference."""
        if self.unit:
            return _UNITS[self.unit]
        if self.choices:
            return "one of " + ", ".join(self.choices)
        return _EXPECTS[self.type]

    def show(self, value: Any) -> Any:
        """Return a value as it would be written in the file; a secret is hidden."""
        if value is None:
            return None
        if self.secret:
            return "***"
        if self.unit == "duration":
            return format_duration(value)
        if self.unit == "bytes":
            return exact if parse_bytes(exact := format_bytes(value)) == value else value
        if isinstance(value, tuple):
            return list(value)
        return str(value) if isinstance(value, Path | StrEnum) else value


_UNITS: Final = {"duration": "a duration such as 30m or 1h30m", "bytes": "a size such as 2GiB"}
_EXPECTS: Final[dict[type, str]] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    tuple: "a list of words",
    dict: "a map of words to words",
    object: "a value of YAML",
}


def option_fields(options: type) -> tuple[OptionField, ...]:
    """Describe the fields of an options dataclass, in their order.

    Raises:
        PluginError: a field has a type, a unit or a default that options cannot have.
        Exception: whatever the code of its annotations and defaults raises.
    """
    hints = get_type_hints(options)
    fields = (f for f in dataclasses.fields(options) if f.init)
    return tuple(_describe(options, f, hints[f.name]) for f in fields)


def _describe(options: type, f: dataclasses.Field[Any], hint: Any) -> OptionField:
    inner = [kind for kind in get_args(hint) if kind is not NoneType]
    optional = get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint)
    kind = inner[0] if optional and len(inner) == 1 else hint
    base = get_origin(kind) or kind
    words = isinstance(base, type) and issubclass(base, StrEnum)
    if not words and (base not in _EXPECTS or not set(get_args(kind)) <= {str, Ellipsis}):
        raise PluginError(
            f"the option {f.name!r} of {options.__module__}.{options.__qualname__} has the type"
            f" {hint}, which options cannot have",
            hint="str, int, float, bool, Path, tuple[str, ...], dict[str, str], StrEnum or object",
        )
    required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    made = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
    known = {name: f.metadata[name] for name in _DESCRIBED if name in f.metadata}
    field = OptionField(
        name=f.name,
        type=base,
        optional=optional,
        required=required,
        default=None if required else made,
        choices=tuple(str(word) for word in base) if words else (),
        **known,
    )
    if field.unit not in ("", *_UNITS):
        why = f"the option {f.name!r} has the unit {field.unit!r}"
        raise PluginError(why, hint="use duration or bytes")
    for word, kind in (("help", str), ("metavar", str), ("min", int | float), ("max", int | float)):
        said = getattr(field, word)
        if said is not None and not isinstance(said, kind):
            raise PluginError(f"the option {f.name!r} has {said!r} as its {word}")
    fits = isinstance(made, int | float if base is float else base) or (made is None and optional)
    if not required and (not fits or (isinstance(made, bool) and base is not bool)):
        raise PluginError(f"the option {f.name!r} has the default {made!r}, which is no {hint}")
    return field


_DESCRIBED: Final = ("help", "min", "max", "unit", "secret", "metavar", "each")
