"""What of an order stands at its Job, for whoever asks later: nothing private. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from outpost_core import wire
from outpost_core.errors import OutpostError, SpawnRefusedError
from outpost_core.names import redact, split_rig
from outpost_core.types import Order, Secrets
from outpost_k8s.objects import names

#: Longest text of an order at its Job. All annotations of an object have 256 KiB.
MOST: Final = 16 * 1024


def told(order: Order) -> str:
    """Return the wire JSON of an order without what nobody needs later, or nobody else may see.

    Left out are its texts, its prompt, its command, its environment, its secrets, and passwords in
    the addresses of its repository.

    Raises:
        SpawnRefusedError: what is left is longer than any that can be meant.
    """
    rig = order.rig
    delivery = order.delivery
    if delivery is not None:
        delivery = replace(
            delivery, message="", pr_command=(), push_url=redact(split_rig(delivery.push_url)[0])
        )
    lean = replace(
        order,
        issue=replace(order.issue, title="", text="", labels=()),
        agent=replace(order.agent, argv=(), env={}, prices={}),
        rig=redact(split_rig(rig)[0]) if rig is not None else None,
        delivery=delivery,
        prompt="",
        env={},
        secrets=Secrets(),
        context={},
    )
    text = wire.dumps(lean)
    if len(text) > MOST:
        raise SpawnRefusedError(
            f"the order has {len(text)} characters of addresses and names, and a Job holds {MOST}"
        )
    return text


def order_of(job: Mapping[str, Any]) -> Order | None:
    """Return what a Job says of its order (see `told`); None where it says nothing that can be.

    Args:
        job: as the API returned it; whoever may write there has perhaps written it.
    """
    metadata = job.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    text = annotations.get(names.ORDER) if isinstance(annotations, Mapping) else None
    if not isinstance(text, str) or len(text) > MOST:
        return None
    try:
        return wire.from_json(Order, json.loads(text))
    except (OutpostError, ValueError, TypeError, RecursionError):
        return None
