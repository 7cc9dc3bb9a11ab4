"""What to do about a package that cannot be used, or is missing.

Nothing of Outpost is on a package index, and of others only pip knows where they came from: it
wrote that down (`direct_url.json`, PEP 610).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from outpost_core.discovery import PluginReport, Problem
from outpost_core.nearest import nearest

if TYPE_CHECKING:
    from outpost_core.discovery import Plugins

_OWN: Final = frozenset(
    (
        *("agents", "cloudrun", "container", "core", "exec", "k8s"),
        *("local", "manager", "shared", "ssh", "testing", "worker"),
    )
)
_OWN_TYPES: Final = frozenset({"cloudrun", "exec", "k8s", "local", "ssh"})


def from_clone(package: str, extras: str = "") -> str:
    """Return the command that installs a package of Outpost itself.

    Args:
        package: the name without `outpost-`.
        extras: names of extras, with commas between.
    """
    folder = "." if package == "core" else f"./plugins/outpost_{package}"
    what = f"'{folder}[{extras}]'" if extras else folder
    return f"in a clone of Outpost: pip install {what}"


def with_extras(package: str, extras: str) -> str:
    """Return the command that installs a package with extras, from where it comes."""
    own = package.removeprefix("outpost-")
    return from_clone(own, extras) if own in _OWN else f"pip install '{package}[{extras}]'"


def install_again(report: PluginReport) -> str:
    """Return the command that installs a package again, from where it came."""
    name = report.package or report.entry_point
    try:
        found = json.loads(report.dist.read_text("direct_url.json"))
        url, folder = str(found["url"]), found.get("dir_info", {})
        if "vcs_info" in found:
            url = f"{found['vcs_info']['vcs']}+{url}"
        editable = "-e " if folder.get("editable") else ""
    except Exception:  # noqa: BLE001 - it has no such file: it came from an index by its name
        own = name.removeprefix("outpost-")
        return from_clone(own) if own in _OWN else f"pip install --force-reinstall {name}"
    return f"pip install --force-reinstall {editable}{url.removeprefix('file://')}"


def hint_for(report: PluginReport, problem: Problem) -> str:
    """Say what to do about a problem of a package."""
    if problem.hint:
        return problem.hint
    if isinstance(problem.error, ModuleNotFoundError):
        top = (problem.error.name or "").partition(".")[0]
        own = top.removeprefix("outpost_")
        if own != top and own in _OWN:
            return from_clone(own)
        return f"install what it depends on: {install_again(report)}"
    if problem.where == "import" and problem.error is not None:
        return install_again(report)
    return f"tell the authors of {report.package or report.entry_point}"


def first_hint(report: PluginReport) -> str:
    """Say what to do about the first problem of a package; "" when it has none."""
    return hint_for(report, report.problems[0]) if report.problems else ""


def missing_hint(plugins: Plugins, type_: str) -> str:
    """Say how to get a backend for a type that nobody provides."""
    for report in plugins.reports:
        for problem in report.problems:
            if type_ in (problem.where, report.entry_point):
                return f"{report.label}: {problem.reason}; {hint_for(report, problem)}"
    if type_ in _OWN_TYPES:
        return from_clone(type_)
    near = nearest(type_, plugins.backends)
    meant = f"did you mean {near!r}? else " if near else ""
    return f"{meant}install the package that provides the outpost type {type_!r}"
