"""The registry of checks, the runner and the target of the conformance kit."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from outpost_core.backend import OutpostOptions
from outpost_core.errors import NotFoundError, PluginError
from outpost_exec.options import ExecOptions
from outpost_manager.manager import Manager
from outpost_shared import faults
from outpost_testing import GROUPS, Target, run_suite, target_from_manager
from outpost_testing import target as targets
from outpost_testing.reference import ReferenceOutpost, reference_target
from outpost_testing.registry import Check, all_checks, run_check
from outpost_testing.trial import HOLD, expect
from outpost_worker.folder import files

if TYPE_CHECKING:
    from outpost_testing.trial import Trial


def a_check(run: object, *needs: str) -> Check:
    return Check(
        id="load.mine",
        group="load",
        demand="It is so.",
        run=run,  # type: ignore[arg-type]
        needs=frozenset(needs),
        patience=1.0,
    )


def test_checks_cover_every_group_and_every_fault_point() -> None:
    checks = all_checks()
    assert {check.group for check in checks} == set(GROUPS)
    assert len({check.id for check in checks}) == len(checks) >= 60
    assert all(check.demand.endswith(".") for check in checks)
    for point in (*faults.NEAR, *faults.LOCAL, *faults.FAR):
        assert any(check.id.endswith("_at_" + point.replace(".", "_")) for check in checks)


def test_a_check_that_fails_says_the_demand_and_the_reason(tmp_path: Path) -> None:
    async def fails(trial: Trial) -> None:
        expect(trial.folder == Path("/"), "It is elsewhere.")

    result = run_check(a_check(fails), reference_target(tmp_path))
    assert (result.status, result.detail) == ("failed", "It is so. It is elsewhere.")
    assert not result.ok


def test_an_outpost_that_raises_fails_the_check(tmp_path: Path) -> None:
    async def breaks(trial: Trial) -> None:
        raise KeyError("oops")

    result = run_check(a_check(breaks), reference_target(tmp_path))
    assert result.status == "failed"
    assert "KeyError: 'oops' (test_testing_kit.py:" in result.detail


def test_a_check_that_hangs_fails_and_its_worker_is_ended(tmp_path: Path) -> None:
    target = reference_target(tmp_path, within=3.0)
    spawned = []

    async def hangs(trial: Trial) -> None:
        spawned.append(trial.sh(HOLD))
        await trial.spawn(spawned[0])
        await asyncio.Event().wait()

    result = run_check(a_check(hangs), target)
    assert spawned
    assert (result.status, result.detail) == ("failed", "It is so. It did not finish within 3 s.")
    # it was ended, for only then can it be cleaned
    assert asyncio.run(target.make().outpost_list()) == []
    assert not (target.folder / files.WORKERS / spawned[0].worker).exists()


def test_what_is_not_declared_is_neither_run_nor_a_failure(tmp_path: Path) -> None:
    async def never(trial: Trial) -> None:
        raise AssertionError

    result = run_check(a_check(never, "attach", "nudge"), reference_target(tmp_path))
    assert (result.status, result.ok) == ("not declared", True)
    assert result.detail == "attach, nudge is not declared"


def test_a_suite_runs_groups_in_order_and_tells_each_result(tmp_path: Path) -> None:
    told = []
    target = reference_target(tmp_path / "state")
    target = replace(target, temporary=True)
    results = run_suite(target, groups=["list", "load"], on_result=told.append)
    assert told == results
    assert [result.group for result in results] == sorted(
        (result.group for result in results), key=GROUPS.index
    )
    assert [result for result in results if not result.ok] == []
    assert not target.state.exists()


def test_mistakes_of_the_caller_are_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no group"):
        run_suite(reference_target(tmp_path), groups=["nonsense"])
    with pytest.raises(PluginError, match="nothing usable provides the outpost type 'x'"):
        run_suite(Target(type="x", provider="outpost_testing.fake", state=tmp_path))


def test_a_target_can_be_rebuilt_by_another_process(tmp_path: Path) -> None:
    target = reference_target(tmp_path / "state")
    target = replace(target, options=target.backend.options_class(max_workers=3))
    again, config = targets.load(target.save(tmp_path))
    assert again.options == target.options
    assert again.folder == target.folder
    assert type(again.make()) is ReferenceOutpost
    assert json.loads(config.read_text())["outposts"][0]["max_workers"] == 3


@dataclass(frozen=True, kw_only=True)
class PathOptions(OutpostOptions):
    key: Path = Path("key")
    names: tuple[str, ...] = ("a", "b")


def test_relative_paths_are_written_for_a_file_that_lies_elsewhere(tmp_path: Path) -> None:
    target = Target(
        type="x", state=tmp_path, options=PathOptions(), config_dir=Path("/etc/outpost")
    )
    (entry,) = json.loads(target.config())["outposts"]
    assert entry == {
        "name": "conformance",
        "type": "x",
        "key": "/etc/outpost/key",
        "names": ["a", "b"],
    }


def test_a_configured_outpost_becomes_a_target_with_a_state_of_its_own(tmp_path: Path) -> None:
    config = tmp_path / "outposts.yaml"
    config.write_text("outposts:\n  - {name: here, type: reference, max_workers: 7}\n")
    plugins = reference_target(tmp_path).plugins()
    manager = Manager.open(config=config, state=tmp_path / "mine", plugins=plugins)
    target = target_from_manager(manager, "here")
    try:
        assert (target.type, target.name, target.shared) == ("reference", "here", True)
        assert target.options == manager.fleet.configured("here").options
        assert target.state.is_dir()
        assert not (tmp_path / "mine").exists()
        assert target.temporary
    finally:
        target.state.rmdir()
    with pytest.raises(NotFoundError):
        target_from_manager(manager, "there")


async def _fails_after_a_worker(trial: Trial) -> None:
    await trial.end(trial.sh("echo one; echo two; exit 3"))
    raise KeyError("oops")


def test_a_failure_tells_what_the_agent_printed(tmp_path: Path) -> None:
    target = replace(reference_target(tmp_path / "state"), scratch=tmp_path)
    result = run_check(a_check(_fails_after_a_worker), target)
    assert [line.partition(": ")[2] for line in result.log.splitlines()] == ["one", "two"]
    assert result.kept == ""
    assert not list(tmp_path.glob("outpost-check-*"))
    assert asyncio.run(target.make().outpost_list()) == []


def test_the_files_and_workers_of_a_failure_can_be_kept(tmp_path: Path) -> None:
    target = replace(reference_target(tmp_path / "state"), scratch=tmp_path, keep=True)
    result = run_check(a_check(_fails_after_a_worker), target)
    (kept,) = tmp_path.glob("outpost-check-*")
    assert result.kept == str(kept)
    assert list(kept.iterdir())
    (worker,) = asyncio.run(target.make().outpost_list())
    assert worker.state.terminal

    async def passes(trial: Trial) -> None:
        await trial.end(trial.sh("exit 0"))

    assert run_check(a_check(passes), target).kept == ""
    assert list(tmp_path.glob("outpost-check-*")) == [kept]


def test_what_is_not_declared_is_skipped_by_pytest(tmp_path: Path) -> None:
    (suite := tmp_path / "test_it.py").write_text(
        "from dataclasses import replace\nimport pytest\nfrom outpost_testing import OutpostSuite\n"
        "from outpost_testing.reference import reference_target\n"
        "class TestIt(OutpostSuite):\n"
        "    @pytest.fixture\n    def target(self, tmp_path):\n"
        "        return replace(reference_target(tmp_path), cut=None)\n"
    )
    name = next(one.id for one in all_checks() if "cut" in one.needs).partition(".")[2]
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(suite)]
    argv += ["--rootdir", str(tmp_path), "-c", "/dev/null", "-k", name, "-rs"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert "1 skipped" in done.stdout, done.stdout + done.stderr
    assert "not declared: cut is not declared" in done.stdout


@pytest.mark.parametrize("word", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_tells_what_is_known(tmp_path: Path, word: signal.Signals) -> None:
    (tmp_path / "outposts.yaml").write_text("outposts: [{name: local, type: local}]")
    (tmp_path / "scratch").mkdir()
    results = tmp_path / "results.jsonl"
    argv = [sys.executable, "-m", "outpost_manager", "--config", str(tmp_path / "outposts.yaml")]
    argv += ["--state", str(tmp_path / "s"), "conformance", "local", "--json"]
    argv += ["--results", str(results), "--scratch", str(tmp_path / "scratch")]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while not (results.exists() and results.read_text().count("\n") >= 3):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(word)
    said = json.loads(child.communicate(timeout=90)[0])
    assert child.returncode == 130
    assert (said["interrupted"], said["ok"]) == (True, False)
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert lines == said["checks"]
    assert len(lines) >= 3
    assert list((tmp_path / "scratch").iterdir()) == []


def test_workers_that_do_not_see_this_machine_are_looked_at_from_outside(tmp_path: Path) -> None:
    seen = []

    async def looks(trial: Trial) -> None:
        order = trial.sh("echo run")
        await trial.end(order)
        seen.append((trial.target.shared, await trial.runs(order)))

    target = replace(reference_target(tmp_path), shared=False)
    assert run_check(a_check(looks), target).ok
    assert seen == [(False, 1)]
    assert run_check(a_check(looks, "shared"), target).status == "not declared"


def test_a_program_runs_in_the_users_folder_also_for_another_process(tmp_path: Path) -> None:
    options = ExecOptions(command=("./program",))
    target = Target(type="exec", state=tmp_path, options=options, config_dir=Path("/etc/outpost"))
    again, _ = targets.load(target.save(tmp_path))
    assert again.options == replace(options, cwd=Path("/etc/outpost"))
