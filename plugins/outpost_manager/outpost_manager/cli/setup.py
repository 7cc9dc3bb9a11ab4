"""Whether all is well here: `doctor`, and `completion`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from outpost_core.errors import UsageError
from outpost_manager.cli import complete, output, render
from outpost_manager.cli.session import Session, command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outpost_core.types import Finding
    from outpost_manager.manager import Manager


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
    there. Exit code 1 when something has to be fixed.

    \b
    Examples:
      outpost doctor
      outpost doctor local --rig git@example.com:team/app.git
    """
    if rig and no_rig:
        raise UsageError("both --rig and --no-rig were given", hint="give one of the two")

    from outpost_manager.doctor import examine

    session.plugin_commands(quiet=True)  # what is wrong with them is among the findings

    async def work(manager: Manager) -> list[tuple[str, Finding]]:
        if rig is not None:
            return await examine(manager, name, rig=await manager.rig(rig))
        if no_rig or name is None:
            return await examine(manager, name)
        try:
            around = await manager.rig(None)
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


@command("completion", of_here=True)
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
