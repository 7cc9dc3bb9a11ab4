"""The flags of an order, and files of orders, as `OrderRequest`s."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from outpost_core.errors import UsageError
from outpost_manager.cli import complete
from outpost_manager.cli.values import assignments, json_or_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outpost_manager.orders.making import OrderRequest

#: longest file of issues, in characters: what never ends is refused.
_LONGEST: Final = 32 * 1024 * 1024

_OPTIONS: Final[tuple[Callable[[Any], Any], ...]] = (
    click.argument("issues", nargs=-1, metavar="ISSUE... [-- COMMAND...]",
                   shell_complete=complete.command_words),
    click.option("--from-file", type=click.Path(path_type=Path, allow_dash=True), metavar="FILE",
                 help="Take issues from this file too, one a line; - is standard input."),
    click.option("--rig", metavar="URL|PATH", shell_complete=complete.folders,
                 help="The git repository; else the one around the current folder."),
    click.option("--no-rig", is_flag=True, help="No repository: work in an empty folder."),
    click.option("--base", metavar="REF", help="Start from this branch, tag or commit."),
    click.option("--branch", metavar="NAME", help="Push to this branch; {issue} is replaced."),
    click.option("--pr", is_flag=True,
                 help="Open a pull request: by pr_command of the configuration, else with gh or"
                 " glab, by the repository's host."),
    click.option("--depth", type=click.IntRange(min=1), metavar="N",
                 help="Clone only so much history."),
    click.option("--agent", metavar="NAME", shell_complete=complete.agents,
                 help="claude, codex, gemini, opencode or one of a plugin."),
    click.option("--model", metavar="NAME", help="The model that the agent is to use."),
    click.option("--agent-arg", "agent_args", multiple=True, metavar="WORD",
                 help="A further argument for the agent; repeat it for several."),
    click.option("--interactive", is_flag=True, help="Run the agent on a terminal to attach to."),
    click.option("--prompt", metavar="TEXT", help="What to tell the agent."),
    click.option("--prompt-file", type=click.Path(path_type=Path, allow_dash=True),
                 metavar="FILE", help="The same from a file; - is standard input."),
    click.option("--title", metavar="TEXT", help="Instead of the issue's."),
    click.option("--kind", metavar="WORD", help="bug, feature, task …, instead of the issue's."),
    click.option("--priority", metavar="P0..P4", shell_complete=complete.priorities,
                 help="Instead of the issue's; P0 is the highest."),
    click.option("--estimate", metavar="DURATION", help="How long it may take: 30m, 2h."),
    click.option("--label", "labels", multiple=True, metavar="WORD", help="Besides the issue's."),
    click.option("--env", multiple=True, metavar="K=V", help="A variable for the agent."),
    click.option("--secret", "secrets", multiple=True, metavar="NAME",
                 help="Hand this variable of your environment over, in secret; the log masks its"
                 " exact value, no encoded form of it."),
    click.option("--context", multiple=True, metavar="K=V", help="A hint for policy and agent."),
    click.option("--timeout", metavar="DURATION", help="End the agent after so long."),
    click.option("--idle-timeout", metavar="DURATION",
                 help="End the agent after so long without output."),
    click.option("--max-agent-cost", type=float, metavar="USD",
                 help="End the agent when it has spent so much; of a command after --, what it"
                 " spends at most by your word."),
    click.option("--grace", metavar="DURATION", help="Time between TERM and KILL at a stop."),
    click.option("--checkpoint-every", metavar="DURATION",
                 help="Rescue unpushed work so often; 0 for never."),
    click.option("--final-grace", metavar="DURATION",
                 help="End the agent so long after it reported its end; 0 for never."),
    click.option("--cpu", type=float, metavar="CORES", help="What it needs, for the placement."),
    click.option("--memory", metavar="SIZE", help="What it needs, for the placement: 2GiB."),
    click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="This very attempt."),
    click.option("--again", is_flag=True,
                 help="The attempt after the last one, from its rescued work."),
    click.option("--from-base", is_flag=True,
                 help="With --again: from the base, not from the rescued work."),
)  # fmt: skip


def order_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags of an order."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def requests_of(said: dict[str, Any], command: tuple[str, ...] | None) -> list[OrderRequest]:
    """Return the requests that the flags of `order_options` make.

    Args:
        said: their values.
        command: the words after `--`.

    Raises:
        UsageError: a value is wrong, an issue is named twice, or none is named.
    """
    from outpost_manager.orders.fields import request_of

    flags = dict(said)
    issues, file = flags.pop("issues"), flags.pop("from_file")
    flags["env"] = assignments(flags["env"], "--env")
    context = assignments(flags["context"], "--context")
    flags["context"] = {key: json_or_text(text) for key, text in context.items()}
    if flags["prompt_file"] == Path("-"):
        flags["prompt_file"], flags["prompt"] = None, sys.stdin.read().removeprefix("\ufeff")
    flags["command"] = command
    requests = [request_of({**flags, "issue": issue}, "") for issue in issues]
    if file is not None:
        requests += [request_of({**flags, **line}, where) for where, line in _lines(file)]
    if not requests:
        raise UsageError("no issue was named", hint="outpost spawn ISSUE --rig URL")
    seen = set()
    for request in requests:
        if request.issue in seen:
            raise UsageError(f"the issue {request.issue!a} is named twice")
        seen.add(request.issue)
    return requests


def _lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where each line is and what it says."""
    import json

    name = "<stdin>" if file == Path("-") else str(file)
    try:
        with click.open_file(str(file), encoding="utf-8") as stream:
            text = stream.read(_LONGEST + 1).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} cannot be read: {error}", hint="save it as UTF-8") from error
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror or error}") from error
    if len(text) > _LONGEST:
        raise UsageError(f"{name} is longer than {_LONGEST} characters", hint="split it")
    for number, said in enumerate(text.splitlines(), 1):
        text = said.strip()
        where = f"{name}:{number}: "
        if not text or text.startswith("#"):
            continue
        if not text.startswith("{"):
            yield where, {"issue": text}
            continue
        try:
            line = json.loads(text)
        except ValueError as error:
            raise UsageError(f"{where}not a JSON object: {error}") from None
        yield where, line
