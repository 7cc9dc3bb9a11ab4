"""Putting orders into the queue, and taking them out with what is not written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from outpost_core.errors import UsageError
from outpost_core.names import RIG_CREDENTIAL
from outpost_core.types import Secrets
from outpost_manager.config.accounts import secret_names
from outpost_manager.ledger import QueueItem

if TYPE_CHECKING:
    from outpost_core.types import Order
    from outpost_manager.config.accounts import AccountConfig
    from outpost_manager.config.model import Config


def queue_items(
    config: Config,
    orders: Sequence[Order],
    *,
    on: str | None = None,
    batch: str = "",
    after: Sequence[str] = (),
    not_before: float = 0.0,
    retries: int = 0,
) -> list[QueueItem]:
    """Return orders as they are put into the queue.

    Args:
        config: what is configured.
        orders: what is to be done.
        on: the one outpost for all of them, or None.
        batch: what they belong to; "" for nothing.
        after: issues that have to be done first.
        not_before: moment before which none is placed; 0 for none.
        retries: how often an attempt is repeated whose agent judged itself that it failed.

    Raises:
        UsageError: the URL of a rig has a password, which the queue would have to keep.
    """
    for order in orders:
        if RIG_CREDENTIAL in order.secrets:
            raise UsageError(
                f"the rig of {order.issue.id} has a password in its URL, which no queue keeps",
                hint="leave it out of the URL, and let a git credential helper or ssh log in",
            )
    return [
        QueueItem(
            order=order,
            place=on,
            share=config.queue.share_of(order),
            account=order.agent.name,
            batch=batch,
            after=tuple(after),
            not_before=not_before,
            retries=retries,
            aging=config.queue.step,
        )
        for order in orders
    ]


def with_secrets(
    order: Order, environ: Mapping[str, str], accounts: Sequence[AccountConfig] = ()
) -> Order:
    """Return an order with the values of its secrets, which are never kept.

    Args:
        order: as it was written down: with the names alone.
        environ: where the values come from.
        accounts: those that are configured; what they give comes when one of them is chosen.

    Raises:
        UsageError: one is not set.
    """
    given = secret_names(accounts, order.agent.name)
    missing = sorted(name for name in order.secrets if name not in environ and name not in given)
    if missing:
        raise UsageError(
            f"its secrets are not set where the queue is worked on: {', '.join(missing)}",
            hint=f"export {missing[0]}=… where `outpost serve` or `outpost queue run` is started",
        )
    values = {name: "" if name in given else environ[name] for name in order.secrets}
    return replace(order, secrets=Secrets(values))
