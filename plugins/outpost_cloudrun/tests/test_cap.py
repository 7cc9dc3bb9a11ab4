"""The hourly cap holds: a hundred callers, a thousand orders, kills at every crash point."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import crowd_caller
import pytest

from outpost_cloudrun import price
from outpost_core.types import State
from outpost_manager.ledger import Ledger
from outpost_shared.faults import NEAR

CALLERS, ORDERS = 100, 1000
STANDING = 0.054


def crowd(folder: Path, *kill: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, crowd_caller.__file__, folder, str(CALLERS), str(ORDERS), *kill],
        env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
        capture_output=True, text=True, timeout=280, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return json.loads(done.stdout)


async def look(folder: Path) -> None:
    async with crowd_caller.manager(folder) as manager:
        await manager.refresh()


@pytest.mark.slow
def test_the_cap_is_never_passed(tmp_path: Path) -> None:
    before = time.time()
    first = crowd(tmp_path, *NEAR)
    assert first["ended"] + first["killed"] == CALLERS
    # whoever finds the cap reached has nothing that he could be killed at
    assert first["killed"] >= 5, "crashes happened"
    second = crowd(tmp_path)
    assert second == {"most": second["most"], "ended": CALLERS, "killed": 0}
    assert max(first["most"], second["most"]) <= crowd_caller.CAP
    assert second["most"] > 0.9 * crowd_caller.CAP, "there was more to do than the cap allows"
    asyncio.run(look(tmp_path))
    ledger = Ledger(tmp_path / "state")
    try:
        assert ledger.spent(before)["burst"] + STANDING <= crowd_caller.CAP
        rows = {worker.id: worker for worker in ledger.workers()}
    finally:
        ledger.close()
    # what really ran is what the ledger knows, and what it cost is what was settled
    ran = {file.name: json.loads(file.read_text()) for file in tmp_path.glob("workers/gt-*")}
    assert ran.keys() == rows.keys()
    assert len(ran) > 40
    for name, said in ran.items():
        row = rows[name]
        if not said["ends"]:
            assert (row.state, row.cost_reserved) == (State.WORKING, pytest.approx(said["worst"]))
        elif said["cost"] is None:
            assert row.cost_settled == pytest.approx(said["worst"]), "nobody knows: the worst case"
        else:
            assert row.cost_settled == pytest.approx(said["cost"])
    true = sum(said["cost"] if said["cost"] is not None else said["worst"] for said in ran.values())
    assert true + STANDING <= crowd_caller.CAP
    assert said["worst"] == price.worst_case(
        crowd_caller.CheapOptions(project="my-gcp-project", region="us-central1", service="worker"),
        crowd_caller.order(0),
    )
