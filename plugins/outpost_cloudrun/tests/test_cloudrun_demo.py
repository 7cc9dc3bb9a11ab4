"""`outpost demo --cloudrun` runs the main job through all of it, and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from keeperkit import keepers, until
from test_emulator_admin import processes_of

from outpost_core import __version__

OUTPOST = [sys.executable, "-c", "from outpost_manager.cli import main; main()"]


@pytest.fixture
def own_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files with a short name (sockets), where all of a demo is."""
    with tempfile.TemporaryDirectory(prefix="op") as folder:
        for name in ("TMPDIR", "HOME", "XDG_RUNTIME_DIR"):
            monkeypatch.setenv(name, folder)
        yield Path(folder)


def left(own: Path) -> list[str]:
    """Processes that have anything to do with a demo in that folder."""
    return processes_of(own / "outpost-demo-") + [str(pid) for pid in keepers(str(own))]


def test_the_demo_does_the_main_job_and_leaves_nothing(own_tmp: Path) -> None:
    done = subprocess.run(
        [*OUTPOST, "demo", "--cloudrun"], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "without an account" in done.stderr
    assert "demo-1.1 done at cloudrun" in done.stdout
    assert '+print("Hello, world")' in done.stdout
    assert left(own_tmp) == []
    assert list(own_tmp.glob("outpost-demo-*")) == []


def test_a_demo_that_is_broken_off_leaves_nothing(own_tmp: Path) -> None:
    running = subprocess.Popen(
        [*OUTPOST, "demo", "--cloudrun"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert running.stderr is not None
    for line in running.stderr:
        if "starting at cloudrun" in line:
            break
    running.send_signal(signal.SIGINT)
    running.stderr.read()
    assert running.wait(60) == 130
    running.stderr.close()
    until(lambda: left(own_tmp) == [], "it was broken off")


def test_a_demo_that_is_killed_leaves_nothing(own_tmp: Path) -> None:
    running = subprocess.Popen(
        [*OUTPOST, "demo", "--cloudrun"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert running.stderr is not None
    for line in running.stderr:
        if "starting at cloudrun" in line:
            break
    until(lambda: keepers(str(own_tmp)), "it has one")
    running.kill()
    running.wait(60)
    running.stderr.close()
    until(lambda: not keepers(str(own_tmp)), "its keeper")
    until(lambda: not list(own_tmp.glob("outpost-demo-*")), "its folder")
    until(lambda: left(own_tmp) == [], "it was killed")
    waiting = ["pgrep", "-f", f"outpost_cloudrun.testing.afterwards {own_tmp}/"]
    until(lambda: subprocess.run(waiting, stdout=subprocess.DEVNULL).returncode, "it clears up")
    assert list(own_tmp.glob("outpost-demo-*")) == []


def test_what_is_missing_for_it_is_named(own_tmp: Path) -> None:
    hidden = own_tmp / "google"
    hidden.mkdir()
    (hidden / "__init__.py").write_text("raise ImportError('no google here')\n")
    env = {**os.environ, "PYTHONPATH": str(own_tmp)}
    done = subprocess.run(
        [*OUTPOST, "demo", "--cloudrun"], capture_output=True, text=True, timeout=60, env=env
    )
    assert done.returncode == 2
    assert "pip install './plugins/outpost_cloudrun[testing,server]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.containers
@pytest.mark.slow
def test_the_demo_in_real_containers(own_tmp: Path) -> None:
    from peers import containers as peer

    image = peer.image()
    with peer.containers() as boxes:
        env = {**os.environ, **boxes.env}
        words = [*OUTPOST, "demo", "--cloudrun-containers"]
        missing = subprocess.run(words, capture_output=True, text=True, timeout=100, env=env)
        assert missing.returncode == 2
        assert "outpost image build" in missing.stderr
        peer.podman(boxes.env, "tag", image.id, f"outpost-worker:{__version__}")
        done = subprocess.run(words, capture_output=True, text=True, timeout=250, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "containers are podman's" in done.stderr
        assert "demo-1.1 done at cloudrun" in done.stdout
        assert peer.podman(boxes.env, "ps", "--all", "--quiet").stdout == ""
    assert left(own_tmp) == []
