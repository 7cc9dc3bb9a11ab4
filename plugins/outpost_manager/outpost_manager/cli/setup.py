"""Whether all is well here: `doctor`, `conformance`, `completion`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from outpost_core.errors import UsageError
from outpost_manager.cli import complete, output, render
from outpost_manager.cli.session import Session, command
from outpost_shared import border

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outpost_core.types import Finding
    from outpost_manager.manager import Manager
    from outpost_testing import CheckResult


@command("doctor")
@click.argument("name", required=False, metavar="[OUTPOST]", shell_complete=complete.outposts)
@click.option(
    "--rig",
    metavar="RIG",
    shell_complete=complete.folders,
    help="Also whether workers could push to this repository (URL or path); the one"
    " around this folder by default.",
)
@click.option("--no-rig", is_flag=True, help="Ask about no repository.")  # fmt: skip
def doctor(session: Session, name: str | None, rig: str | None, no_rig: bool) -> None:
    """Check everything that workers need, and say what to do about it.

    With an outpost named, that too: whether a branch could be pushed to the repository from
    there. Exit code 1 when something has to be mended.

    \b
    Examples:
      outpost doctor
      outpost doctor local --rig git@example.com:team/app.git
    """
    if rig and no_rig:
        raise UsageError("both --rig and --no-rig were given", hint="give one of the two")

    from outpost_manager.doctor import examine

    async def work(manager: Manager) -> list[tuple[str, Finding]]:
        if rig is not None:
            return await examine(manager, name, rig=manager.rig(rig))
        if no_rig or name is None:
            return await examine(manager, name)
        try:
            around = manager.rig(None)
        except UsageError as error:  # the repository around the current folder is of no use
            from outpost_core.types import Finding

            wrong = Finding(check="rig", ok=False, detail=error.message, hint=error.hint)
            return [*await examine(manager, name), (name, wrong)]
        return await examine(manager, name, rig=around)

    findings = session.run(work)
    well = all(finding.ok is not False for _, finding in findings)

    def data() -> object:
        from outpost_manager import jsonviews

        return {"ok": well, "findings": [jsonviews.finding(scope, f) for scope, f in findings]}

    session.answer(data, lambda: _doctor_lines(findings))
    click.get_current_context().exit(0 if well else 1)


def _doctor_lines(findings: list[tuple[str, Finding]]) -> Iterator[str]:
    marks = {
        True: output.style("✓", fg="green"),
        False: output.style("✗", fg="red"),
        None: output.style("·", dim=True),
    }
    last = None
    for scope, finding in findings:
        if scope != last:
            yield output.style(render.clean(scope), bold=True)
            last = scope
        text = ": ".join(filter(None, (finding.check, finding.detail)))
        yield f"  {marks[finding.ok]} {render.clean(text)}"
        if finding.hint and finding.ok is not True:
            yield f"    → {render.clean(finding.hint)}"


@command("conformance")
@click.argument("name", metavar="OUTPOST", shell_complete=complete.outposts)
@click.option("--group", "groups", multiple=True, metavar="GROUP", shell_complete=complete.groups,
              help="Only this group.")  # fmt: skip
def conformance(session: Session, name: str, groups: tuple[str, ...]) -> None:
    """Run the conformance suite against an outpost.

    Starts real workers there, with a state folder of its own, and removes them again. Exit code
    1 when a check fails; a declared capability that does not work is a failure.

    \b
    Example:
      outpost conformance local --group crash --group logs
    """
    from outpost_core import testing
    from outpost_core.nearest import suggest
    from outpost_testing.registry import GROUPS

    for group in groups:
        if group not in GROUPS:
            raise UsageError(f"there is no group {group!a}", hint=suggest(group, GROUPS))
    with session.manager() as manager:
        target = testing.target_from_manager(manager, name)
    results = testing.run_suite(
        target,
        groups=groups or None,
        on_result=None if session.json else lambda result: output.echo(_check_line(result)),
    )
    counts = {
        key: sum(result.status == status for result in results)
        for key, status in (
            ("passed", "passed"), ("failed", "failed"), ("not_declared", "not declared")
        )
    }  # fmt: skip

    def data() -> object:
        from outpost_manager import jsonviews

        checks = [*map(jsonviews.check, results)]
        return {"outpost": name, "ok": not counts["failed"], **counts, "checks": checks}

    session.answer(
        data,
        lambda: [", ".join(f"{count} {key.replace('_', ' ')}" for key, count in counts.items())],
    )
    click.get_current_context().exit(1 if counts["failed"] else 0)


def _check_line(result: CheckResult) -> str:
    mark, colour = {"passed": ("✓", "green"), "failed": ("✗", "red")}.get(
        result.status, ("·", "yellow")
    )
    detail = f": {result.detail}" if result.detail else ""
    # the detail may be an outpost's words: none of its lines looks like a check that has passed
    return f"{output.style(mark, fg=colour)} {border.lines(result.id + detail)}"


@command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(session: Session, shell: str) -> None:
    """Print the completion script for a shell.

    \b
    Examples:
      eval "$(outpost completion bash)"     # in ~/.bashrc; for zsh likewise
      outpost completion fish > ~/.config/fish/completions/outpost.fish
    """
    from click.shell_completion import get_completion_class

    from outpost_manager.cli.app import cli

    kind = get_completion_class(shell)
    assert kind is not None, "one of click's own"
    completer = kind(cli, {}, "outpost", "_OUTPOST_COMPLETE")
    script = completer.source_template % completer.source_vars()
    session.answer(lambda: {"shell": shell, "script": script}, lambda: [script])
