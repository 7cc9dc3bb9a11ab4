"""What `outposts.yaml` configures, typed.

The types of the file's values are those of the dataclasses: a backend's options, and `Defaults`
here. `places` finds the file, `read` checks it and `edit` changes it; these two and PyYAML are
imported when there is a file, not before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outpost_core.backend import Backend, OutpostOptions, option
from outpost_core.options import OptionField, option_fields
from outpost_manager.config.origin import BUILT_IN, Origin
from outpost_manager.config.places import Choice, choose, find_config, new_config
from outpost_manager.config.policy import Override, PolicyConfig

if TYPE_CHECKING:
    from outpost_core.types import Json, Price

__all__ = [
    "BUILT_IN",
    "AgentOptions",
    "AgentOutput",
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
    "choose",
    "find_config",
    "load_config",
    "new_config",
    "option_fields",
    "remove_outpost",
    "settings",
    "warnings",
]

#: What a price in the section `prices` says, in the order of `types.Price`.
PRICE_KEYS: Final = ("input", "cached", "output")


@dataclass(frozen=True, kw_only=True)
class OutpostConfig:
    """One configured outpost.

    Args:
        name: how it is called.
        type: which backend builds it.
        options: the backend's validated options; None when no installed package has the type.
        raw: what the file says, `name` and `type` included.
        origin: where it was written.
    """

    name: str
    type: str
    options: OutpostOptions | None
    raw: Mapping[str, Json] = field(default_factory=dict)
    origin: Origin = BUILT_IN


class AgentOutput(StrEnum):
    """How the output of an agent is read (`types.Agent.output`)."""

    PLAIN = "plain"
    CLAUDE = "claude-stream-json"
    CODEX = "codex-json"
    GEMINI = "gemini-json"
    OPENCODE = "opencode-json"


@dataclass(frozen=True, kw_only=True)
class AgentOptions:
    """An entry of the section `agents`: a command by a name, as `agents.AgentPreset` has it."""

    headless: tuple[str, ...] | None = option(
        "program and arguments for work alone; {prompt}, {prompt_file} and {issue} are replaced",
        default=None,
    )
    interactive: tuple[str, ...] | None = option(
        "program and arguments for work on a terminal", default=None
    )
    output: AgentOutput = option(
        "how the headless output tells outcome, session and cost", default=AgentOutput.PLAIN
    )
    env: dict[str, str] = option("variables that it always gets", default={})
    secrets: tuple[str, ...] = option(
        "names of variables with its keys, taken from your environment; never values", default=()
    )
    forward: tuple[str, ...] = option(
        "names of ordinary variables taken from your environment", default=()
    )
    summary: str = option("one line for lists", default="")
    install: str = option("the command that installs it, for hints", default="")
    login: str = option("the command that logs it in, for hints", default="")
    logins: tuple[str, ...] = option("files of which one is there once it is logged in", default=())
    resume: tuple[str, ...] | None = option(
        "program and arguments that go on with the session {session}", default=None
    )
    model_args: tuple[str, ...] = option(
        "arguments that choose the model {model}, for --model", default=()
    )
    budget_args: tuple[str, ...] = option(
        "arguments by which it keeps within {budget} USD itself", default=()
    )
    max_agent_cost_usd: float | None = option(
        "USD that it may spend where the order does not say", default=None, min=0
    )


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """The section `defaults`: what holds for every order that does not say otherwise."""

    agent: str = option("the agent preset that does the work", default="claude")
    branch: str | None = option(
        "the branch to deliver, {issue} and {attempt} replaced; outpost/{issue} if none, inside a"
        " Gas Town polecat/{issue}",
        default=None,
    )
    base: str | None = option("branch to start from; the remote's default if none", default=None)
    depth: int | None = option("history depth of a first clone; all if none", default=None, min=1)
    commit_message: str = option(
        "message for work left uncommitted; {issue} and {title} are replaced",
        default="{issue}: {title}",
    )
    author_name: str = option("author of that commit; git's own if empty", default="")
    author_email: str = option("e-mail of that author; git's own if empty", default="")
    pr_command: tuple[str, ...] = option(
        "command that opens a pull request, one word an item", default=()
    )
    timeout: float | None = option(
        "wall-clock limit of a worker; none if not given", default=None, unit="duration", min=1
    )
    idle_timeout: float | None = option(
        "how long a worker may print nothing", default=None, unit="duration", min=1
    )
    grace: float = option("time between TERM and KILL", default=10.0, unit="duration", min=0)
    clean_after: float | None = option(
        "clean workers by itself that are done for so long; their logs are kept",
        default=None,
        unit="duration",
        min=0,
    )
    checkpoint_every: float = option(
        "time between checkpoints of unpushed work; 0 for none",
        default=300.0,
        unit="duration",
        min=0,
    )
    final_grace: float = option(
        "time that an agent may go on after it reported its end; 0 for no limit",
        default=60.0,
        unit="duration",
        min=0,
    )
    log_bytes: int = option(
        "where a worker's log is cut", default=256 * 1024 * 1024, unit="bytes", min=4096
    )
    max_agent_cost_usd: float | None = option(
        "USD that an agent may spend; at that it is ended, with its work kept; no limit if none",
        default=None,
        min=0.000001,
        max=1_000_000,
    )
    pass_env: tuple[str, ...] = option(
        "names of environment variables handed to every agent", default=()
    )
    answer_timeout: float = option(
        "time an outpost may take to answer list and ping", default=10.0, unit="duration", min=0.05
    )
    spawn_timeout: float = option(
        "time an outpost may take to accept a worker", default=120.0, unit="duration", min=0.05
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole configuration.

    Args:
        outposts: in file order; never empty.
        policy: where orders go.
        defaults: what orders get.
        prices: beginning of a model's name → USD for a million tokens in, cached and out; they
            replace the built-in ones.
        agents: agents by name, each with the fields of `AgentOptions` that the file says; one
            with a preset's name changes that preset.
        path: the file; None when everything is built in.
        origins: dotted key (`outposts.local.max_workers`) → where it was written; a key that
            is not in it is built in.
    """

    outposts: tuple[OutpostConfig, ...]
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    defaults: Defaults = field(default_factory=Defaults)
    prices: Mapping[str, Price] = field(default_factory=dict)
    agents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    path: Path | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One line of `outpost config show`.

    Args:
        key: dotted.
        value: as it would be written in the file; a secret is `***`.
        origin: where it was written, or built in.
    """

    key: str
    value: Json
    origin: Origin


def load_config(
    path: Path | None, backends: Mapping[str, Backend], *, data: bytes | None = None
) -> Config:
    """Read and check a configuration.

    Args:
        path: the file; None for what is built in, one outpost `local` of type `local`.
        backends: installed outpost types.
        data: what was read of the file when it was chosen (`places.Choice.data`): it is not read
            again, since it may say something else by now. None reads it.

    Raises:
        ConfigError: the file cannot be read or has a mistake.
    """
    if path is None:
        return Config(outposts=(built_in_local(backends),))
    from outpost_manager.config.read import parse_config
    from outpost_manager.config.yamlnodes import Document, decode, read_bytes

    text = decode(read_bytes(path) if data is None else data, str(path))
    return parse_config(Document(str(path), text), backends, path)


def settings(config: Config) -> list[Setting]:
    """Return every value that holds, the built-in ones too, in the order of the file's sections."""
    found: list[Setting] = []

    def add(key: str, value: Json) -> None:
        found.append(Setting(key=key, value=value, origin=config.origins.get(key, BUILT_IN)))

    for outpost in config.outposts:
        prefix = f"outposts.{outpost.name}"
        add(f"{prefix}.name", outpost.name)
        add(f"{prefix}.type", outpost.type)
        if outpost.options is None:
            for key, value in outpost.raw.items():
                if key not in ("name", "type"):
                    add(f"{prefix}.{key}", value)
            continue
        for each in option_fields(type(outpost.options)):
            add(f"{prefix}.{each.name}", each.show(getattr(outpost.options, each.name)))
    add("policy.default_preference", [*config.policy.default_preference])
    for number, override in enumerate(config.policy.overrides):
        add(f"policy.overrides.{number}.condition", override.text)
        add(f"policy.overrides.{number}.prefer", [*override.prefer])
    for each in option_fields(Defaults):
        add(f"defaults.{each.name}", each.show(getattr(config.defaults, each.name)))
    for key, shown in _agent_settings(config.agents):
        add(key, shown)
    for model, price in config.prices.items():
        for word, usd in zip(PRICE_KEYS, price, strict=True):
            add(f"prices.{model}.{word}", usd)
    return found


def _agent_settings(agents: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Json]]:
    """Yield key and value of all that the section `agents` says."""
    known = {each.name: each for each in option_fields(AgentOptions)} if agents else {}
    for name, said in agents.items():
        for key, value in said.items():
            yield f"agents.{name}.{key}", known[key].show(value)


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
    return found


def add_outpost(
    path: Path,
    type: str,  # noqa: A002 - the word of the file
    name: str,
    values: Mapping[str, Json],
    backends: Mapping[str, Backend],
) -> None:
    """Write one more outpost into the file; see `edit.add`."""
    from outpost_manager.config import edit

    edit.add(path, type, name, values, backends)


def remove_outpost(
    path: Path, name: str, backends: Mapping[str, Backend], *, prune: bool = False
) -> None:
    """Take an outpost out of the file; see `edit.remove`."""
    from outpost_manager.config import edit

    edit.remove(path, name, backends, prune=prune)


def built_in_local(backends: Mapping[str, Backend]) -> OutpostConfig:
    """Return the outpost that is there when none is listed."""
    backend = backends.get("local")
    return OutpostConfig(
        name="local",
        type="local",
        options=backend.options() if backend else None,
        raw={"name": "local", "type": "local"},
    )
