"""Five hundred workers at once through one front: none is lost, and none runs twice."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from keeperkit import until
from wholekit import Whole, whole

from outpost_cloudrun.outpost import CloudRunOutpost
from outpost_core.types import State, WorkerStatus

pytestmark = pytest.mark.slow

CROWD = 500


def test_of_five_hundred_streams_at_once_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "concurrency": CROWD, "max_workers": CROWD, "cpu": 8.0, "memory": 32 << 30,
        "billing": "instance",
    }  # fmt: skip
    with whole(tmp_path, monkeypatch, **settings) as desk:
        monkeypatch.setattr("keeperkit.PATIENCE", 240.0)
        gate = tmp_path / "gate"
        os.mkfifo(gate)
        orders = [
            desk.order(
                f"c-{number}", f"read all < {gate}; echo c-{number}", timeout=280.0, rig=None
            )
            for number in range(CROWD)
        ]

        async def spawn(outpost: CloudRunOutpost) -> None:
            crowd = asyncio.Semaphore(50)

            async def one(number: int) -> None:
                async with crowd:
                    await outpost.outpost_spawn(order=orders[number])

            await asyncio.gather(*(one(number) for number in range(CROWD)))

        begun = time.monotonic()
        desk.asked(spawn)
        until(lambda: len(desk.marks.read_text().splitlines()) == CROWD, "all agents run")
        print(f"{CROWD} agents after {time.monotonic() - begun:.1f} s")
        (under_way,) = desk.google.instances("worker").values()
        assert under_way >= CROWD
        desk.google.restart_front("worker", hard=False)
        desk.google.restart_front("worker", hard=True)
        with gate.open("w") as lines:
            lines.write("\n" * CROWD)  # each agent waits for one
            lines.flush()
            until(lambda: len(ended(desk)) == CROWD, "all have ended")
        print(f"all ended after {time.monotonic() - begun:.1f} s")
        assert {one.state for one in ended(desk)} == {State.DONE}
        issues = [line.split()[0] for line in desk.marks.read_text().splitlines()]
        assert sorted(issues) == sorted(f"c-{number}" for number in range(CROWD))
        for number in range(0, CROWD, 50):
            assert desk.log(f"c-{number}.1") == f"began\nc-{number}\nended\n".encode()


def ended(desk: Whole) -> list[WorkerStatus]:
    statuses: list[WorkerStatus] = desk.asked(lambda o: o.outpost_list())
    return [one for one in statuses if one.result is not None]
