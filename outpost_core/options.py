"""Options as dataclass fields: what each accepts, and how text becomes its value.

One description serves the configuration file, the flags of `outpost add TYPE` and the reference
in the docs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Final, Union, get_args, get_origin, get_type_hints

from outpost_core.errors import PluginError
from outpost_core.nearest import suggest
from outpost_core.units import format_bytes, format_duration, parse_bytes, parse_duration

if TYPE_CHECKING:
    from outpost_core.config.marks import Node


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a value was written.

    Args:
        file: the file as the user knows it; "" for what is built in.
        line: 1-based; 0 for what is built in.
        column: 1-based; 0 for what is built in.
    """

    file: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.file else "built in"


BUILT_IN: Final = Origin()


@dataclass(frozen=True, kw_only=True, slots=True)
class OptionField:
    """One field of an options dataclass.

    Args:
        name: the key in YAML; the flag is `--name` with dashes.
        type: `str`, `int`, `float`, `bool`, `Path`, `tuple` (of text), `dict` (of text) or a
            `StrEnum`.
        optional: None is a value too.
        required: it has no default.
        default: its default, None when required.
        help: one line.
        min: smallest allowed number.
        max: largest allowed number.
        unit: `duration`, `bytes` or "".
        secret: its value is never shown.
        metavar: what `--help` shows for a value.
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
    choices: tuple[str, ...] = ()

    @property
    def expects(self) -> str:
        """What a value of it is, for error texts and the reference."""
        if self.unit:
            return {"duration": "a duration such as 30m or 1h30m", "bytes": "a size such as 2GiB"}[
                self.unit
            ]
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
            exact = format_bytes(value)
            return exact if parse_bytes(exact) == value else value
        if isinstance(value, tuple):
            return list(value)
        return str(value) if isinstance(value, Path | StrEnum) else value


_EXPECTS: Final[dict[type, str]] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    tuple: "a list of words",
    dict: "a map of words to words",
}


def option_fields(options: type) -> tuple[OptionField, ...]:
    """Describe the fields of an options dataclass, in their order.

    Raises:
        PluginError: a field has a type that options cannot have.
    """
    hints = get_type_hints(options)
    return tuple(
        _describe(options, f, hints[f.name]) for f in dataclasses.fields(options) if f.init
    )


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
            mend="use str, int, float, bool, Path, tuple[str, ...], dict[str, str] or a StrEnum",
        )
    required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    made = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
    known = {name: f.metadata[name] for name in _DESCRIBED if name in f.metadata}
    return OptionField(
        name=f.name,
        type=base,
        optional=optional,
        required=required,
        default=None if required else made,
        choices=tuple(str(word) for word in base) if words else (),
        **known,
    )


#: Beyond it, neither SQLite nor a float keeps a whole number.
_TOO_LARGE: Final = 2**53
_DESCRIBED: Final = ("help", "min", "max", "unit", "secret", "metavar")


class OptionError(ValueError):
    """A value does not fit its field.

    Args:
        message: what is wrong, without the value when the field is secret.
        node: the value at fault, inside a list or map too.
        mend: the next step.
    """

    def __init__(self, message: str, node: Node, mend: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.node = node
        self.mend = mend


def convert(option: OptionField, node: Node) -> Any:
    """Read a value of the file as the field's type.

    Raises:
        OptionError: it does not fit.
    """
    if node.kind == "null" and not node.quoted:
        if option.optional:
            return None
        raise OptionError(f"{option.name} has no value; {option.expects} was expected", node)
    if option.type is tuple:
        items = node.items if node.kind == "list" else (node,)
        return tuple(_word(option, item) for item in items)
    if option.type is dict:
        if node.entries is None:
            raise _mismatch(option, node)
        return {key: _word(option, value) for key, (_, value) in node.entries.items()}
    if node.kind in ("list", "map"):
        raise _mismatch(option, node)
    value = _scalar(option, node)
    if isinstance(value, int | float) and not isinstance(value, bool):
        _check_range(option, value, node)
    return value


def _scalar(option: OptionField, node: Node) -> Any:
    if option.unit:
        reader: Callable[[str], float] = (
            parse_duration if option.unit == "duration" else parse_bytes
        )
        try:
            return option.type(reader(node.text))
        except ValueError as error:
            message = option.expects + " was expected" if option.secret else str(error)
            raise OptionError(f"{option.name}: {message}", node) from None
    if option.choices:
        if node.text not in option.choices:
            shown = "this" if option.secret else repr(node.text)
            raise OptionError(
                f"{option.name}: {shown} is not {option.expects}",
                node,
                suggest(node.text, option.choices),
            )
        return option.type(node.text)
    if option.type is str:
        return _word(option, node)
    if option.type is Path:
        try:
            return Path(_word(option, node)).expanduser()
        except RuntimeError:
            raise OptionError(f"{option.name}: that user has no home folder here", node) from None
    if option.type is bool:
        if node.kind != "bool":
            raise _mismatch(option, node)
        return node.text.lower() in ("true", "yes", "on")
    return _number(option, node)


def _number(option: OptionField, node: Node) -> float:
    """Read a number, not by YAML 1.1, where 010 is eight and 1:30 is ninety."""
    try:
        value: float = option.type(node.text)
    except ValueError:
        raise _mismatch(option, node) from None
    if node.quoted or not abs(value) < _TOO_LARGE:
        raise _mismatch(option, node)
    return value


def _word(option: OptionField, node: Node) -> str:
    """Text, or a number as it was written: `project: 007` keeps its zeros."""
    if node.kind not in ("str", "int", "float"):
        raise _mismatch(option, node)
    if "\0" in node.text:
        raise OptionError(f"{option.name} contains a NUL character", node)
    return node.text


def _check_range(option: OptionField, value: float, node: Node) -> None:
    low, high = option.min, option.max
    if (low is None or value >= low) and (high is None or value <= high):
        return
    if low is not None and high is not None:
        limits = f"between {option.show(low)} and {option.show(high)}"
    else:
        limits = (
            f"at least {option.show(low)}" if low is not None else f"at most {option.show(high)}"
        )
    shown = "" if option.secret else f", not {node.text}"
    raise OptionError(f"{option.name} must be {limits}{shown}", node)


def _mismatch(option: OptionField, node: Node) -> OptionError:
    found = {"list": "a list", "map": "a map", "null": "nothing"}.get(node.kind)
    if found is None:
        found = "something else" if option.secret else repr(node.text[:60])
    mend = ""
    if option.type in (str, Path) and node.kind in ("bool", "null"):
        mend = "put it in quotes if text is meant"
    elif option.type in (int, float, bool) and node.quoted:
        mend = "write it without quotes"
    return OptionError(f"{option.name}: {option.expects} was expected, not {found}", node, mend)
