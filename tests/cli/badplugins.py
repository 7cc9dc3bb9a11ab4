"""Packages of strangers, each with another mistake, and what must be said of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HEAD = """
from dataclasses import dataclass, field
from outpost_core import *
from outpost_core import hookimpl, Backend, Outpost, OutpostOptions, option
OUTPOST_API = 1
"""
BACKEND = """
@hookimpl
def outpost_backends():
    made = Backend(type="{type}", options={options}, build={build}, summary="odd"{more})
    return {{"{type}": made}}
"""


@dataclass(frozen=True)
class Bad:
    """A package with a mistake.

    Args:
        name: of the mistake; the package is called so.
        source: its module.
        said: what `outpost plugins NAME` must say.
        spawns: whether the mistake is only made while something is placed.
        hidden: a command of the built-in ones must not be replaced.
    """

    name: str
    source: str
    said: str
    late: bool = False


def hook(name: str, arguments: str, *body: str, mark: str = "@hookimpl") -> str:
    lines = "\n".join(f"    {line}" for line in body)
    return f"{HEAD}\n{mark}\ndef {name}({arguments}):\n{lines}\n"


def backend(
    options: str = "OutpostOptions", build: str = "Outpost", before: str = "", more: str = ""
) -> str:
    text = BACKEND.format(type="TYPE", options=options, build=build, more=more)
    return f"{HEAD}\n{before}\n{text}"


def options(fields: str, base: str = "OutpostOptions") -> str:
    before = f"@dataclass(frozen=True, kw_only=True)\nclass Options({base}):\n    {fields}\n"
    return backend("Options", before=before)


EVENT, ASSIGN, ISSUE = "event", "order, candidates", "issue_id, rig"

BAD = [
    # the import
    Bad("import-error", "import no_such_module_anywhere", "No module named"),
    Bad("syntax", "def (", "SyntaxError"),
    Bad("raises", "raise RuntimeError('on fire')", "RuntimeError: on fire"),
    Bad("exits", "import sys; sys.exit(3)", "SystemExit: 3"),
    Bad("interrupts", "raise KeyboardInterrupt", "KeyboardInterrupt"),
    Bad("generator-exit", "raise GeneratorExit", "GeneratorExit"),
    Bad("own-base", "class E(BaseException): ...\nraise E('x')", "E: x"),
    Bad(
        "odd-error",
        "class E(Exception):\n  def __str__(self): 1/0\nraise E",
        "cannot be imported: E",
    ),
    Bad("prints", hook("outpost_event", EVENT, "pass") + "print('hello')", "prints on standard"),
    Bad("empty", "", "implements no hook"),
    Bad("newer", "OUTPOST_API = 99", "speaks plugin API 99"),
    Bad("odd-version", "OUTPOST_API = 'x'", "speaks plugin API 'x'"),
    Bad("lazy-module", "def __getattr__(name): raise RuntimeError(name)", "RuntimeError"),
    # hooks
    Bad("unmarked", hook("outpost_event", EVENT, "pass", mark=""), "has no @hookimpl"),
    Bad(
        "unmarked-policy",
        hook("outpost_assign", ASSIGN, "return ['there']", mark=""),
        "has no @hookimpl",
    ),
    Bad("misspelt", hook("outpost_evnt", EVENT, "pass"), "no hook named 'outpost_evnt'"),
    Bad("arguments", hook("outpost_event", "nonsense", "pass"), "nonsense"),
    Bad("default", hook("outpost_assign", "order, candidates=()", "return None"), "'candidates'"),
    Bad("keyword", hook("outpost_assign", "order, *, candidates", "return None"), "'candidates'"),
    Bad(
        "wrapper", hook("outpost_event", EVENT, "yield", mark="@hookimpl(wrapper=True)"), "wrapper"
    ),
    Bad(
        "async-event",
        hook("outpost_event", EVENT, "pass").replace("def outpost", "async def outpost"),
        "must be a plain function",
    ),
    # types
    Bad(
        "types-raise", hook("outpost_backends", "", "raise RuntimeError('no')"), "RuntimeError: no"
    ),
    Bad("types-exit", hook("outpost_backends", "", "raise SystemExit(1)"), "SystemExit: 1"),
    Bad("types-number", hook("outpost_backends", "", "return 5"), "of the type int"),
    Bad("types-list", hook("outpost_backends", "", "return ['x']"), "of the type list"),
    Bad("types-value", hook("outpost_backends", "", "return {'x': 5}"), "is a int, not a Backend"),
    Bad("types-name", hook("outpost_backends", "", "return {5: 5}"), "type 5"),
    Bad(
        "types-taken",
        backend().replace('{"TYPE"', '{"local": 1, "fake"'),
        "already provided by",
    ),
    Bad("types-other", backend().replace('{"TYPE"', '{"TYPE2"'), "calls itself"),
    Bad("capability", backend(more=", capabilities=frozenset({'fly'})"), "'fly'"),
    Bad("capability-list", backend(more=", capabilities=['rig']"), "capabilities"),
    Bad("options-field", options("size: complex = 1j"), "the option 'size'"),
    Bad(
        "options-name",
        options("size: NoSuchName = 1").replace(
            "from data", "from __future__ import annotations\nfrom data", 1
        ),
        "NoSuchName",
    ),
    Bad("options-plain", backend("dict"), "OutpostOptions"),
    Bad("options-instance", backend("OutpostOptions()"), "OutpostOptions"),
    Bad("options-unit", options("wait: float = option('w', default=1.0, unit='parsec')"), "parsec"),
    Bad("options-default", options("size: int = option('s', default='large')"), "default"),
    Bad(
        "options-factory",
        options("size: int = field(default_factory=lambda: 1 / 0)"),
        "ZeroDivisionError",
    ),
    Bad("options-type", options("type: str = 'x'"), "'type'"),
    Bad("summary", backend(more="").replace('summary="odd"', "summary=5"), "summary"),
    Bad("introduce", backend(more=", introduce=5"), "introduce"),
    Bad("options-min", options("size: int = option('s', default=1, min='low')"), "'low'"),
    Bad("options-help", options("size: int = option(5, default=1)"), "as its help"),
    Bad("build-none", backend(build="None"), "build"),
    # answers while nothing is placed
    Bad("agents-number", hook("outpost_agents", "", "return 5"), "int"),
    Bad(
        "agents-lazy",
        hook(
            "outpost_agents",
            "",
            "from collections import UserDict",
            "class M(UserDict):",
            "    def __iter__(self): 1 / 0",
            "return M(x=1)",
        ),
        "ZeroDivisionError",
    ),
    Bad("agents-raise", hook("outpost_agents", "", "raise SystemExit(1)"), "SystemExit: 1"),
    Bad("agents-value", hook("outpost_agents", "", "return {'x': 'text'}"), "str"),
    Bad(
        "commands-raise",
        hook("outpost_commands", "", "raise RuntimeError('none')"),
        "RuntimeError: none",
    ),
    Bad("commands-exit", hook("outpost_commands", "", "raise SystemExit(2)"), "SystemExit: 2"),
    Bad("commands-number", hook("outpost_commands", "", "return 5"), "int"),
    Bad("commands-function", hook("outpost_commands", "", "return [print]"), "not a click command"),
    Bad("commands-lazy", hook("outpost_commands", "", "yield 1 / 0"), "ZeroDivisionError"),
    Bad(
        "commands-taken",
        hook("outpost_commands", "", "import click", "return [click.Command('list')]"),
        "'list'",
    ),
    Bad(
        "commands-nameless",
        hook("outpost_commands", "", "import click", "return [click.Command(None)]"),
        "no name",
    ),
    # while something is placed
    Bad(
        "assign-raise",
        hook("outpost_assign", ASSIGN, "raise RuntimeError('no')"),
        "RuntimeError: no",
        late=True,
    ),
    Bad(
        "assign-exit",
        hook("outpost_assign", ASSIGN, "raise SystemExit(1)"),
        "SystemExit: 1",
        late=True,
    ),
    Bad(
        "assign-interrupt",
        hook("outpost_assign", ASSIGN, "raise KeyboardInterrupt"),
        "KeyboardInterrupt",
        late=True,
    ),
    Bad("assign-number", hook("outpost_assign", ASSIGN, "return 5"), "answered int", late=True),
    Bad("assign-text", hook("outpost_assign", ASSIGN, "return 'here'"), "answered str", late=True),
    Bad("assign-unknown", hook("outpost_assign", ASSIGN, "return ['mars']"), "'mars'", late=True),
    Bad("assign-odd", hook("outpost_assign", ASSIGN, "return [5, None]"), "5", late=True),
    Bad(
        "issue-raise",
        hook("outpost_issue", ISSUE, "raise RuntimeError('no')"),
        "RuntimeError: no",
        late=True,
    ),
    Bad("issue-number", hook("outpost_issue", ISSUE, "return 5"), "int", late=True),
    Bad(
        "event-raise",
        hook("outpost_event", EVENT, "raise RuntimeError('no')"),
        "RuntimeError: no",
        late=True,
    ),
    Bad(
        "event-exit",
        hook("outpost_event", EVENT, "raise SystemExit(1)"),
        "SystemExit: 1",
        late=True,
    ),
]


def install(bad: Bad, folder: Path) -> None:
    """Write a package as pip would have installed it."""
    name = bad.name.replace("-", "_")
    (folder / f"bad_{name}.py").write_text(bad.source.replace("TYPE", bad.name))
    info = folder / f"bad_{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: bad-{bad.name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[outpost]\nx-{bad.name} = bad_{name}\n")
