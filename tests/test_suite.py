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
        "test_d.py": "import pytest\ndef test_beside(): pass\n@pytest.mark.apart\n"
        "@pytest.mark.slow(90)\ndef test_longest(): pass\n",
    }.items():
        (tmp_path / name).write_text(text)
    said = run(tmp_path, "-v", "-W", "ignore")
    order = [line.split("::")[1].split()[0] for line in said.splitlines() if " PASSED" in line]
    shown = ["test_longest", "test_long", "test_short", "test_net", "test_one", "test_two"]
    assert order == [*shown, "test_beside"], said


TOGETHER = """
import pytest

@pytest.mark.parametrize("number", range(6))
def test_of_a_file(number, worker_id):
    with open("{name}", "a") as ran:
        print(worker_id, file=ran)
"""


def test_the_tests_of_a_file_run_in_one_process(tmp_path: Path) -> None:
    """Each process would make the fixtures of a file again: the suite took twice as long."""
    folder = tmp_path / "tests"
    folder.mkdir()
    ran = [tmp_path / "ran_a", tmp_path / "ran_b"]
    for each in ran:
        (folder / f"test_{each.name}.py").write_text(TOGETHER.format(name=each))
    said = run(folder, "-n", "2", "--dist", "loadgroup")
    assert "12 passed" in said, said
    by_whom = [each.read_text().split() for each in ran]
    assert [len({*each}) for each in by_whom] == [1, 1]
    assert by_whom[0] != by_whom[1]


FLAKY = """
import pytest

@pytest.fixture
def late():
    raise TimeoutError("not in time")

def test_set_up(late):
    pass

@pytest.mark.parametrize("word", ["a@b"])
def test_one(word):
    assert word == "c"

def test_two():
    pass
"""


def test_what_failed_is_written_down_by_its_own_id(tmp_path: Path) -> None:
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_it.py").write_text(FLAKY)
    (folder / "test_well.py").write_text("def test_well(): pass\n")
    failed = tmp_path / "failed"
    for words in ((), ("-n", "2", "--dist", "loadgroup")):
        said = run(folder, *words, OUTPOST_TEST_FAILED=str(failed))
        ids = set(failed.read_text().splitlines())
        assert ids == {"test_it.py::test_set_up", "test_it.py::test_one[a@b]"}, said
        failed.unlink()


def test_a_run_that_was_broken_off_or_is_well_writes_nothing_down(tmp_path: Path) -> None:
    folder = tmp_path / "tests"
    folder.mkdir()
    failed = tmp_path / "failed"
    wrong = "def test_wrong():\n    assert False\n"
    (folder / "test_a.py").write_text(wrong)
    (folder / "test_b.py").write_text("def test_b():\n    raise KeyboardInterrupt\n")
    assert "1 failed" in run(folder, OUTPOST_TEST_FAILED=str(failed))
    assert not failed.exists()
    (folder / "test_b.py").write_text("raise ValueError\n")
    for words in ((), ("-n", "2", "--dist", "loadgroup"), ("--continue-on-collection-errors",)):
        assert " error" in run(folder, *words, OUTPOST_TEST_FAILED=str(failed))
        assert not failed.exists()
    (folder / "test_b.py").unlink()
    (folder / "test_a.py").write_text(wrong.replace("False", "True"))
    assert "1 passed" in run(folder, OUTPOST_TEST_FAILED=str(failed))
    assert not failed.exists()


def again(failed: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts" / "again", failed],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_what_passes_alone_is_named_and_what_fails_again_fails(tmp_path: Path) -> None:
    tests = tmp_path / "test_it.py"
    tests.write_text("def test_late(): pass\n\ndef test_wrong():\n    assert False\n")
    failed = tmp_path / "failed"
    failed.write_text(f"{tests}::test_late\n")
    done = again(failed)
    assert done.returncode == 0, done.stdout
    assert f"passed alone, failed under load: {tests}::test_late\n" in done.stdout
    failed.write_text(f"{tests}::test_wrong\n{tests}::test_late\n")
    done = again(failed)
    assert done.returncode == 1
    last = done.stdout.splitlines()[-2:]
    assert last[0] == f"failed again: {tests}::test_wrong"
    assert last[1] == f"passed alone, failed under load: {tests}::test_late"
    failed.write_text(f"{tests}::test_late\n" * 17)
    done = again(failed)
    assert done.returncode == 1
    assert "more than 16" in done.stdout
    failed.unlink()
    assert again(failed).returncode == 1
