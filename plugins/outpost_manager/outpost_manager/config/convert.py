"""Values of the configuration file → values of options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outpost_core.nearest import suggest
from outpost_core.options import OptionField
from outpost_core.units import parse_bytes, parse_duration
from outpost_manager.config.yamlnodes import plain

if TYPE_CHECKING:
    from outpost_manager.config.yamlnodes import Node

#: Beyond it, neither SQLite nor a float keeps a whole number.
_TOO_LARGE: Final = 2**53


class OptionError(ValueError):
    """A value does not fit its field.

    Args:
        message: what is wrong, without the value when the field is secret.
        node: the value at fault, inside a list or map too.
        hint: the next step.
    """

    def __init__(self, message: str, node: Node, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.node = node
        self.hint = hint


def convert(option: OptionField, node: Node) -> Any:
    """Read a value of the file as the field's type.

    Raises:
        OptionError: it does not fit.
    """
    if node.kind == "null" and not node.quoted:
        if option.optional:
            return None
        raise OptionError(f"{option.name} has no value; {option.expects} was expected", node)
    if option.type is object:
        return plain(node)
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
    hint = ""
    if option.type in (str, Path) and node.kind in ("bool", "null"):
        hint = "put it in quotes if text is meant"
    elif option.type in (int, float, bool) and node.quoted:
        hint = "write it without quotes"
    return OptionError(f"{option.name}: {option.expects} was expected, not {found}", node, hint)
