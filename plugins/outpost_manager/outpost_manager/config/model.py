"""What `outposts.yaml` configures, typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outpost_core.backend import Backend, OutpostOptions, option
from outpost_core.isolation import contained, describe
from outpost_manager.config.accounts import AccountConfig
from outpost_manager.config.api import ApiConfig
from outpost_manager.config.budgets import BudgetConfig
from outpost_manager.config.notify import NotifyConfig
from outpost_manager.config.origin import BUILT_IN, Origin
from outpost_manager.config.policy import PolicyConfig
from outpost_manager.config.queue import QueueConfig
from outpost_manager.config.retries import RetriesConfig
from outpost_manager.config.scaling import ScalingConfig
from outpost_manager.config.schedules import ScheduleConfig

if TYPE_CHECKING:
    from outpost_core.types import Json, Price

#: What a price in the section `prices` says, in the order of `types.Price`.
PRICE_KEYS: Final = ("input", "cached", "output")


@dataclass(frozen=True, kw_only=True)
class OutpostConfig:
    """One configured outpost.

    Args:
        name: how it is called.
        type: which backend builds it.
        options: the backend's validated options; None when no installed package has the type, or
            its code for options failed.
        raw: what the file says, `name` and `type` included.
        origin: where it was written.
        problem: how the code of the type failed; "" when it did not.
        scaling: when how many of its machines are up; None: nobody brings it up and down.
    """

    name: str
    type: str
    options: OutpostOptions | None
    raw: Mapping[str, Json] = field(default_factory=dict)
    origin: Origin = BUILT_IN
    problem: str = ""
    scaling: ScalingConfig | None = None


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
    output: str = option(
        "how the headless output tells outcome, session and cost: plain, claude-stream-json,"
        " codex-json, gemini-json, opencode-json, or one that an installed package reads",
        default="plain",
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
        "program and arguments that continue with the session {session}", default=None
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
        "time that an agent may continue after it reported its end; 0 for no limit",
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
        budgets: what may be reserved and spent.
        retries: what is tried again, and how often.
        accounts: whose credentials agents work with; of those of one agent the first with room.
        queue: in which order what waits is placed.
        schedules: orders that are put into the queue at times of the calendar.
        notify: who is told of what happens.
        api: where the mayor is found.
        path: the file; None when everything is built in.
        origins: dotted key (`outposts.local.max_workers`) → where it was written; a key that
            is not in it is built in.
    """

    outposts: tuple[OutpostConfig, ...]
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    defaults: Defaults = field(default_factory=Defaults)
    prices: Mapping[str, Price] = field(default_factory=dict)
    agents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    budgets: tuple[BudgetConfig, ...] = ()
    retries: RetriesConfig = field(default_factory=RetriesConfig)
    accounts: tuple[AccountConfig, ...] = ()
    queue: QueueConfig = field(default_factory=QueueConfig)
    schedules: tuple[ScheduleConfig, ...] = ()
    notify: tuple[NotifyConfig, ...] = ()
    api: ApiConfig = field(default_factory=ApiConfig)
    path: Path | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict)


def built_in_local(backends: Mapping[str, Backend]) -> OutpostConfig:
    """Return the outpost that is there when none is listed."""
    backend, options, problem = backends.get("local"), None, ""
    try:
        with contained():
            options = backend.options_class() if backend else None
    except Exception as error:  # noqa: BLE001 - options are a plugin's own code
        problem = options_problem("local", error)
    return OutpostConfig(
        name="local",
        type="local",
        options=options,
        raw={"name": "local", "type": "local"},
        problem=problem,
    )


def options_problem(type: str, error: Exception) -> str:  # noqa: A002 - the word of the file
    """Say that the code of a type failed, which is no mistake of the user."""
    return f"the options of the type {type!r} cannot be made: {describe(error)}"
