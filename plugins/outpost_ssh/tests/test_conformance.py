"""The SSH outpost keeps what every outpost must keep, with tmux over there and without."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from outpost_core import faults
from outpost_core.testing import OutpostSuite, Target
from outpost_core.testing.sshd import Sshd, sshd
from outpost_local.options import Mode
from outpost_ssh.options import SshOptions


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
            state_path=state / "outposts" / "conformance" / "far",
        ),
        "state": state,
        "cut": server.kill,
        "restore": restore,
        # points of the far server's spawn kill that, not the controller: the near side repeats
        "fault_points": faults.NEAR + faults.FAR,
        **more,
    }
    return Target(**values)  # type: ignore[arg-type]


class TestTmux(OutpostSuite):
    @pytest.fixture
    def target(self, server: Sshd, tmp_path: Path) -> Target:
        return make_target(server, Mode.TMUX, tmp_path)


class TestProcess(OutpostSuite):
    @pytest.fixture
    def target(self, server: Sshd, tmp_path: Path) -> Target:
        return make_target(server, Mode.PROCESS, tmp_path)
