"""A hundred processes that order at once at an outpost that costs what Cloud Run costs.

    python crowd_caller.py FOLDER CALLERS ORDERS FAULTS

Its workers are files, made by whoever is first, so that their truth outlives every process that is
killed. Prints what the callers saw as JSON: how many ended by themselves, how many were killed, and
the most that was reserved and spent at any moment that one of them looked.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ourplugins import ours

from outpost_cloudrun import price
from outpost_cloudrun.options import CloudRunOptions
from outpost_core.backend import Backend, Outpost, option
from outpost_core.discovery import PluginReport
from outpost_core.errors import ConflictError, OutpostError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Agent, Health, Issue, Limits, Order, Result, State, WorkerStatus
from outpost_core.wire import digest
from outpost_manager.manager import Manager
from outpost_shared import faults

CAP = 1.50
TIMEOUT = 300.0


@dataclass(frozen=True, kw_only=True)
class CheapOptions(CloudRunOptions):
    folder: Path = option("where the workers are", default=Path())


class Cheap(Outpost):
    """Runs nothing; what its workers cost is in files."""

    type = "cheap"
    capabilities = frozenset({"price"})
    options: CheapOptions

    def _status(self, file: Path) -> WorkerStatus:
        said = json.loads(file.read_text())
        result = None
        if said["ends"]:
            result = Result(state=State.DONE, exit_code=0, cost_usd=said["cost"])
        state = State.DONE if said["ends"] else State.WORKING
        return WorkerStatus(id=file.name, state=state, digest=said["digest"], result=result)

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        number = int(order.issue.id.rpartition("-")[2])
        worst = self.outpost_price(order)
        # of five: one runs on, one's cost nobody knows, the others cost a part of the worst case
        cost = None if number % 5 == 1 else worst * (number % 7 + 1) / 8
        said = {"digest": digest(order), "ends": number % 5 != 0, "cost": cost, "worst": worst}
        file = self.options.folder / order.worker
        mine = self.options.folder / f".{order.worker}.{os.getpid()}"
        mine.write_text(json.dumps(said))
        try:
            os.link(mine, file)
        except FileExistsError:
            if json.loads(file.read_text())["digest"] != digest(order):
                raise ConflictError(f"{order.worker} is another order") from None
        return WorkerStatus(id=order.worker, state=State.WORKING, digest=digest(order))

    @hookimpl
    async def outpost_list(self) -> Sequence[WorkerStatus]:
        return [self._status(file) for file in self.options.folder.glob("gt-*")]

    @hookimpl
    async def outpost_ping(self) -> Health:
        return Health(ok=True)

    @hookimpl
    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
        return
        yield b""

    @hookimpl
    async def outpost_stop(self, worker: str, grace: float) -> None:
        pass

    @hookimpl
    def outpost_price(self, order: Order) -> float:
        return price.worst_case(self.options, order)


def manager(folder: Path) -> Manager:
    plugins = ours()
    plugins.backends["cheap"] = Backend(
        type="cheap", options=CheapOptions, build=Cheap, summary="", capabilities=Cheap.capabilities
    )
    plugins.homes["cheap"] = PluginReport(entry_point="cheap", package="cheap", version="1")
    (folder / "workers").mkdir(exist_ok=True)
    file = folder / "outposts.yaml"
    if not file.exists():
        file.write_text(
            "outposts:\n  - name: burst\n    type: cheap\n    project: my-gcp-project\n"
            "    region: us-central1\n    service: worker\n    keep_warm: min-instances\n"
            f"    cost_cap_hourly: {CAP}\n    folder: {folder / 'workers'}\n"
        )
    return Manager.open(
        config=file, state=folder / "state", environ={}, cwd=folder, plugins=plugins
    )


def order(number: int) -> Order:
    limits = Limits(timeout=TIMEOUT, max_agent_cost_usd=0.0)
    return Order(issue=Issue(id=f"gt-{number}"), agent=Agent(argv=("true",)), limits=limits)


async def call(folder: Path, numbers: list[int]) -> float:
    """Order, and return the most that was reserved and spent when this caller looked."""
    most = 0.0
    async with manager(folder) as mine:
        for begin in range(0, len(numbers), 3):
            some = [order(number) for number in numbers[begin : begin + 3]]
            await mine.spawn_many(some)
            most = max(most, (await mine.outposts())[0].spent)
            await mine.refresh()
            most = max(most, (await mine.outposts())[0].spent)
    return most


def main() -> None:
    folder, callers, orders, kill = Path(sys.argv[1]), *map(int, sys.argv[2:4]), sys.argv[4:]
    each = orders // callers
    start, begin = os.pipe()
    children: dict[int, int] = {}
    for caller in range(callers):
        answer, tell = os.pipe()
        pid = os.fork()
        if pid:
            os.close(tell)
            children[pid] = answer
            continue
        os.close(begin)
        os.read(start, 1)  # ends for all at once
        if kill and caller % 2:
            faults.arm(kill[caller // 2 % len(kill)])
        # its own orders, and some of its neighbour's
        numbers = [n % orders for n in range(caller * each, caller * each + each + 3)]
        try:
            most = asyncio.run(call(folder, numbers))
        except OutpostError as error:
            most = 0.0
            os.write(2, f"{error}\n".encode())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os.write(tell, f"{most}".encode())
        os._exit(0)
    os.close(begin)
    seen, codes = [], []
    for pid, answer in children.items():
        seen.append(float(os.read(answer, 100) or b"0"))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(json.dumps({"most": max(seen), "ended": codes.count(0), "killed": codes.count(-9)}))


if __name__ == "__main__":
    main()
