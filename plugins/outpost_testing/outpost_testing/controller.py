"""Another program that works with an outpost, to be raced against and to be killed.

`python -m outpost_testing.controller SPEC VERB ORDER` where SPEC is what `Target.save`
wrote, ORDER a file with an order, and VERB one of:

- `load`: build the outpost and print which modules that took;
- `spawn`: spawn through an outpost object, print the status;
- `hold`: likewise, then live until killed;
- `stop`: stop the order's worker;
- `manage`: spawn through a manager, print the worker.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from outpost_core import wire
from outpost_core.types import Order
from outpost_testing import target as targets

if TYPE_CHECKING:
    from outpost_core.types import Json


def main() -> None:
    """Do what the command line says."""
    spec, verb, order_file = sys.argv[1:]
    target, config = targets.load(Path(spec))
    order = wire.from_json(Order, json.loads(Path(order_file).read_text()))
    if verb == "load":
        target.make()
        answer: Json = {"modules": [*sorted(sys.modules)]}
    elif verb == "manage":
        answer = asyncio.run(_manage(target, config, order))
    else:
        answer = asyncio.run(_work(target, verb, order))
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    if verb == "hold":
        while True:
            time.sleep(60)


async def _work(target: targets.Target, verb: str, order: Order) -> Json:
    outpost = target.make()
    answer: object = None
    if verb == "stop":
        await outpost.outpost_stop(worker=order.worker, grace=order.limits.grace)
    else:
        answer = await outpost.outpost_spawn(order=order)
    if verb != "hold" and hasattr(outpost, "outpost_close"):
        await outpost.outpost_close()
    return wire.to_json(answer)


async def _manage(target: targets.Target, config: Path, order: Order) -> Json:
    from outpost_manager.manager import Manager

    manager = Manager.open(config=config, state=target.state, plugins=target.plugins())
    async with manager:
        spawned = await manager.spawn(order, on=target.name)
        return wire.to_json(spawned.worker)


if __name__ == "__main__":
    main()
