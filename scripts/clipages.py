"""The reference of the command line: a page a group of commands, options as tables."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping

import click

from outpost_container.command import image
from outpost_manager.cli.app import SECTIONS, cli
from outpost_manager.cli.plugincommands import Deferred
from outpost_mayor.plugin import outpost_commands as mayor_commands
from outpost_testing.command import conformance

#: A flag in a text, and the path of a page.
FLAG = re.compile(r"(?<![\w`-])--?[a-z][a-z-]*\w(?![\w-])|(?<![\w`-])-[a-z]\b")
PAGE = re.compile(r"docs/([\w/-]+\.md)")
#: Options that every command has.
EVERYWHERE = ("--help", "--json")


def pages(note: str) -> dict[str, str]:
    """Return each page's text by its path; `note` is the first line of each."""
    context = click.Context(cli, info_name="outpost")
    groups: dict[str, tuple[str, str, Mapping[str, click.Command]]] = {}
    for title, names in SECTIONS.items():
        found = {name: cli.get_command(context, name) for name in names}
        assert all(found.values()), title
        slug = title.lower()
        groups[slug] = (title, "", {name: each for name, each in found.items() if each})
    groups["mayor"] = ("Queue and mayor", "outpost-mayor", dict(_of_the_mayor()))
    groups["images"] = ("Images", "outpost-container", {"image": image})
    groups["conformance"] = ("Conformance", "outpost-testing", {"conformance": conformance})
    made = {"cli.md": _overview(note, context, groups)}
    for slug, (title, package, commands) in groups.items():
        parts = [
            note,
            f"# {title}\n",
            *([f"Commands of the package `{package}`.\n"] if package else []),
        ]
        parts.append(
            "All of them take `--json` and `--help`, and the [options for all](../cli.md).\n"
        )
        for name, command in commands.items():
            parts += _command(command, name, context, 2)
        made[f"cli/{slug}.md"] = "\n".join(parts)
    return made


def _of_the_mayor() -> Iterator[tuple[str, click.Command]]:
    for each in mayor_commands():
        assert isinstance(each, Deferred)
        yield str(each.name), each.load()


def _overview(
    note: str,
    context: click.Context,
    groups: Mapping[str, tuple[str, str, Mapping[str, click.Command]]],
) -> str:
    parts = [note, "# Command line\n", "`outpost COMMAND --help` says the same in a terminal.\n"]
    for slug, (title, package, commands) in groups.items():
        parts.append(f"## {title}\n")
        if package:
            parts.append(f"From the package `{package}`.\n")
        parts.append("| command | what it does |\n| --- | --- |")
        for name, command in commands.items():
            about = command.get_short_help_str(limit=300)
            parts.append(
                f"| [`outpost {name}`](cli/{slug}.md#outpost-{name}) | {_cell(about, '')} |"
            )
        parts.append("")
    parts.append("## Options for all commands\n")
    parts += _options(cli, context, "")
    parts.append(ENVIRONMENT)
    return "\n".join(parts)


ENVIRONMENT = """\
## Environment
| variable | meaning |
| --- | --- |
| `OUTPOST_CONFIG` | path of `outposts.yaml` |
| `OUTPOST_STATE` | the state folder |
| `OUTPOST_LOG` | `warning`, `info` or `debug` logs on standard error, `debug:FILE` into a file |
| `OUTPOST_DEBUG` | `1` shows tracebacks of unexpected errors, and of the errors of plugins |
| `NO_COLOR` | no colour |

## Exit codes
| code | meaning |
| --- | --- |
| 0 | it worked |
| 1 | the work failed |
| 2 | usage or configuration |
| 3 | no outpost could take it |
| 4 | not found |
| 5 | unreachable |
| 6 | another mayor runs for this state folder |
| 130 | Ctrl-C; workers keep running |
"""


def _command(command: click.Command, name: str, parent: click.Context, level: int) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent)
    path = context.command_path
    yield f"{'#' * level} {path}\n"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```text\n{path} {usage}\n```\n"
    yield from _help(command.help or "")
    yield from _options(command, context, "../")
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            found = command.get_command(context, sub)
            assert found is not None, sub
            yield from _command(found, sub, context, level + 1)


def _help(text: str) -> Iterator[str]:
    """Yield the help of a command as Markdown; what is laid out stays as it is."""
    for part in inspect.cleandoc(text).split("\n\n"):
        if not part.strip():
            continue
        if not part.startswith("\b"):
            yield f"{_words(' '.join(part.split()), '../../')}\n"
            continue
        title, _, body = part.removeprefix("\b").strip("\n").partition("\n")
        lines = inspect.cleandoc(body).splitlines()
        if title.rstrip(":") in ("Example", "Examples"):
            if all(line.startswith("outpost ") for line in lines):
                shown = "\n".join(f"$ {line}" for line in lines)
                yield f"```console\n{shown}\n```\n"
                continue
        elif title:
            lines = [title, *body.splitlines()]
        yield "```text\n" + "\n".join(lines) + "\n```\n"


def _options(command: click.Command, context: click.Context, up: str) -> Iterator[str]:
    """Yield a table of what a command has beside what all have."""
    rows = []
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if record is None or not isinstance(param, click.Option):
            continue
        if command is not cli and set(EVERYWHERE) & set(param.opts):
            continue
        names = ", ".join(f"`{each}`" for each in record[0].replace("|", " or ").split(", "))
        rows.append(f"| {names} | {_cell(record[1], up)} |")
    if rows:
        yield "| option | meaning |\n| --- | --- |"
        yield from rows
        yield ""


def _cell(text: str, up: str) -> str:
    return _words(" ".join(text.split()), f"{up}../").replace("|", "\\|")


def _words(text: str, up: str) -> str:
    """Return plain words as Markdown: flags are code, pages are links; `up` leads to docs."""
    text = re.sub(r"([\\*_\[\]<`])", r"\\\1", text)
    text = FLAG.sub(lambda flag: f"`{flag[0]}`", text)
    return PAGE.sub(lambda page: f"[{page[0]}]({up}{page[1]})", text.replace("\\_", "_")).replace(
        "_", "\\_"
    )
