"""State that others could have written is refused; what is made is private under every umask."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from outpost_core.errors import UnreachableError
from outpost_testing.users import ME, OTHER, give

MAIN = "from outpost_manager.cli import main; main()"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make files of others")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(outpost: Any) -> Run:
    """The real program, on the local outpost with detached processes."""
    outpost.config.write_text("outposts:\n  - {name: local, type: local, mode: process}\n")

    def call(*words: str, umask: int = 0o022) -> subprocess.CompletedProcess[str]:
        options = ["--config", str(outpost.config), "--state", str(outpost.state)]
        return subprocess.run(
            [sys.executable, "-c", MAIN, *options, *words], env={**os.environ, "NO_COLOR": "1"},
            capture_output=True, text=True, timeout=120, check=False, cwd=outpost.folder,
            umask=umask,
        )  # fmt: skip

    return call


def spawn(run: Run, issue: str, script: str = "true", umask: int = 0o022) -> None:
    done = run(
        "spawn", issue, "--no-rig", "--title", "t", "--wait", "--", "sh", "-c", script, umask=umask
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_all_that_a_command_makes_is_private(outpost: Any, run: Run, umask: int) -> None:
    outpost.state = outpost.folder / "a" / "b" / "state"
    spawn(run, "x-1", "echo x >y; mkdir z", umask=umask)
    spawn(run, "x-2", umask=umask)
    for words in (
        ("clean", "x-2"),
        ("mail", "send", "local:x", "-s", "hi"),
        ("doctor", "--no-rig"),
    ):
        run(*words, umask=umask)
    seen = 0
    for path in (outpost.folder / "a", *(outpost.folder / "a").rglob("*")):
        if "work" in path.parts[:-1] or path.is_symlink():
            continue  # what is in it is the agent's
        seen += 1
        assert path.stat().st_mode & 0o077 == 0, path
    assert seen > 15


@needs_root
def test_a_state_folder_of_another_user_is_refused_and_nothing_in_it_is_run(
    outpost: Any, run: Run
) -> None:
    spawn(run, "x-1")
    give(outpost.state, OTHER)
    before = sorted(outpost.state.rglob("*"))
    for words in (("status",), ("workers",), ("logs", "x-1"), ("clean",)):
        done = run(*words)
        assert done.returncode != 0, words
        assert f"the state folder {outpost.state} is refused: it belongs to the user {OTHER}" in (
            done.stderr
        )
        assert "→ be that user, or let $OUTPOST_STATE" in done.stderr
        assert "Traceback" not in done.stderr
    said = run("--json", "workers")
    assert json.loads(said.stdout)["error"]["type"] == "LedgerError"
    assert "refused" in run("doctor", "--no-rig").stdout
    assert sorted(outpost.state.rglob("*")) == before


@needs_root
def test_what_others_have_planted_is_not_recovered(outpost: Any, run: Run) -> None:
    """A worker whose supervisor is gone, with an order of somebody else."""
    spawn(run, "x-1")
    workers = outpost.state / "outposts" / "local" / "workers"
    for folder in (outpost.state, outpost.state / "outposts", workers.parent, workers):
        folder.chmod(0o777)
    planted = workers / "x-2.1"
    shutil.copytree(workers / "x-1.1", planted)
    (planted / "result.json").unlink()
    give(planted, OTHER)
    before = sorted(planted.rglob("*"))
    done = run("status")
    assert done.returncode != 0
    assert f"x-2.1 belongs to the user {OTHER}" in done.stderr
    assert "chmod -R go-w" in done.stderr
    assert sorted(planted.rglob("*")) == before
    shutil.rmtree(planted)
    done = run("status")
    assert done.returncode == 0, done.stderr
    assert (
        f"note: everybody could write {outpost.state}; nothing of others was in it" in done.stderr
    )
    assert "could write" not in run("status").stderr


@needs_root
def test_only_the_outpost_whose_state_is_refused_is_refused(outpost: Any, run: Run) -> None:
    theirs = outpost.folder / "theirs"
    theirs.mkdir()
    give(theirs, OTHER)
    outpost.config.write_text(
        "outposts:\n  - {name: local, type: local, mode: process}\n"
        f"  - {{name: bad, type: local, mode: process, state_path: {theirs}}}\n"
    )
    done = run("spawn", "x-1", "--no-rig", "--title", "t", "--on", "bad", "--", "true")
    assert done.returncode == 3, done.stderr
    assert f"it belongs to the user {OTHER}" in done.stderr
    status = run("status")
    assert f"the state folder {theirs} of bad is refused" in status.stdout + status.stderr
    assert [*theirs.iterdir()] == []
    spawn(run, "x-2")


@needs_root
def test_the_far_side_refuses_it_as_well(tmp_path: Path) -> None:
    serve = pytest.importorskip("outpost_ssh.far.serve")
    theirs = tmp_path / "theirs"
    (theirs / "workers").mkdir(parents=True)
    give(theirs, OTHER)
    far = serve.build("far", {"state_path": str(theirs), "mode": "process"})
    for ask in (far.outpost_list, far.outpost_ping):
        with pytest.raises(UnreachableError, match=f"it belongs to the user {OTHER}"):
            asyncio.run(ask())


@needs_root
def test_a_folder_above_that_another_user_owns_is_refused(outpost: Any, run: Run) -> None:
    above = outpost.folder / "above"
    above.mkdir()
    give(above, ME)
    outpost.state = above / "state"
    done = run("workers")
    assert done.returncode == 1
    assert f"is refused: {above}: it belongs to the user {ME}" in done.stderr
    assert [*above.iterdir()] == []
