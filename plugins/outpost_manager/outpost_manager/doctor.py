"""`outpost doctor`: everything that work depends on, each with its hint."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

from outpost_agents import registry
from outpost_core.errors import LedgerError, OutpostError
from outpost_core.types import Finding, Health
from outpost_manager.plugins.advice import hint_for

if TYPE_CHECKING:
    from outpost_manager.manager import Manager

Found = list[tuple[str, Finding]]
#: What outposts say of an agent that is not there.
_NOT_INSTALLED = "not installed"
#: A check of one outpost may look at several tools there; seconds.
DOCTOR_TIMEOUT = 60.0
#: Findings of one outpost that are shown.
_MOST = 1_000


async def examine(manager: Manager, name: str | None = None, *, rig: str | None = None) -> Found:
    """Examine one outpost, or everything.

    Args:
        manager: the open manager.
        name: an outpost; None for packages, configuration, ledger and all outposts.
        rig: outposts are also asked whether workers there could push to it.

    Returns:
        `(subject, finding)` pairs; the subject is `packages`, `config`, `ledger`, `git` or an
        outpost's name.
    """
    if name is not None:
        return await _outpost(manager, manager.fleet.configured(name).name, rig)
    found = [*_packages(manager), _config(manager), await _ledger(manager), _git()]
    each = await asyncio.gather(*(_outpost(manager, n, rig) for n in manager.fleet.names))
    for findings in each:
        found += findings
    return found


def _packages(manager: Manager) -> Found:
    found = []
    for report in manager.plugins.reports:
        types, hooks = ", ".join(report.types), ", ".join(report.hooks)
        provides = f"provides {types}" if types else f"implements {hooks}"
        if report.ok:
            found.append(Finding(check=report.label, ok=True, detail=provides))
        found += [
            Finding(
                check=report.label,
                ok=False,
                detail=problem.reason,
                hint=hint_for(report, problem),
            )
            for problem in report.problems
        ]
    for kept in manager.failures.read(manager.plugins.reports):
        hint = f"outpost plugins {kept.plugin} shows the traceback; --forget forgets it"
        found.append(Finding(check=kept.package, ok=False, detail=kept.text, hint=hint))
    for output in registry.installed():
        if trouble := registry.trouble_with(output):
            hint = "tell the authors of the package; orders for its agent are refused until then"
            found.append(Finding(check=f"reader {output}", ok=False, detail=trouble, hint=hint))
    for said in registry.passed_over():
        hint = "uninstall one of the two packages, or tell its authors to choose another name"
        found.append(Finding(check="readers", ok=False, detail=said, hint=hint))
    return [("packages", finding) for finding in found]


def _config(manager: Manager) -> tuple[str, Finding]:
    path = manager.config.path
    count = len(manager.config.outposts)
    said = f"{count} in {path}" if path else "this machine alone, since there is no outposts.yaml"
    return "config", Finding(check="outposts", ok=True, detail=said)


async def _ledger(manager: Manager) -> tuple[str, Finding]:
    try:
        active = sum((await manager.ledger.active()).values())
        waiting = len(await manager.ledger.unspawned(0.0))
    except OutpostError as error:
        return "ledger", Finding(check="ledger", ok=False, detail=error.message, hint=error.hint)
    noun = "worker has" if active == 1 else "workers have"
    detail = f"{manager.state}: {active} {noun} not ended"
    if waiting:
        detail += f", {waiting} of them wait for their spawn to be finished"
    return "ledger", Finding(check="ledger", ok=True, detail=detail)


def _git() -> tuple[str, Finding]:
    git = shutil.which("git")
    return "git", Finding(
        check="git",
        ok=git is not None,
        detail=git or "not found",
        hint="" if git else "install git",
    )


async def _outpost(manager: Manager, name: str, rig: str | None) -> Found:
    health = await _ping(manager, name)
    if isinstance(health, Health):
        took = f", answered in {health.latency * 1000:.0f} ms" if health.latency else ""
        detail = (health.detail or "ready") + took
        finding = Finding(check="ping", ok=health.ok, detail=detail, hint=health.hint)
    else:
        finding = Finding(check="ping", ok=False, detail=health.message, hint=health.hint)
    found = [(name, finding)]
    try:
        if manager.fleet.supports(name, "doctor"):
            more = await manager.fleet.ask_for_all(
                Finding, name, "outpost_doctor", timeout=DOCTOR_TIMEOUT, most=_MOST, rig=rig
            )
            found += [(name, each) for each in more]
        found += await _default_agent(manager, name, found)
    except OutpostError as error:
        if error.message != finding.detail:  # said once is enough
            found.append(
                (name, Finding(check="doctor", ok=False, detail=error.message, hint=error.hint))
            )
    return found


async def _default_agent(manager: Manager, name: str, found: Found) -> Found:
    """Look whether the agent that does the work unless another is named is there.

    An outpost's own doctor knows the agents that come with Outpost, and which of them is the
    default one knows the configuration.
    """
    preset = manager.agents().get(manager.config.defaults.agent)
    argv = preset and (preset.headless or preset.interactive)
    if preset is None or not argv:
        return []
    check = f"agent {preset.name}"
    for at, (_, finding) in enumerate(found):
        if finding.check == check:
            if finding.detail == _NOT_INSTALLED:
                detail = f"{finding.detail}, and it is the agent of this configuration"
                found[at] = (name, replace(finding, ok=False, detail=detail))
            return []
    if not manager.fleet.supports(name, "facts"):
        return []
    await manager.presence.learn([name], [argv[0]])
    facts = (await manager.presence.facts()).get(name)
    path = facts.programs.get(argv[0]) if facts is not None else None
    if path is None:
        return []
    if path:
        return [(name, Finding(check=check, ok=True, detail=path))]
    return [(name, Finding(check=check, ok=False, detail=_NOT_INSTALLED, hint=preset.install))]


async def _ping(manager: Manager, name: str) -> Health | OutpostError:
    try:
        return (await manager.ping([name]))[name]
    except LedgerError:  # has a finding of its own, and the outposts are looked at all the same
        timeout = manager.config.defaults.answer_timeout
    try:
        return await manager.fleet.ping(name, timeout=timeout)
    except OutpostError as error:
        return error
