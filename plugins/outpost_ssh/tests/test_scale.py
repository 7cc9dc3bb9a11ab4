"""A host whose machine is started and stopped: a real sshd, by commands of the user."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostkit import home as home  # noqa: PLC0414 - a fixture
from machinekit import Machine

from outpost_core.backend import BuildContext
from outpost_core.errors import SpawnRefusedError, UnreachableError, UsageError
from outpost_ssh.options import SshOptions
from outpost_ssh.outpost import SshOutpost


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "far")
    try:
        yield made
    finally:
        made.off()


def with_outpost(
    machine: Machine, work: Callable[[SshOutpost], Awaitable[None]], folder: Path, **more: Any
) -> None:
    server = machine.sshd
    values: dict[str, Any] = {
        "host": server.host, "port": server.port, "user": server.user, "ssh_key": server.key,
        "known_hosts": server.known_hosts, "config": Path("/dev/null"), "keep": 0.0,
        "start_command": tuple(machine.start_command),
        "stop_command": tuple(machine.stop_command), "boot_patience": 60.0,
    }  # fmt: skip

    async def run() -> None:
        outpost = SshOutpost("vm", SshOptions(**(values | more)), BuildContext(state_dir=folder))
        try:
            await work(outpost)
        finally:
            await outpost.outpost_close()

    asyncio.run(run())


@pytest.mark.parametrize("state", [True, False])
def test_its_machine_is_started_and_stopped_and_looked_at(
    machine: Machine, tmp_path: Path, state: bool
) -> None:
    async def work(outpost: SshOutpost) -> None:
        assert "scale" in outpost.capabilities
        assert (await outpost.outpost_scale(None)).running == 0
        assert machine.commands == []
        told = await outpost.outpost_scale(1)
        assert (told.running, told.limit, told.always) == (1, 1, False)
        assert await outpost.outpost_list() == []
        assert (await outpost.outpost_scale(1)).running == 1  # again: nothing changes
        assert (await outpost.outpost_scale(0)).running == 0
        assert not machine.runs
        assert (await outpost.outpost_scale(0)).running == 0
        assert (await outpost.outpost_scale(1)).running == 1
        assert await outpost.outpost_list() == []  # over a connection of its own

    more = {"state_command": tuple(machine.state_command)} if state else {}
    with_outpost(machine, work, tmp_path / "state", **more)


def test_a_command_that_fails_or_is_not_there_is_told(machine: Machine, tmp_path: Path) -> None:
    async def fails(outpost: SshOutpost) -> None:
        with pytest.raises(SpawnRefusedError, match=r"exit code 3.*no quota \\x1b") as caught:
            await outpost.outpost_scale(1)
        assert "\x1b" not in str(caught.value)

    async def missing(outpost: SshOutpost) -> None:
        with pytest.raises(SpawnRefusedError, match="/no/such: No such file"):
            await outpost.outpost_scale(1)

    told = ("/bin/sh", "-c", "printf 'no quota \\033[31m' >&2; exit 3")
    with_outpost(machine, fails, tmp_path / "state", start_command=told)
    with_outpost(machine, missing, tmp_path / "state", start_command=("/no/such",))


def test_a_command_that_hangs_is_ended_with_all_that_it_started(
    machine: Machine, tmp_path: Path
) -> None:
    mark = tmp_path / "pid"

    async def work(outpost: SshOutpost) -> None:
        with pytest.raises(UnreachableError, match="did not end within 1s"):
            await outpost.outpost_scale(1)

    argv = ("/bin/sh", "-c", f"sleep 600 & echo $! > {mark}; wait")
    with_outpost(machine, work, tmp_path / "state", start_command=argv, boot_patience=1.0)
    child = Path(f"/proc/{mark.read_text().strip()}/stat")
    end = time.monotonic() + 30
    while child.exists() and child.read_text().split(")")[1].split()[0] != "Z":
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_command_that_lies_is_found_out(machine: Machine, tmp_path: Path) -> None:
    async def starts(outpost: SshOutpost) -> None:
        with pytest.raises(UnreachableError, match="does not answer over SSH 1s after"):
            await outpost.outpost_scale(1)

    with_outpost(machine, starts, tmp_path / "a", start_command=("true",), boot_patience=1.0)

    async def stops(outpost: SshOutpost) -> None:
        await outpost.outpost_scale(1)
        with pytest.raises(UnreachableError, match="is still up"):
            await outpost.outpost_scale(0)

    with_outpost(
        machine, stops, tmp_path / "b", stop_command=("true",), boot_patience=3.0,
        state_command=tuple(machine.state_command),
    )  # fmt: skip


def test_what_a_command_says_is_no_end_of_memory(machine: Machine, tmp_path: Path) -> None:
    async def work(outpost: SshOutpost) -> None:
        with pytest.raises(SpawnRefusedError) as caught:
            await outpost.outpost_scale(1)
        assert len(str(caught.value)) < 2000

    loud = (sys.executable, "-c", "import sys; sys.stdout.write('x' * 50_000_000); sys.exit(1)")
    with_outpost(machine, work, tmp_path / "state", start_command=loud)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [({"start_command": ("a",)}, "start_command needs its counterpart"),
     ({"stop_command": ("a",)}, "stop_command needs its counterpart"),
     ({"state_command": ("a",)}, "state_command needs its counterpart"),
     ({"start_command": ("",), "stop_command": ("a",)}, "start_command has no program")],
)  # fmt: skip
def test_half_of_it_is_refused(given: dict[str, Any], wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        SshOptions(host="vm", **given)


def test_without_commands_it_is_not_scaled(tmp_path: Path) -> None:
    outpost = SshOutpost("vm", SshOptions(host="vm"), BuildContext(state_dir=tmp_path))
    assert "scale" not in outpost.capabilities
