"""(l) What the mayor costs beside 300 live and quiet workers, how soon it hears and restarts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import Row, ms
from outpost_manager.ledger import Ledger
from outpost_mayor.serving.follow import Follower

#: Live workers of this machine, and seconds for which the mayor is watched beside them.
LIVE: Final = 300
WATCHED: Final = 30.0
#: Live workers that are known again after a restart, at how many outposts.
KNOWN, PLACES = 1000, 10
_PATIENCE: Final = 300.0


class Place:
    """A mayor over a state folder of its own.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        (folder / "outposts.yaml").write_text(
            f"outposts:\n  - {{name: local, type: local, mode: process, fence: off,"
            f" max_workers: {LIVE + 10}, memory_floor: 0}}\n"
        )

    def argv(self, *words: str) -> list[str]:
        """Return the command line of a command here."""
        said = ["--config", str(self.folder / "outposts.yaml"), "--state", str(self.state)]
        return [sys.executable, "-m", "outpost_manager", *said, *words]

    def run(self, *words: str, text: str = "") -> str:
        """Run a command to its end."""
        done = subprocess.run(
            self.argv(*words), input=text, capture_output=True, text=True, check=False,
            env=os.environ | {"HOME": str(self.folder)}, timeout=_PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def serve(self) -> subprocess.Popen[bytes]:
        """Start the mayor, and wait until it runs."""
        log = (self.folder / "log").open("ab")
        size = log.tell()
        with log:
            mayor = subprocess.Popen(self.argv("serve"), stderr=log, stdin=subprocess.DEVNULL,
                                     env=os.environ | {"HOME": str(self.folder)})  # fmt: skip
        wait(lambda: b"the mayor runs" in (self.folder / "log").read_bytes()[size:])
        return mayor

    def states(self) -> dict[str, int]:
        """Return how many workers the ledger has in each state; asks no outpost."""
        ledger = Ledger(self.state)
        found: dict[str, int] = {}
        for worker in ledger.workers():
            found[worker.state.value] = found.get(worker.state.value, 0) + 1
        ledger.close()
        return found


def wait(true: Any) -> float:
    """Wait until something is so; return the seconds that took."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < _PATIENCE
        time.sleep(0.01)
    return time.monotonic() - begun


def cpu(pid: int) -> float:
    """Return the seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """Return the megabytes that a process has resident."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def live() -> tuple[float, float, float, float]:
    """Return share of a core and MB beside live workers, seconds to hear an end, and to restart."""
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name))
        mayor = place.serve()
        try:
            lines = [
                json.dumps({"issue": f"w-{n}", "no_rig": True, "command": ["sh", "-c", COMMAND]})
                for n in range(LIVE)
            ]
            place.run("spawn", "--from-file", "-", text="\n".join(lines))
            wait(lambda: place.states().get("working", 0) == LIVE)
            time.sleep(15.0)  # what the start has stirred up is over
            begun, used = time.monotonic(), cpu(mayor.pid)
            time.sleep(WATCHED)
            share = (cpu(mayor.pid) - used) / (time.monotonic() - begun)
            resident = memory(mayor.pid)
            go = Path(name) / "go"
            place.run("spawn", "e-1", "--no-rig", "--", "sh", "-c",
                      f"until [ -e {go} ]; do sleep 0.01; done")  # fmt: skip
            wait(lambda: place.states().get("working", 0) == LIVE + 1)
            go.touch()
            wait(lambda: place.states().get("done", 0) == 1)
            ledger = Ledger(place.state)
            (ended,) = ledger.workers(ids=["e-1.1"])
            told = [e for e in ledger.events("e-1.1") if e.data.get("state") == "done"]
            ledger.close()
            assert ended.result is not None
            assert ended.result.finished_at is not None
            heard = told[0].at - ended.result.finished_at
            mayor.send_signal(signal.SIGKILL)
            mayor.wait()
            begun = time.monotonic()
            mayor = place.serve()
            again = time.monotonic() - begun
            return share, resident, heard, again
        finally:
            mayor.terminate()
            mayor.wait(_PATIENCE)
            for first in range(
                0, LIVE, 20
            ):  # a stop of all at once takes longer than an answer may
                place.run("stop", "--grace", "0s", *(f"w-{n}" for n in range(first, first + 20)))
            wait(lambda: "working" not in place.run("workers"))


#: What a live and quiet worker does.
COMMAND: Final = "exec sleep 3600"


def known_again() -> float:
    """Return seconds until a new mayor has asked all outposts of 1,000 live workers again."""
    from benchmarks.status import fleet

    async def run(folder: Path, *, first: bool) -> float:
        async with fleet(folder, KNOWN // 100) as manager:
            if first:
                await manager.refresh()
                return 0.0
            begun = time.perf_counter()
            follower = asyncio.create_task(Follower(manager).run())
            while len(manager.fleet.built) < 100 or any(
                not any(call[0] == "outpost_list" for call in outpost.calls)  # type: ignore[attr-defined]
                for outpost in manager.fleet.built.values()
            ):
                await asyncio.sleep(0.001)
            took = time.perf_counter() - begun
            assert len(await manager.ledger.workers(active=True)) == KNOWN
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
            return took

    with tempfile.TemporaryDirectory() as name:
        asyncio.run(run(Path(name), first=True))
        return asyncio.run(run(Path(name), first=False))


def measure() -> list[Row]:
    """Measure all of it."""
    share, resident, heard, restart = live()
    again = known_again()
    return [
        Row(what=f"processor time of the mayor, {LIVE} live workers, quiet", ours=f"{share:.2%}",
            goal="≤ 1 %", met=share <= 0.01),
        Row(what="memory of it", ours=f"{resident:.0f} MB",
            goal="≤ 120 MB", met=resident <= 120),
        Row(what="it hears of a local worker's end", ours=ms(heard),
            goal="", met=None),
        Row(what=f"it runs again after SIGKILL, {LIVE} live workers", ours=ms(restart),
            goal="", met=None),
        Row(what=f"{KNOWN} live workers at 100 outposts are asked of again", ours=ms(again),
            goal="≤ 1 s", met=again <= 1.0),
    ]  # fmt: skip
