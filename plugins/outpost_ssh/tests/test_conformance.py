"""The SSH outpost keeps what every outpost must keep, with tmux over there and without."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sshmutants
from peers import sizes
from peers.sshd import Sshd, sshd

from outpost_local.options import Mode
from outpost_shared import faults
from outpost_ssh.options import SshOptions
from outpost_ssh.outpost import SshOutpost
from outpost_testing import OutpostSuite, Target
from outpost_testing.registry import all_checks, run_check


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """One host for all checks; each has a state of its own there."""
    with sshd(tmp_path_factory.mktemp("host")) as running:
        yield running


def make_target(server: Sshd, mode: Mode, state: Path, **more: object) -> Target:
    def restore() -> None:
        if server.pid is None:
            server.start()

    values = {
        "type": "ssh",
        "provider": "outpost_ssh.plugin",
        "options": SshOptions(
            host=server.host,
            port=server.port,
            user=server.user,
            ssh_key=server.key,
            host_key=server.host_key,
            config=Path(os.devnull),
            python=sys.executable,
            mode=mode,
            state_path=str(state / "outposts" / "conformance" / "far"),
        ),
        "state": state,
        "cut": server.kill,
        "restore": restore,
        # points of the far server's spawn kill that, not the controller: the near side repeats
        "fault_points": faults.NEAR + faults.FAR,
        **sizes.few(),
        **more,
    }
    return Target(**values)  # type: ignore[arg-type]


class TestTmux(OutpostSuite):
    @pytest.fixture
    def target(self, server: Sshd, tmp_path: Path) -> Target:
        return make_target(server, Mode.TMUX, tmp_path)


class TestProcess(OutpostSuite):
    """What depends on how a supervisor is started over there and a terminal is made."""

    groups = ("spawn", "agent", "stop", "crash")

    @pytest.fixture
    def target(self, server: Sshd, tmp_path: Path) -> Target:
        return make_target(server, Mode.PROCESS, tmp_path)


@pytest.mark.parametrize("mode", [Mode.TMUX, Mode.PROCESS])
def test_no_check_is_passed_over_but_those_of_a_price_and_of_changes(
    server: Sshd, tmp_path: Path, mode: Mode
) -> None:
    target = make_target(server, mode, tmp_path)
    passed_over = {one.id for one in all_checks() if one.needs - target.capabilities}
    assert passed_over == {"list.price_is_pure"}


@pytest.mark.parametrize(
    ("outpost", "caught_by", "saying"),
    sshmutants.MUTANTS,
    ids=[outpost.__name__ for outpost, _, _ in sshmutants.MUTANTS],
)
def test_a_broken_near_side_is_caught(
    server: Sshd,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    outpost: type[SshOutpost],
    caught_by: str,
    saying: str,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for the kit's other programs
    (check,) = (check for check in all_checks() if check.id == caught_by)
    target = make_target(server, Mode.TMUX, tmp_path, type=outpost.type, provider="sshmutants")
    result = run_check(check, target)
    assert result.status == "failed", result
    assert saying in result.detail
