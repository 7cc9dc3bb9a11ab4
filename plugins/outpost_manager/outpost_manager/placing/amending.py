"""Amending orders (`outpost_order`): plugins may change what is about to be placed.

The digest of an order is made of what they make of it, so the same order is the same worker only
where they always make the same of it. What they may not change is which worker it is.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from outpost_core import wire
from outpost_core.errors import OutpostError, PluginError
from outpost_core.isolation import contained, describe
from outpost_core.types import Order
from outpost_manager.plugins.masking import masked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outpost_core.discovery import Plugins

_HOOK: Final = "outpost_order"


def amend_all(plugins: Plugins, orders: Sequence[Order]) -> list[Order | OutpostError]:
    """Return orders as the plugins want them; in the place of one that must not be placed, why."""
    found: list[Order | OutpostError] = []
    for order in orders:
        try:
            found.append(amend(plugins, order))
        except PluginError as error:
            found.append(error)
    return found


def unanswered(plugins: Plugins, order: Order, patience: float) -> OutpostError:
    """Return why an order is not placed that was not amended in time."""
    asked = ", ".join(plugins.who(name) for name, _ in plugins.callers(_HOOK))
    return PluginError(
        f"{order.worker} is not placed: who amends orders ({asked}) did not answer within"
        f" {patience:g} s",
        hint="without that package the order is placed as it is",
    )


def amend(plugins: Plugins, order: Order) -> Order:
    """Return an order as the plugins want it.

    Args:
        plugins: asked one after the other; each sees what those before it made.
        order: about to be placed.

    Raises:
        PluginError: one of them raised, or answered something that is no order for this worker. The
            work would be done otherwise than was asked for, so the order must not be placed.
    """
    for name, call in plugins.callers(_HOOK):
        try:
            with contained():
                answers = call(order=order)
            for answer in answers:
                order = _checked(order, answer)
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises is its own
            plugins.blame(name, _HOOK, error, order.secrets)
            said = error.message if isinstance(error, OutpostError) else describe(error)
            who, hook = plugins.who(name), name.removeprefix("package:")
            raise PluginError(
                f"{order.worker} is not placed: {who} could not amend its order:"
                f" {masked(said, order.secrets)}",
                hint=f"outpost plugins {hook} shows more; without it the order is placed as it is",
            ) from None  # the cause's own text is not masked
    return order


def _checked(order: Order, answer: object) -> Order:
    """Return the amended order.

    Raises:
        PluginError: it is none, or is for another worker.
        UsageError: a value in it is not what it must be.
    """
    if not isinstance(answer, Order):
        raise PluginError(f"it answered a {type(answer).__name__}, not an Order")
    if (answer.issue, answer.attempt) != (order.issue, order.attempt):
        raise PluginError("it changed the issue or the attempt, which say which worker it is")
    # read as from a file, so that no value is of a type that the far side could not read
    read = wire.from_json(Order, json.loads(wire.dumps(answer)))
    return replace(read, secrets=answer.secrets)
