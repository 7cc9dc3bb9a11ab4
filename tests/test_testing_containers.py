"""The podman of the tests: nothing of it stays, however the test program ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from peers.containers import PATIENCE, base, containers, image

pytestmark = pytest.mark.containers

SCRIPT = """
import sys, time
from peers.containers import containers, image
with containers() as made:
    one = made.start(image().id, "sleep", "1000", entrypoint="tini")
    print(one.state()["Pid"], one.state()["ConmonPid"], made.env["CONTAINERS_CONF"], flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_when_the_test_program_is_ended(number: signal.Signals) -> None:
    image()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    pid, conmon, conf = process.stdout.readline().split()
    assert Path(f"/proc/{pid}").exists()
    os.killpg(process.pid, number)
    process.wait()
    process.stdout.close()
    folder = Path(conf).parent
    gone = (Path(f"/proc/{pid}"), Path(f"/proc/{conmon}"), folder)
    deadline = time.monotonic() + PATIENCE
    while left := [path for path in gone if path.exists()]:
        told = [path.read_text() for one in left for path in one.glob("cmdline")]
        assert time.monotonic() < deadline, (left, told, [*folder.rglob("*")][:50])
        time.sleep(0.05)
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()


def test_an_image_is_built_once_a_state_of_the_code() -> None:
    first, second = image(), image()
    assert second.id.removeprefix("sha256:") == first.id.removeprefix("sha256:")
    assert second.seconds == 0.0


def test_two_have_nothing_to_do_with_each_other() -> None:
    one = image()
    with containers() as here, containers() as there:
        made = here.start(one.id, "sleep", "1000", entrypoint="tini")
        assert there.env != here.env != base()
        listed = subprocess.run(
            ["podman", "ps", "--all", "--quiet"], env={**os.environ, **there.env},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert listed.stdout == ""
        assert made.state()["Status"] == "running"
