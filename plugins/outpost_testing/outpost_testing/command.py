"""`outpost conformance`: the kit, run against a configured outpost."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from outpost_core.errors import UsageError
from outpost_core.nearest import suggest
from outpost_manager.cli import output
from outpost_manager.cli.session import Session, command
from outpost_shared import border

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.shell_completion import CompletionItem

    from outpost_testing.registry import CheckResult

#: What `--json` answers.
SHAPE: Final[dict[str, Any]] = {
    "outpost": "its name",
    "ok": "whether no check failed, and none was left out by an interruption",
    "interrupted": "whether the run was ended before its end",
    "passed": "how many",
    "failed": "how many",
    "not_declared": "how many are about a capability that the outpost does not declare",
    "checks": [
        {
            "id": "group.name",
            "group": "its group",
            "status": "passed, failed or not declared",
            "detail": "why, or what was measured",
            "seconds": "how long it took",
            "log": "of a failed one, the last lines that its workers printed",
            "kept": "where the files of a failed one are, with --keep; else empty",
        }
    ],
}
_STATUSES: Final = {"passed": "passed", "failed": "failed", "not_declared": "not declared"}


def _outposts(ctx: click.Context, param: click.Parameter, text: str) -> list[CompletionItem]:
    from outpost_manager.cli import complete

    return complete.outposts(ctx, param, text)


def _groups(_ctx: click.Context, _param: click.Parameter, text: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from outpost_testing.registry import GROUPS

    return [CompletionItem(group) for group in GROUPS if group.startswith(text)]


@command("conformance")
@click.argument("name", metavar="OUTPOST", shell_complete=_outposts)
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="GROUP",
    shell_complete=_groups,
    help="Only this group.",
)
@click.option("--keep", is_flag=True, help="Keep the files and workers of a check that fails.")
@click.option(
    "--scratch",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where the kit's files are; for agents that cannot see the temporary folder.",
)
@click.option(
    "--no-shared",
    is_flag=True,
    help="The workers do not see this machine's files: look at them through the outpost alone.",
)
@click.option(
    "--results", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="Also write each result there when it is known, as a line of JSON.",
)  # fmt: skip
def conformance(
    session: Session,
    name: str,
    groups: tuple[str, ...],
    keep: bool,
    scratch: Path | None,
    no_shared: bool,
    results: Path | None,
) -> None:
    """Run the conformance suite against an outpost.

    Starts real workers there, with a state folder of its own, and removes them again. Exit code
    1 when a check fails; a declared capability that does not work is a failure. What an outpost
    does not declare is skipped. Ctrl-C ends the run and tells what is known by then.

    \b
    Examples:
      outpost conformance local --group crash --group logs
      outpost conformance sandbox --keep --scratch ~/scratch --results results.jsonl
    """
    from outpost_testing.registry import GROUPS, run_suite
    from outpost_testing.target import target_from_manager

    for group in groups:
        if group not in GROUPS:
            raise UsageError(f"there is no group {group!a}", hint=suggest(group, GROUPS))
    file = _opened(results)
    with session.manager() as manager:
        target = target_from_manager(manager, name, scratch=scratch)
    target = dataclasses.replace(target, shared=target.shared and not no_shared, keep=keep)
    done: list[CheckResult] = []

    def on_result(result: CheckResult) -> None:
        done.append(result)
        if file is not None:
            file(json.dumps(dataclasses.asdict(result)))
        if not session.json:
            for line in _lines(result):
                output.echo(line)

    interrupted = False
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run_suite(target, groups=groups or None, on_result=on_result)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        signal.signal(signal.SIGTERM, before)
    counts = {
        key: sum(result.status == status for result in done) for key, status in _STATUSES.items()
    }
    well = not (counts["failed"] or interrupted)

    def data() -> object:
        return {
            "outpost": name, "ok": well, "interrupted": interrupted, **counts,
            "checks": [dataclasses.asdict(result) for result in done],
        }  # fmt: skip

    told = ", ".join(f"{count} {_STATUSES[key]}" for key, count in counts.items())
    session.answer(data, lambda: [told + (", then interrupted" if interrupted else "")])
    code = 130 if interrupted else 1
    click.get_current_context().exit(0 if well else code)


def _opened(path: Path | None) -> Callable[[str], object] | None:
    """Return what appends a line to a file at once.

    Raises:
        UsageError: the file cannot be written.
    """
    if path is None:
        return None
    try:
        file = path.open("w", buffering=1)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    return lambda line: file.write(f"{line}\n")


def _lines(result: CheckResult) -> Iterator[str]:
    mark, colour = {"passed": ("✓", "green"), "failed": ("✗", "red")}.get(
        result.status, ("·", "yellow")
    )
    detail = f": {result.detail}" if result.detail else ""
    # the detail may be an outpost's words: none of its lines looks like a check that has passed
    yield f"{output.style(mark, fg=colour)} {border.lines(result.id + detail)}"
    for line in result.log.splitlines():
        yield f"    {border.line(line)}"
    if result.kept:
        yield f"    kept: {border.line(result.kept)}"
