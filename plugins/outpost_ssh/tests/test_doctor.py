"""`outpost doctor` of a host: what is wrong here, on the line and there, each with its hint."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from peers.sshd import Sshd, sshd

from outpost_core.backend import BuildContext
from outpost_core.types import Finding
from outpost_ssh.options import SshOptions
from outpost_ssh.outpost import SshOutpost


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sshd]:
    with sshd(tmp_path / "sshd") as running:
        yield running


def findings(
    server: Sshd, folder: Path, *, skew: float = 0.0, rig: str | None = None, **more: Any
) -> dict[str, Finding]:
    async def work() -> Sequence[Finding]:
        options: dict[str, Any] = {
            "host": server.host,
            "port": server.port,
            "user": server.user,
            "ssh_key": server.key,
            "host_key": server.host_key,
            **more,
        }
        outpost = SshOutpost("vm1", SshOptions(**options), BuildContext(state_dir=folder / "near"))
        try:
            if skew:
                client = await outpost.client()
                client.hello = replace(client.hello, skew=skew)
            return await outpost.outpost_doctor(rig)
        finally:
            await outpost.outpost_close()

    return {finding.check: finding for finding in asyncio.run(work())}


def test_a_good_host_is_named_with_what_it_is_trusted_by(server: Sshd, tmp_path: Path) -> None:
    found = findings(server, tmp_path)
    assert found["line"].detail.endswith("by the pinned host key")
    bad = {check for check, finding in found.items() if finding.ok is False}
    assert not bad
    assert {"key", "latency", "clock", "package", "python", "git", "disk", "memory"} <= {*found}


def test_an_agent_that_lacks_is_installed_from_here(server: Sshd, tmp_path: Path) -> None:
    (server.home / ".profile").write_text("PATH=/usr/bin:/bin\n")
    server.env["PATH"] = "/usr/bin:/bin"
    found = findings(server, tmp_path)
    lacking = [f for check, f in found.items() if check.startswith("agent ") and not f.ok]
    for finding in lacking:
        assert finding.hint == f"outpost bootstrap vm1 --agent {finding.check.split()[1]}"
    assert lacking


@pytest.mark.parametrize(
    ("skew", "ok", "said"),
    [(1.0, True, "as here"), (30.0, None, "30 s ahead"), (-86400.0, False, "86400 s behind")],
)
def test_a_clock_that_is_off_is_said_by_how_much(
    server: Sshd, tmp_path: Path, skew: float, ok: bool | None, said: str
) -> None:
    clock = findings(server, tmp_path, skew=skew)["clock"]
    assert clock.ok is ok
    assert clock.detail.startswith(said)
    assert bool(clock.hint) is (ok is not True)


def test_a_key_that_others_can_read_is_named(server: Sshd, tmp_path: Path) -> None:
    server.key.chmod(0o644)
    found = findings(server, tmp_path)
    assert found["key"].hint == f"chmod 600 {server.key}"
    assert found["line"].ok is False


def test_a_key_that_is_not_there_is_named(server: Sshd, tmp_path: Path) -> None:
    found = findings(server, tmp_path, ssh_key=tmp_path / "none")
    assert "is not there" in found["key"].detail
    assert found["line"].ok is False


def test_a_host_that_is_down_is_said_once(server: Sshd, tmp_path: Path) -> None:
    server.stop()
    found = findings(server, tmp_path)
    assert {*found} == {"key", "line"}
    assert "refused" in found["line"].detail


def test_a_repository_of_this_machine_is_pushed_from_here(server: Sshd, tmp_path: Path) -> None:
    assert "pushed from here" in findings(server, tmp_path, rig="/some/where")["rig"].detail
