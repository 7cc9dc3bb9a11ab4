"""Which readers there are, by the name of the output that they read (`Agent.output`).

Those of our own agents are a table, so that a worker finds them without a search. Any installed
package adds readers by entry points of the group `outpost.readers`:

    [project.entry-points."outpost.readers"]
    acme-json = "acme_agent.reader:Acme"

**A reader travels as text.** A worker runs apart from all installed packages, on this machine or
another, and longer than an upgrade may take. So a reader is one file. Who publishes a worker puts
its text into the worker's launch, which is sealed: what reads an agent's output is what was
installed when the order was given, and nothing that an agent or a cloned repository can write.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from importlib.metadata import EntryPoint
    from typing import Any

    from outpost_agents.account import Account
    from outpost_agents.reader import Reader

GROUP = "outpost.readers"
#: The output of agents of which nothing is known.
PLAIN = "plain"
#: `Agent.output` → its reader, of the agents that come with Outpost.
BUILT_IN = {
    "claude-stream-json": "outpost_agents.claude.reader:Claude",
    "codex-json": "outpost_agents.codex.reader:Codex",
    "gemini-json": "outpost_agents.gemini.reader:Gemini",
    "opencode-json": "outpost_agents.opencode.reader:Opencode",
}
#: Bytes of a reader's file.
LARGEST = 256 * 1024


def account(
    output: str,
    prices: Mapping[str, Sequence[float]] | None = None,
    env: Mapping[str, str] | None = None,
    began: float = 0.0,
    brought: Mapping[str, Any] | None = None,
) -> Account:
    """Return a new account of one agent's output.

    Args:
        output: `Agent.output`; of `plain` and of unknown ones nothing is ever known.
        prices: `Agent.prices`.
        env: the agent's environment, for what it writes beside its output.
        began: when this attempt began; what such files hold from before does not count.
        brought: what `travelling` returned where the worker was published.

    Raises:
        PluginError: what was brought is no reader.
    """
    from outpost_agents.account import Account

    made = built_in(output) if brought is None else load(brought)
    return Account(made(env or {}, began), prices or {})


def built_in(output: str) -> type[Reader]:
    """Return the reader of an agent that comes with Outpost, else one that reads nothing."""
    from importlib import import_module

    module, _, name = BUILT_IN.get(output, "outpost_agents.reader:Plain").partition(":")
    found: type[Reader] = getattr(import_module(module), name)
    return found


def known(output: str) -> bool:
    """Whether some package here says that it reads an output."""
    return output in BUILT_IN or (output != PLAIN and output in installed())


def usable(output: str) -> bool:
    """Whether there is a reader of an output here that works."""
    return known(output) and not trouble_with(output)


def trouble_with(output: str) -> str:
    """Return why the reader of an output cannot be used; "" when it can, and when there is none."""
    from outpost_core.errors import PluginError

    try:
        travelling(output)
    except PluginError as error:
        return error.message
    return ""


def reader_class(output: str) -> type[Reader]:
    """Return the reader of an output that is installed here; one that reads nothing without.

    Raises:
        PluginError: it is there, and cannot be used.
    """
    brought = travelling(output)
    return built_in(output) if brought is None else load(brought)


def installed() -> dict[str, str]:
    """Return the readers that other packages bring: `module:Class` by output."""
    return _declared()[0]


def passed_over() -> list[str]:
    """Return the readers that packages bring and that are not used, since there is one already."""
    return _declared()[1]


@lru_cache(maxsize=1)
def _declared() -> tuple[dict[str, str], list[str]]:
    """Look for entry points, once per program."""
    found: dict[str, str] = {}
    not_used = []
    for point in sorted(_entry_points(), key=lambda one: (one.name, one.value)):
        ours = "Outpost itself" if point.name in BUILT_IN or point.name == PLAIN else ""
        first = ours or found.setdefault(point.name, point.value)
        if first != point.value:
            not_used.append(f"{point.value} is not used: {first} reads {point.name!r} already")
    return found, not_used


def _entry_points() -> list[EntryPoint]:
    """Return those of the group; a package whose list cannot be read hides none of the others."""
    from contextlib import suppress
    from importlib.metadata import distributions, entry_points

    try:
        return [*entry_points(group=GROUP)]
    except Exception:  # noqa: BLE001 - whatever is in there; `outpost plugins` names the package
        found: list[EntryPoint] = []
        for distribution in distributions():
            with suppress(Exception):
                found += distribution.entry_points.select(group=GROUP)
        return found


@lru_cache(maxsize=64)
def travelling(output: str) -> dict[str, str] | None:
    """Return what a worker needs to read an output: None where it has it, as of our own agents.

    Raises:
        PluginError: a package says that it reads this output, and what it brings is no reader.
    """
    if output in BUILT_IN or output not in installed():
        return None
    value = installed()[output]
    try:
        source = _file(value.partition(":")[0])
        brought = {"name": value, "text": source.decode()}
        load(brought)
    except Exception as error:
        raise _unusable(value, error) from error
    return brought


def _file(module: str) -> bytes:
    """Return the content of a module's file, without importing anything of its package."""
    from importlib.util import find_spec

    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None:
        raise ModuleNotFoundError(f"there is no module named {top!r}")
    folders = [*(spec.submodule_search_locations or ())]
    paths = [os.path.join(folder, *rest) + ".py" for folder in folders] if rest else [spec.origin]
    for path in paths:
        if path and os.path.isfile(path):
            with open(path, "rb") as file:
                source = file.read(LARGEST + 1)
            if len(source) > LARGEST:
                raise ValueError(f"{path} has more than {LARGEST >> 10} KiB")
            return source
    raise FileNotFoundError(f"{module} is not one file of Python source")


def load(brought: Mapping[str, Any]) -> type[Reader]:
    """Return the reader that `travelling` packed.

    Raises:
        PluginError: it is none.
    """
    from types import ModuleType

    from outpost_agents.reader import Reader

    value = str(brought["name"])
    module, _, name = value.partition(":")
    made = ModuleType(f"outpost_reader:{module}")
    sys.modules[made.__name__] = made  # dataclasses and the like look there
    try:
        exec(compile(brought["text"], f"<{module}>", "exec"), made.__dict__)  # noqa: S102 - sealed
        found = getattr(made, name)
        if not (isinstance(found, type) and issubclass(found, Reader)):
            raise TypeError(f"{name} is no outpost_agents.Reader")
    except (Exception, SystemExit) as error:
        raise _unusable(value, error) from error
    return found


def _unusable(value: str, error: BaseException) -> Exception:
    from outpost_core.errors import PluginError

    if isinstance(error, PluginError):
        return error
    return PluginError(
        f"the reader {value} cannot be used: {type(error).__name__}: {error}",
        hint="tell its authors: a reader is one file that needs the standard library and"
        " outpost_agents alone",
    )
