"""`dataclass`, for frozen classes of values whose methods are made when they are first needed.

The one of the standard library writes six functions for each class and compiles them while a module
is imported, a millisecond a class and more. Here all classes share what they can, and an `__init__`
is compiled with the first object.

Type checkers see the standard one, and to programs there is no difference either: fields, defaults,
`replace`, signatures and subclasses are those of `dataclasses`.
"""

from __future__ import annotations

import dataclasses
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass as dataclass  # noqa: PLC0414 - it is for others
    from inspect import Signature

#: A class that has one of these itself is left to the standard library, as is one without a
#: docstring, which that would make.
_OWN: Final = frozenset(
    ("__init__", "__eq__", "__hash__", "__setattr__", "__delattr__", "__getstate__", "__setstate__")
)
_set: Final = object.__setattr__
#: Stands in a signature for what a factory makes.
_MADE: Final = object()


def _dataclass(*, frozen: bool = False, eq: bool = True, **how: Any) -> Callable[[type], type]:
    def make(cls: type) -> type:
        above = any(hasattr(base, "__dataclass_fields__") for base in cls.__mro__[1:])
        known = how.keys() <= {"kw_only", "slots"} and cls.__doc__ is not None
        if not frozen or not known or above or _OWN & cls.__dict__.keys():
            whole: type = dataclasses.dataclass(frozen=frozen, eq=eq, **how)(cls)
            return whole
        made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, **how)(cls)
        said = made.__dataclass_params__
        said.init = said.repr = said.frozen = True
        said.eq = eq
        made.__init__, made.__signature__ = _first(made), _Signed()
        made.__setattr__, made.__delattr__ = _refuse_to_set, _refuse_to_delete
        if "__repr__" not in made.__dict__:
            made.__repr__ = _repr
        if eq:
            made.__eq__, made.__hash__ = _eq, _hash
        if how.get("slots"):
            made.__getstate__, made.__setstate__ = _state, _take_state
        return made  # type: ignore[no-any-return]

    return make


if not TYPE_CHECKING:
    dataclass = _dataclass


class _Signed:
    """The signature of a class, for who asks; standard subclasses have their own."""

    def __get__(self, value: object, owner: type) -> Signature:
        from inspect import signature

        own = signature(_compiled(owner))
        return own.replace(parameters=[*own.parameters.values()][1:])


def _first(cls: type) -> Callable[..., None]:
    """Return what stands for the `__init__` of a class until there is one."""

    def __init__(self: Any, *args: Any, **given: Any) -> None:  # noqa: N807 - it is shown in errors
        _compiled(cls)(self, *args, **given)

    __init__.stands_for = cls  # type: ignore[attr-defined]
    return __init__


def _compiled(cls: Any) -> Any:
    """Return the `__init__` of a class, made if it was not yet."""
    owner = getattr(cls.__init__, "stands_for", None)
    if owner is None:
        return cls.__init__
    known: dict[str, object] = {"_set": _set, "_made": _MADE}
    places: list[str] = []
    names: list[str] = []
    lines: list[str] = []
    for field in dataclasses.fields(owner):
        name = value = field.name
        default = ""
        if field.default_factory is not dataclasses.MISSING:
            known[f"_make_{name}"] = field.default_factory
            default = "_made"
            value = f"_make_{name}() if {name} is _made else {name}"
        elif field.default is not dataclasses.MISSING:
            default = f"_default_{name}"
            known[default] = field.default
        if field.init:
            (names if field.kw_only else places).append(f"{name}={default}" if default else name)
        elif default:
            value = f"_make_{name}()" if default == "_made" else default
        if field.init or default:
            lines.append(f"_set(self, {name!r}, {value})")
    if hasattr(owner, "__post_init__"):
        lines.append("self.__post_init__()")
    head = ", ".join(["self", *places, *(["*", *names] if names else [])])
    body = "\n  ".join(lines or ["pass"])
    text = f"def make({', '.join(known)}):\n def __init__({head}):\n  {body}\n return __init__"
    space: dict[str, Any] = {}
    exec(text, vars(sys.modules[owner.__module__]), space)  # noqa: S102 - of field names alone
    made = space["make"](**known)
    made.__qualname__ = f"{owner.__qualname__}.__init__"
    made.__module__ = owner.__module__
    made.__annotations__ = {f.name: f.type for f in dataclasses.fields(owner) if f.init}
    owner.__init__ = made
    return made


@cache
def _names(cls: Any, use: str) -> tuple[str, ...]:
    """Return the fields of a class that its `repr`, or its comparison, is of."""
    return tuple(field.name for field in dataclasses.fields(cls) if getattr(field, use))


def _compared(self: Any) -> tuple[Any, ...]:
    cls: Any = type(self)
    return tuple([getattr(self, name) for name in _names(cls, "compare")])


def _repr(self: Any) -> str:
    cls: Any = type(self)
    shown = [f"{name}={getattr(self, name)!r}" for name in _names(cls, "repr")]
    return f"{cls.__qualname__}({', '.join(shown)})"


def _eq(self: Any, other: object) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    return _compared(self) == _compared(other)


def _hash(self: Any) -> int:
    return hash(_compared(self))


def _is_held(self: Any, name: str) -> bool:
    """Whether an attribute cannot be changed; a subclass that is none may have more of them."""
    cls = type(self)
    return "__dataclass_fields__" in cls.__dict__ or name in cls.__dataclass_fields__


def _refuse_to_set(self: object, name: str, value: object) -> None:
    if _is_held(self, name):
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
    _set(self, name, value)


def _refuse_to_delete(self: object, name: str) -> None:
    if _is_held(self, name):
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
    object.__delattr__(self, name)


def _state(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _take_state(self: Any, state: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        _set(self, field.name, value)
