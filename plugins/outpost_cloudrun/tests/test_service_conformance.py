"""The Cloud Run outpost in mode service keeps what every outpost must keep.

Its container's program is a real one, a process of this machine on loopback: so the kit sees the
workers' files and processes, and cuts the line by killing the program, which its workers survive
as they survive a front that is gone.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from farkit import Far, end_workers
from keeperkit import options, runtime
from peers import sizes

from outpost_testing import OutpostSuite, Target
from outpost_testing.registry import all_checks


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    program = Program(tmp_path_factory.mktemp("far"))
    try:
        yield program
    finally:
        program.cut()
        end_workers(program.folder / "root")


class Program:
    """The container's program, which can be gone for a while."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.far = Far(folder).wait()

    def cut(self) -> None:
        self.far.kill(signal.SIGKILL)

    def restore(self) -> None:
        if self.far.process.poll() is not None:
            self.far = Far(self.folder, self.far.port).wait()


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with runtime(monkeypatch) as run:
        yield run


def make_target(program: Program, state: Path) -> Target:
    return Target(
        type="cloudrun",
        provider="outpost_cloudrun.plugin",
        options=options(program.far.url),
        state=state,
        cut=program.cut,
        restore=program.restore,
        **sizes.few(),
    )


class TestService(OutpostSuite):
    @pytest.fixture
    def target(self, server: Program, kept: str, tmp_path: Path) -> Target:
        server.restore()
        return make_target(server, tmp_path)


def test_only_what_a_container_cannot_have_is_passed_over(server: Program, tmp_path: Path) -> None:
    server.restore()
    target = make_target(server, tmp_path)
    lacking = {what for one in all_checks() for what in one.needs - target.capabilities}
    assert lacking == {"interactive", "nudge", "peek", "mail", "inbox", "local_rig"}
