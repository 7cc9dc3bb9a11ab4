"""What holds for every test of every package."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from peers import MissingError

if TYPE_CHECKING:
    from peers.kubelab import Cluster

    from outpost_testing.registry import Check

#: Whether what a test needs must be there; `.ci/run` says so, and CI systems do.
EVERYTHING = any(os.environ.get(name, "") not in ("", "0") for name in ("OUTPOST_TEST_ALL", "CI"))
#: What a test is marked with that uses a fixture.
MARKS = {
    "agents_path": "agents",
    "bd_path": "beads",
    "boxes": "containers",
    "cluster": "kube",
    "containers": "containers",
    "net": "network",
    "w": "network",
    "with_agents": "agents",
}
#: Seconds that a test may take that may have to wait until an image or the lab is built.
BUILD = 900
#: Which part of the others is done before tests that need a cluster begin.
LATE = 0.6
#: How dear a test with this mark is, beside one of a common file; `slow(90)` says it itself.
DEAR = {
    "slow": 30,
    "kube": 25,
    "containers": 20,
    "network": 20,
    "agents": 10,
    "docs": 10,
    "beads": 5,
}

#: Where the ids of the tests that failed are written, one a line, when all have run; for
#: `scripts/again`. Neither xdist's processes nor what tests start may write there.
FAILED = os.environ.pop("OUTPOST_TEST_FAILED", "")
_failed: dict[str, None] = {}
_uncollected: list[str] = []

# How long one example takes says how loaded the machine is, not whether the code is right.
settings.register_profile("outpost", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("outpost")


def pytest_configure() -> None:
    """Hear the signals that a program in a terminal hears.

    nohup ignores hang-ups for all that it starts, and a script ignores interrupts for what it puts
    into the background; the programs that tests start would inherit that.
    """
    # no test leaves a connection behind; those of keepers say so
    os.environ["OUTPOST_KEEP"] = "0"
    # thousands of programs start, which would each compile all that they import
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    """Let a connection that a file of tests forgot fail that file, not one that runs later."""
    yield
    gc.collect()


def _group(item: pytest.Item) -> str:
    """Return with which others a test runs, one after the other, in one process.

    That is its file, whose fixtures are dear to make twice. Checks of the conformance kit stand
    each on their own, and together they would be the last to end: they go by their groups; where
    they need a cluster, which each process would have one of, in three parts. So does a test that
    takes minutes and is marked `apart`.
    """
    check = _check(item)
    file = item.nodeid.partition("::")[0]
    if check and item.parent:
        parts = sum(map(ord, check.group)) % 3 if item.get_closest_marker("kube") else check.group
        return f"{file}:{item.parent.name}:{parts}"
    return item.nodeid if item.get_closest_marker("apart") else file


def _check(item: pytest.Item) -> Check | None:
    """Return the check of the conformance kit that a test is."""
    found: Check | None = getattr(getattr(item, "callspec", None), "params", {}).get("check")
    return found


def _cost(item: pytest.Item) -> float:
    """Return how dear a test is, beside one of a common file."""
    dear = (mark for mark in item.iter_markers() if mark.name in DEAR)
    said = [mark.args[0] if mark.args else DEAR[mark.name] for mark in dear]
    return max([5 if _check(item) else 1, *said])


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test by what it uses, and put it into its group for `--dist loadgroup`."""
    fixtures = set(getattr(item, "fixturenames", ()))
    for fixture, mark in MARKS.items():
        if fixture in fixtures:
            item.add_marker(mark)
    if item.get_closest_marker("containers") or item.get_closest_marker("kube"):
        item.add_marker(pytest.mark.timeout(BUILD))
    item.add_marker(pytest.mark.xdist_group(_group(item)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the dearest groups first, so that no core is idle at the end.

    Those that need a cluster come when most others are done: it may still be built.
    """
    cost: dict[str, float] = {}
    late: set[str] = set()
    for item in items:
        cost[_group(item)] = cost.get(_group(item), 0) + _cost(item)
        if item.get_closest_marker("kube"):
            late.add(_group(item))
    order = sorted(cost, key=lambda group: (-cost[group], group))
    first = [group for group in order if group not in late]
    done = itertools.accumulate(cost[group] for group in first)
    wait = sum(so_far < LATE * sum(cost[group] for group in first) for so_far in done)
    order = [*first[:wait], *(group for group in order if group in late), *first[wait:]]
    place = {group: number for number, group in enumerate(order)}
    items.sort(key=lambda item: place[_group(item)])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Leave out what cannot run here and say so; where everything must run, it fails instead."""
    report = yield
    if call.excinfo is None:
        return report
    error = call.excinfo.value
    if isinstance(error, MissingError) and not EVERYTHING:
        report.outcome = "skipped"
        report.longrepr = (item.location[0], (item.location[1] or 0) + 1, f"Skipped: {error}")
    elif report.skipped and EVERYTHING and "not declared" not in str(error):
        report.outcome = "failed"
        report.longrepr = f"left out, where every test must run: {error}"
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what failed, be it while it was set up or torn down."""
    if report.failed:
        file = report.nodeid.partition("::")[0]
        test, at, group = report.nodeid.rpartition("@")  # xdist appends the group
        _failed[test if at and group.startswith(file) else report.nodeid] = None


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Note which tests could not even be found."""
    if report.failed:
        _uncollected.append(report.nodeid)


def pytest_sessionfinish(exitstatus: int) -> None:
    """Write down what failed, unless the run was broken off: then nobody knows of the rest."""
    if FAILED and exitstatus == pytest.ExitCode.TESTS_FAILED and not _uncollected:
        Path(FAILED).write_text("".join(f"{each}\n" for each in _failed))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how all of the tests are run."""
    told = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    if left := sum("not declared" not in one for one in told):
        terminalreporter.write_line(
            f"{left} tests were left out, for the reasons above: as root, after `scripts/setup "
            "test`, all of them run, and with OUTPOST_TEST_ALL=1 one that cannot fails."
        )


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Have a real Kubernetes cluster, one for the whole test run: see `peers.kubelab`."""
    from peers.kubelab import lab

    with lab(node=False) as shared:  # who needs pods that run, loads an image: see load_image
        yield shared
