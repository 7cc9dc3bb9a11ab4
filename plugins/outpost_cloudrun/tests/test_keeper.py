"""The keeper of an outpost: started when it is needed, killed without harm, gone when it is not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from farkit import Far, far, order
from keeperkit import PATIENCE, Desk, desk_at, options, until

from outpost_cloudrun.keeper import find, place
from outpost_cloudrun.keeper.held import Held
from outpost_cloudrun.keeper.site import Site
from outpost_cloudrun.options import Auth, CloudRunOptions, KeepWarm
from outpost_cloudrun.outpost import CloudRunOutpost
from outpost_core import wire
from outpost_core.backend import BuildContext
from outpost_core.errors import ConflictError, SpawnRefusedError, UnreachableError
from outpost_core.types import Secrets, State
from outpost_shared import faults

#: Counts its runs, prints numbers for a while, and knows a secret.
_NUMBERS = 'echo run >>"$RUNS"; for i in $(seq 1 40); do echo "number $i"; sleep 0.05; done'
_NUMBERED = "".join(f"number {i}\n" for i in range(1, 41)).encode()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Far]:
    with far(tmp_path / "far") as running:
        yield running


@pytest.fixture
def desk(server: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    with desk_at(server, tmp_path, monkeypatch) as made:
        yield made


def numbers(tmp_path: Path, issue: str = "gt-1", script: str = _NUMBERS, **more: Any) -> Any:
    return order(issue, script, env={"RUNS": str(tmp_path / "runs")}, **more)


def runs(tmp_path: Path) -> int:
    path = tmp_path / "runs"
    return path.read_text().count("run") if path.exists() else 0


def test_an_outpost_that_was_never_used_has_no_process(desk: Desk) -> None:
    assert desk.asked(lambda o: o.outpost_list()) == []
    assert desk.asked(lambda o: o.outpost_ping()).ok
    assert desk.keepers() == []
    assert not desk.context.state_dir.exists()


def test_the_commands_that_only_look_import_nothing_heavy(desk: Desk) -> None:
    desk.spawn(order("gt-1", "echo hello"))
    assert desk.result("gt-1.1").state is State.DONE
    program = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from outpost_core.backend import BuildContext\n"
        "from outpost_cloudrun.outpost import CloudRunOutpost\n"
        "from outpost_cloudrun.options import CloudRunOptions\n"
        "from outpost_core.types import Agent, Issue, Order\n"
        "options = CloudRunOptions(url=sys.argv[1], auth='none', warm_for=0.0)\n"
        "async def work():\n"
        "    o = CloudRunOutpost('burst', options, BuildContext(state_dir=Path(sys.argv[2])))\n"
        "    await o.outpost_list(); await o.outpost_ping()\n"
        "    o.outpost_price(order=Order(issue=Issue(id='a'), agent=Agent(argv=('a',))))\n"
        "    print([piece async for piece in o.outpost_logs(worker='gt-1.1', offset=0,"
        " follow=False)])\n"
        "    await o.outpost_close()\n"
        "asyncio.run(work())\n"
        "print(sorted({'httpx', 'h2', 'google', 'granian'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, desk.url, str(desk.context.state_dir)],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["[b'hello\\n']", "[]"], done.stderr


def test_a_worker_is_held_when_its_command_has_ended(desk: Desk, tmp_path: Path) -> None:
    status = desk.spawn(numbers(tmp_path))
    assert not status.state.terminal
    (pid,) = desk.keepers()
    assert desk.log("gt-1.1", follow=True) == _NUMBERED
    result = desk.result("gt-1.1")
    assert (result.state, result.exit_code) == (State.DONE, 0)
    assert result.log_bytes == len(_NUMBERED)
    assert result.cost_usd == 0.0, "a host of one's own has no price"
    assert desk.keepers() == [pid], "one is enough for all commands"
    assert runs(tmp_path) == 1
    assert desk.asked(lambda o: o.outpost_clean(worker="gt-1.1", force=False)).removed
    assert desk.status("gt-1.1") is None


def test_nobody_else_can_come_to_it_or_read_what_it_knows(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_TOKEN", "canary-3b1d")
    desk.spawn(order("gt-1", "sleep 30", secrets=Secrets({"KEY": "canary-77aa"})))
    (pid,) = desk.keepers()
    path = place.socket_of(desk.context)
    assert path is not None
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    for name in ("environ", "cmdline"):
        assert b"canary" not in Path(f"/proc/{pid}/{name}").read_bytes()
    for found in desk.context.state_dir.rglob("*"):
        assert found.stat().st_mode & 0o077 == 0, found
        assert not found.is_file() or b"canary" not in found.read_bytes(), found


def test_killed_at_any_moment_the_next_command_finds_all_of_it(desk: Desk, tmp_path: Path) -> None:
    desk.spawn(numbers(tmp_path))
    for _ in range(4):
        time.sleep(0.3)
        desk.kill()
        status = desk.status("gt-1.1")
        assert status is not None
        if status.result is None:
            until(lambda: desk.keepers() or desk.status("gt-1.1").result, "it is followed again")
    assert desk.log("gt-1.1", follow=True) == _NUMBERED
    assert desk.result("gt-1.1").state is State.DONE
    assert runs(tmp_path) == 1


_COMMAND = """
import asyncio, json, sys
from pathlib import Path
from outpost_core import wire
from outpost_core.backend import BuildContext
from outpost_core.types import Order, Secrets
from dataclasses import replace
from outpost_cloudrun.options import CloudRunOptions
from outpost_cloudrun.outpost import CloudRunOutpost
order = wire.from_json(Order, json.loads(sys.argv[3]))
order = replace(order, secrets=Secrets({name: "canary" for name in order.secrets}))
async def work():
    options = CloudRunOptions(url=sys.argv[1], auth='none', warm_for=0.0)
    o = CloudRunOutpost('burst', options, BuildContext(state_dir=Path(sys.argv[2])))
    await o.outpost_spawn(order=order)
    if len(sys.argv) > 4:
        await o.outpost_stop(worker=order.worker, grace=1.0)
    while not (await o.outpost_list())[0].result: await asyncio.sleep(0.1)
    await o.outpost_close()
asyncio.run(work())
"""


@pytest.mark.parametrize(
    "point",
    [p for p in faults.KEEPER if p[7:] not in ("rescued", "discarded", "recalled")],
)
def test_killed_at_a_write_it_is_one_worker(desk: Desk, tmp_path: Path, point: str) -> None:
    stops = point == "keeper.stop_noted"
    script = "echo run >>$RUNS; sleep 60" if stops else _NUMBERS
    one = numbers(tmp_path, script=script, secrets=Secrets({"KEY": "canary"}))
    argv = [desk.url, str(desk.context.state_dir), json.dumps(wire.to_json(one))]
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, *argv, *(["stop"] if stops else [])],
        env={**os.environ, "OUTPOST_FAULT": point}, capture_output=True, text=True,
        timeout=PATIENCE * 2, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = desk.result(one.worker)
    assert result.state is (State.STOPPED if stops else State.DONE)
    assert runs(tmp_path) == 1
    if not stops:
        assert desk.log(one.worker) == _NUMBERED
    kept = b"".join(p.read_bytes() for p in desk.context.state_dir.rglob("*") if p.is_file())
    assert b"canary" not in kept


def test_two_that_are_started_at_once_are_one(desk: Desk) -> None:
    threads = [
        threading.Thread(target=desk.spawn, args=(order(f"gt-{n}", "sleep 30"),)) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(desk.keepers()) == 1, "one is enough")
    found = desk.asked(lambda o: o.outpost_list())
    assert sorted(one.id for one in found) == [f"gt-{n}.1" for n in range(4)]


def test_it_ends_when_nothing_runs_and_nobody_comes(desk: Desk) -> None:
    desk.spawn(order("gt-1", "sleep 8"))
    (pid,) = desk.keepers()
    time.sleep(6.5)
    assert desk.keepers() == [pid], "a worker runs"
    until(lambda: not find.is_kept(desk.context), "it stays")
    path = place.socket_of(desk.context)
    assert path is not None
    assert not path.exists()
    status = desk.status("gt-1.1")
    assert status is not None
    assert status.state is State.DONE
    assert desk.keepers() == [], "nobody is needed to say that"


def test_other_options_have_another_keeper_and_nothing_is_lost(desk: Desk, tmp_path: Path) -> None:
    desk.spawn(numbers(tmp_path))
    (first,) = desk.keepers()
    desk.asked(lambda o: o.outpost_list(), cpu=1.0)
    until(lambda: first not in desk.keepers(), "it makes way")
    (second,) = desk.keepers()
    assert second != first
    desk.more["cpu"] = 1.0
    assert desk.log("gt-1.1", follow=True) == _NUMBERED
    assert desk.result("gt-1.1").state is State.DONE
    assert runs(tmp_path) == 1


def test_a_program_with_older_options_is_served_by_the_newer_keeper(desk: Desk) -> None:
    """Else `outpost logs -f` and the next command would have it replaced in turns."""

    async def both(old: CloudRunOutpost) -> int:
        await old.outpost_spawn(order=order("gt-1", "sleep 30"))
        new = desk.outpost(cpu=1.0)
        await new.outpost_list()
        (pid,) = desk.keepers()
        for one in (old, new, old, new):
            assert len(await one.outpost_list()) == 1
            assert desk.keepers() == [pid]
        await new.outpost_close()
        return pid

    assert desk.asked(both)


def test_a_term_ends_it_and_workers_keep_running(desk: Desk, tmp_path: Path) -> None:
    desk.spawn(numbers(tmp_path))
    for pid in desk.keepers():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    until(lambda: not desk.keepers(), "it stays")
    assert desk.log("gt-1.1", follow=True) == _NUMBERED


def test_a_socket_that_was_tidied_away_is_made_again(desk: Desk) -> None:
    desk.spawn(order("gt-1", "sleep 30"))
    pids = desk.keepers()
    path = place.socket_of(desk.context)
    assert path is not None
    path.unlink()
    assert desk.status("gt-1.1") is not None
    assert desk.keepers() == pids


def test_one_whose_state_folder_is_gone_makes_way(desk: Desk) -> None:
    """It would write nowhere, and take the socket from the next one again and again."""
    desk.spawn(order("gt-1", "sleep 30"))
    (first,) = desk.keepers()
    shutil.rmtree(desk.context.state_dir)
    until(lambda: desk.keepers() == [], "it ends")
    assert not desk.context.state_dir.exists(), "and leaves nothing there"
    assert desk.spawn(order("gt-2", "sleep 30")).id == "gt-2.1"
    (second,) = desk.keepers()
    assert second != first
    desk.context.state_dir.rename(desk.context.state_dir.with_name("away"))
    desk.spawn(order("gt-3", "sleep 30"))
    until(lambda: second not in desk.keepers(), "it ends, though another one is there already")
    (third,) = desk.keepers()
    found = desk.asked(lambda o: o.outpost_list())
    assert [one.id for one in found] == ["gt-3.1"]
    assert desk.keepers() == [third]


def test_the_same_id_with_another_order_is_a_conflict(desk: Desk) -> None:
    desk.spawn(order("gt-1", "sleep 30"))
    desk.spawn(order("gt-1", "sleep 30"))
    with pytest.raises(ConflictError):
        desk.spawn(order("gt-1", "sleep 31"))


def test_a_stop_ends_it(desk: Desk) -> None:
    desk.spawn(order("gt-1", "trap 'exit 3' TERM; sleep 60 & wait"))
    desk.asked(lambda o: o.outpost_stop(worker="gt-1.1", grace=5.0))
    desk.asked(lambda o: o.outpost_stop(worker="gt-9.1", grace=5.0))
    assert desk.result("gt-1.1").state is State.STOPPED
    desk.asked(lambda o: o.outpost_stop(worker="gt-1.1", grace=5.0))


@pytest.mark.parametrize("rig", ["/srv/rig", "file:///srv/rig", "./rig"])
def test_a_rig_of_this_machine_is_refused(desk: Desk, rig: str) -> None:
    with pytest.raises(SpawnRefusedError, match="path of this machine"):
        desk.spawn(order("gt-1", "true", rig))
    assert desk.asked(lambda o: o.outpost_list()) == []


def test_an_order_that_may_take_too_long_is_refused(desk: Desk) -> None:
    with pytest.raises(SpawnRefusedError, match="holds a worker for 1d"):
        desk.spawn(order("gt-1", "true", timeout=2 * 86_400.0))


def test_a_refusal_that_nobody_waited_for_is_told_to_who_asks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command was gone; the values of secrets are not kept for what will not be."""
    held = Held("burst", options("http://127.0.0.1:1", resume=True), _context(tmp_path))
    one = order("gt-1", "true", secrets=Secrets({"KEY": "canary-51ab"}))

    class Refuses:
        async def start(self, record: object, secrets: object) -> None:
            await asyncio.sleep(0.2)
            raise SpawnRefusedError("no", hint="do that")

        async def aclose(self) -> None:
            pass

    held._courses[Site.of(held.options)] = Refuses()  # type: ignore[assignment]

    async def work() -> None:
        spawn = asyncio.create_task(held.outpost_spawn(one))
        await asyncio.sleep(0.05)
        spawn.cancel()
        while held.busy:
            await asyncio.sleep(0.02)
        (status,) = await held.outpost_list()
        assert status.state is State.QUEUED, "whoever ordered it repeats the spawn"
        for path in tmp_path.rglob("*"):
            assert not path.is_file() or b"canary" not in path.read_bytes()
        with pytest.raises(SpawnRefusedError, match="no"):
            await held.outpost_spawn(one)
        assert await held.outpost_list() == []
        await held.aclose()

    asyncio.run(work())


def _context(folder: Path) -> BuildContext:
    return BuildContext(state_dir=folder / "state" / "burst")


def test_a_service_that_is_not_there_was_certainly_not_asked(desk: Desk, server: Far) -> None:
    server.kill()
    with pytest.raises(UnreachableError) as raised:
        desk.spawn(order("gt-1", "true"))
    assert raised.value.sent is False
    assert desk.asked(lambda o: o.outpost_list()) == [], "another outpost may have it"


def test_while_nobody_can_be_heard_the_outpost_is_unreachable(
    desk: Desk, server: Far, tmp_path: Path
) -> None:
    desk.spawn(numbers(tmp_path))
    server.kill()
    with pytest.raises(UnreachableError):
        desk.asked(lambda o: o.outpost_list())
    assert not desk.asked(lambda o: o.outpost_ping()).ok
    with_it = Far(tmp_path / "far", server.port)
    try:
        with_it.wait()
        assert desk.log("gt-1.1", follow=True) == _NUMBERED
        assert desk.result("gt-1.1").state is State.DONE
    finally:
        with_it.kill()
    assert runs(tmp_path) == 1


def test_what_it_is_told_is_understood(tmp_path: Path, desk: Desk) -> None:
    more = CloudRunOptions(
        url="https://x.example", cpu=1.0, git_credentials=("a", "b"), env={"A": "b"},
        auth=Auth.SERVICE_ACCOUNT, key_file=tmp_path / "key", memory=1 << 30,
        keep_warm=KeepWarm.STREAM,
    )  # fmt: skip
    said = json.loads(json.dumps(place.describe("burst", more, desk.context, 5.0)))
    name, understood, context = place.understand(said)
    assert (name, understood) == ("burst", more)
    assert context.state_dir == desk.context.state_dir
