"""What `outposts.yaml` configures, typed.

The types of the file's values are those of the dataclasses: a backend's options, and `Defaults`
here. `places` finds the file, `read` checks it and `edit` changes it; these two and PyYAML are
imported when there is a file, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from outpost_core.backend import Backend
from outpost_core.options import OptionField, option_fields
from outpost_manager.config.effective import Setting, settings
from outpost_manager.config.model import AgentOptions, Config, Defaults, built_in_local
from outpost_manager.config.origin import BUILT_IN, Origin
from outpost_manager.config.places import Choice, choose, find_config, new_config
from outpost_manager.config.policy import Override, PolicyConfig

if TYPE_CHECKING:
    from outpost_core.types import Json

__all__ = [
    "BUILT_IN",
    "AgentOptions",
    "Choice",
    "Config",
    "Defaults",
    "OptionField",
    "Origin",
    "OutpostConfig",
    "Override",
    "PolicyConfig",
    "Setting",
    "add_outpost",
    "add_outposts",
    "choose",
    "find_config",
    "load_config",
    "new_config",
    "option_fields",
    "remove_outpost",
    "settings",
    "warnings",
]


def load_config(
    path: Path | None,
    backends: Mapping[str, Backend],
    *,
    data: bytes | None = None,
    presets: Callable[[], Collection[str]] | None = None,
) -> Config:
    """Read and check a configuration.

    Args:
        path: the file; None for what is built in, one outpost `local` of type `local`.
        backends: installed outpost types.
        data: what was read of the file when it was chosen (`places.Choice.data`): it is not read
            again, since it may say something else by now. None reads it.
        presets: returns the names of agents that are known without the file; called when it has
            a section `agents`. None: an entry there may lack a command.

    Raises:
        ConfigError: the file cannot be read or has a mistake.
    """
    if path is None:
        return Config(outposts=(built_in_local(backends),))
    from outpost_manager.config.read import parse_config
    from outpost_manager.config.yamlnodes import Document, decode, read_bytes

    text = decode(read_bytes(path) if data is None else data, str(path))
    return parse_config(Document(str(path), text), backends, path, presets)


def warnings(config: Config) -> list[str]:
    """Return what the options of outposts warn of, each with where its value was written.

    Of a value that is built in, the place is that of the outpost. Options are a plugin's own code:
    what fails there is told as a warning, and the others are still asked.
    """
    found = []
    for outpost in config.outposts:
        if outpost.options is None:
            continue
        try:
            said = outpost.options.warnings(config.defaults.answer_timeout)
            told = {str(key): str(text) for key, text in said.items()}
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises
            why = f"{type(error).__name__}: {error}".rstrip(": ")
            told = {"": f"the type {outpost.type!r} could not say what it warns of: {why}"}
        found += [
            f"{config.origins.get(f'outposts.{outpost.name}.{key}', outpost.origin)}:"
            f" {outpost.name}: {text}"
            for key, text in told.items()
        ]
    for outpost in config.outposts:
        capped = outpost.options is not None and outpost.options.cost_cap_hourly is not None
        if capped and config.defaults.max_agent_cost_usd is None:
            key = f"outposts.{outpost.name}.cost_cap_hourly"
            found.append(
                f"{config.origins.get(key, outpost.origin)}: {outpost.name}: cost_cap_hourly takes"
                " only orders that say what their agent may spend; write max_agent_cost_usd under"
                " defaults, or give --max-agent-cost with each order"
            )
    return found + _money_warnings(config)


def _money_warnings(config: Config) -> list[str]:
    """Return what is probably a mistake in the section `budgets`."""
    from outpost_manager.config.patterns import fits

    found = []
    for budget in config.budgets:
        where = config.origins.get(f"budgets.{budget.name}.name", BUILT_IN)
        found += [
            f"{where}: {budget.name}: no outpost is called {word[:80]!a}"
            for word in budget.outpost
            if not any(fits(one.name, [word]) for one in config.outposts)
        ]
        if config.defaults.max_agent_cost_usd is None:
            found.append(
                f"{where}: {budget.name}: a budget takes only orders that say what their agent may"
                " spend; write max_agent_cost_usd under defaults, or give --max-agent-cost with"
                " each order"
            )
    return found


def add_outpost(
    path: Path,
    type: str,  # noqa: A002 - the word of the file
    name: str,
    values: Mapping[str, Json],
    backends: Mapping[str, Backend],
) -> None:
    """Write one more outpost into the file; see `edit.add_all`."""
    add_outposts(path, type, {name: values}, backends)


def add_outposts(
    path: Path,
    type: str,  # noqa: A002
    outposts: Mapping[str, Mapping[str, Json]],
    backends: Mapping[str, Backend],
) -> None:
    """Write several outposts of one type into the file, or none; see `edit.add_all`."""
    from outpost_manager.config import edit

    edit.add_all(path, type, outposts, backends)


def remove_outpost(
    path: Path, name: str, backends: Mapping[str, Backend], *, prune: bool = False
) -> None:
    """Take an outpost out of the file; see `edit.remove`."""
    from outpost_manager.config import edit

    edit.remove(path, name, backends, prune=prune)
