"""The params of a request: another program sent them, so each is looked at before it counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from outpost_core import wire
from outpost_core.errors import OutpostError, SpawnRefusedError, UsageError
from outpost_core.types import Json, Order, Secrets

Params: TypeAlias = Mapping[str, Json]


def word(params: Params, name: str, default: str | None = None) -> str:
    """Return a text.

    Raises:
        UsageError: it is none, or missing without a default.
    """
    value = params.get(name, default)
    if isinstance(value, str):
        return value
    raise UsageError(f"`{name}` of the request is not text")


def number(params: Params, name: str, high: float, default: float | None = None) -> float:
    """Return a number from 0 to `high`.

    Raises:
        UsageError: it is none, or missing without a default.
    """
    value = params.get(name)
    if value is None:
        value = default
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= high:
        return value
    raise UsageError(f"`{name}` of the request is not a number from 0 to {high:g}")


def flag(params: Params, name: str) -> bool:
    """Return true or false; false when missing.

    Raises:
        UsageError: it is something else.
    """
    value = params.get(name, False)
    if isinstance(value, bool):
        return value
    raise UsageError(f"`{name}` of the request is neither true nor false")


def secrets_of(params: Params) -> dict[str, str]:
    """Return the values of the secrets of a request to spawn.

    Raises:
        UsageError: they are no map of text.
    """
    values = params.get("secrets", {})
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise UsageError("`secrets` of the request is not a map of text")
    return {name: str(value) for name, value in values.items()}


def order_of(params: Params, secrets: Mapping[str, str]) -> Order:
    """Return the order of a request, with the values of its secrets.

    Raises:
        SpawnRefusedError: it is not the order that the client has, as far as its digest goes.
        UsageError: it is no order.
    """
    order = wire.from_json(Order, params.get("order"))
    if set(order.secrets) != set(secrets):
        raise UsageError("the names of `secrets` are not those of the order")
    order = dataclasses.replace(order, secrets=Secrets(secrets))
    if wire.digest(order) != word(params, "digest"):
        raise SpawnRefusedError(
            f"the order of {order.worker} is understood differently here and there; nothing was"
            " started",
            hint="install versions of Outpost here and there that fit together",
        )
    return order


def mask(error: OutpostError, secrets: Mapping[str, str]) -> None:
    """Take the values of secrets out of an error's text, whoever wrote it."""
    values: Iterable[str] = sorted(secrets.values(), key=len, reverse=True)
    for value in values:
        if len(value) >= 4:
            error.message = error.message.replace(value, "***")
            error.hint = error.hint.replace(value, "***")
    error.args = (error.message,)
