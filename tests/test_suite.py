"""How the suite is run: what cannot run is left out or fails, and the dearest comes first."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = """
import pytest
from peers import MissingError

@pytest.fixture
def machine():
    raise MissingError("no machine here")

def test_of_a_machine(machine):
    pass

def test_of_a_tool():
    raise MissingError("no tool here")

@pytest.mark.skipif(True, reason="needs root")
def test_of_root():
    pass

def test_of_a_backend():
    pytest.skip("not declared: attach")

def test_that_is_wrong():
    assert False, "as ever"
"""


def run(folder: Path, *words: str, **env: str) -> str:
    """Run pytest on a folder, with what holds for our own tests."""
    shutil.copy(ROOT / "conftest.py", folder)
    kept = {k: v for k, v in os.environ.items() if k not in ("CI", "OUTPOST_TEST_ALL")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "-c", os.devnull, f"--rootdir={folder}",
         "-p", "no:cacheprovider", *words, str(folder)],
        cwd=folder, env={**kept, "PYTHONPATH": str(ROOT / "tests"), **env},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_what_cannot_run_is_left_out_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    said = run(tmp_path)
    assert "1 failed, 4 skipped" in said, said
    for reason in ("no machine here", "no tool here", "needs root", "not declared: attach"):
        assert reason in said
    assert "3 tests were left out" in said


@pytest.mark.parametrize("switch", ["CI", "OUTPOST_TEST_ALL"])
def test_it_fails_where_everything_has_to_run(tmp_path: Path, switch: str) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    said = run(tmp_path, **{switch: "1"})
    assert "2 failed, 1 skipped, 2 errors" in said, said
    assert "no machine here" in said
    assert "left out, where every test must run" in said


def test_the_dearest_groups_come_first_and_a_files_tests_stay_together(tmp_path: Path) -> None:
    for name, text in {
        "test_a.py": "def test_one(): pass\ndef test_two(): pass\n",
        "test_b.py": "import pytest\n@pytest.mark.slow\ndef test_long(): pass\n"
        "def test_short(): pass\n",
        "test_c.py": "import pytest\n@pytest.fixture\ndef net(): pass\ndef test_net(net): pass\n",
    }.items():
        (tmp_path / name).write_text(text)
    said = run(tmp_path, "-v", "-W", "ignore")
    order = [line.split("::")[1].split()[0] for line in said.splitlines() if " PASSED" in line]
    assert order == ["test_long", "test_short", "test_net", "test_one", "test_two"], said
