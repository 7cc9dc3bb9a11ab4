"""What is sent to a container: an order, as `POST /work` and the job's environment carry it."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from outpost_core import wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outpost_core.types import Json, Order


def work_body(order: Order, secrets: Mapping[str, str], **more: Json) -> dict[str, Json]:
    """Return the body of `POST /work` for an order.

    Args:
        order: what is to be done.
        secrets: values of its secrets; {} where they may not travel this way.
        more: further fields, such as `after` and `offset`.
    """
    return {
        "issue_id": order.issue.id,
        "rig_url": order.rig,
        "beads_url": order.rig,  # a rig is a repository with its beads
        "context": dict(order.context),
        "order": wire.to_json(order),
        "digest": wire.digest(order),
        "secrets": dict(secrets),
        **more,
    }


def packed_order(order: Order) -> bytes:
    """Return an order as a job's container reads it: packed, and without values of secrets."""
    return zlib.compress(wire.dumps(work_body(order, {})).encode(), 9)
