"""The fields of an order, as files and flags say them, to an `OrderRequest`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from outpost_core.errors import UsageError
from outpost_manager.orders.making import OrderRequest
from outpost_manager.orders.words import duration, priority, size

_DURATIONS: Final = (
    "estimate",
    "timeout",
    "idle_timeout",
    "grace",
    "checkpoint_every",
    "final_grace",
)
_SIZES: Final = ("memory",)
_WORDS: Final = ("labels", "secrets", "agent_args", "command", "pr_command")
_NUMBERS: Final = {
    "attempt": int,
    "depth": int,
    "cpu": (int, float),
    "max_agent_cost": (int, float),
}
#: words that others use → the field.
_OTHER_WORDS: Final = {
    "id": "issue", "key": "issue", "number": "issue", "name": "title", "summary": "title",
    "description": "text", "content": "text", "task": "prompt", "repo": "rig",
    "repository": "rig", "url": "rig", "tags": "labels", "type": "kind", "cmd": "command",
    "ref": "base", "duration": "estimate",
}  # fmt: skip
_SWITCHES: Final = ("no_rig", "again", "from_base", "interactive", "pr")


def request_of(values: Mapping[str, Any], where: str = "") -> OrderRequest:
    """Return the request that fields say, as a line of `--from-file` has them.

    Args:
        values: field to value; what is None is not said.
        where: stands before each message.

    Raises:
        UsageError: a field is unknown, missing, or its value does not fit.
    """
    known = OrderRequest.__dataclass_fields__
    if "body" in values:
        if "text" in values:
            raise UsageError(
                f"{where}'body' and 'text' are the same field", hint="give one of them"
            )
        values = {("text" if name == "body" else name): said for name, said in values.items()}
    for name in values:
        if name not in known:
            from outpost_core.nearest import suggest

            other = _OTHER_WORDS.get(name.casefold())
            hint = f"did you mean {other!r}?" if other else suggest(name, (*known, "body"))
            raise UsageError(f"{where}unknown field {name!a}", hint=hint)
    if "issue" not in values:
        raise UsageError(f"{where}the field 'issue' is missing")
    try:
        return OrderRequest(**{name: _value(name, value) for name, value in values.items()})
    except UsageError as error:
        raise UsageError(f"{where}{error.message}", hint=error.hint) from None


def _value(name: str, value: Any) -> Any:
    """Return a field's value in its own type; None is "not said"."""
    if value is None:
        return None
    flag = "--" + name.replace("_", "-")
    if name == "priority":
        return priority(str(value))
    if name in _DURATIONS:
        return duration(value, flag)
    if name in _SIZES:
        return size(value, flag)
    if name == "prompt_file" and isinstance(value, str | Path):
        return Path(value)
    if name in _WORDS:
        _expect(name, _all_texts(value), "a list of words")
        return tuple(value)
    if name == "env":
        _expect(name, isinstance(value, dict) and _all_texts([*value.values()]), "names and texts")
    elif name == "context":
        _expect(name, isinstance(value, dict), "names and values")
    else:
        kind: Any = bool if name in _SWITCHES else _NUMBERS.get(name, str)
        right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        _expect(name, right, {str: "text", bool: "true or false"}.get(kind, "a number"))
    return value


def _expect(name: str, right: bool, what: str) -> None:
    if not right:
        raise UsageError(f"{name}: {what} was expected")


def _all_texts(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, str) for value in values)
