"""From what a user says to an order: the issue, the agent, the repository, the limits.

Everything is checked here, before anything changes anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from outpost_core.errors import NotFoundError, OutpostError, UsageError
from outpost_core.names import RIG_CREDENTIAL, check_branch, split_rig
from outpost_core.types import (
    Agent,
    Delivery,
    Issue,
    Json,
    Limits,
    Order,
    Price,
    Secrets,
    check_env_name,
    check_issue_id,
)
from outpost_manager.config.accounts import secret_names
from outpost_manager.config.spending import check_limit, counted, prices
from outpost_manager.config.town import rig_of_town, town_of
from outpost_manager.orders import presets
from outpost_manager.orders.localgit import LocalGit, find_rig
from outpost_manager.orders.pullrequest import command_for

if TYPE_CHECKING:
    from outpost_core.agents import AgentPreset
    from outpost_manager.config.accounts import AccountConfig
    from outpost_manager.config.model import Defaults

#: How an issue is put to an agent when no prompt is given.
PROMPT = """\
Work on issue {id}{title}.
{text}
You are in a working tree of the repository, on the branch {branch}. Make the change that the
issue asks for, run the project's tests where there are any, and commit your work with a message
that says why. Do not push: that is done for you.
"""


@dataclass(frozen=True, kw_only=True)
class OrderRequest:
    """What a user asks for; None and empty mean «not said».

    Args:
        issue: the issue's id.
        rig: URL or path of the repository; None: the repository around the current folder.
        no_rig: run in an empty folder, without a repository.
        base: where to start from.
        branch: the branch to push; a template with `{issue}` and `{attempt}`.
        agent: a preset's name.
        command: argv of a bare command instead of a preset.
        model: the model that the preset's agent is to use.
        agent_args: further arguments for the preset's agent.
        prompt: what to tell the agent.
        prompt_file: a file to read the prompt from.
        title: overrides the issue's title.
        priority: 0 to 4.
        estimate: seconds.
        labels: are added to the issue's.
        kind: overrides the issue's type.
        env: variables for the agent.
        secrets: names of variables whose values are taken from the caller's environment.
        context: hints.
        timeout: seconds.
        idle_timeout: seconds.
        grace: seconds.
        checkpoint_every: seconds.
        final_grace: seconds.
        attempt: a certain attempt.
        again: the attempt after the last one.
        from_base: start from the base, and not from what an earlier attempt has left.
        interactive: run the agent on a terminal.
        depth: history depth of the first clone.
        cpu: cores.
        memory: bytes.
        pr_command: argv that opens a pull request.
        max_agent_cost: USD that the agent may spend; of a command, what it spends at most by the
            user's word.
        pr: open a pull request; the command is told from the rig's host where none is configured.
        text: overrides the issue's text.
    """

    issue: str
    rig: str | None = None
    no_rig: bool = False
    base: str | None = None
    branch: str | None = None
    agent: str | None = None
    command: tuple[str, ...] | None = None
    model: str | None = None
    agent_args: tuple[str, ...] = ()
    prompt: str | None = None
    prompt_file: Path | None = None
    title: str | None = None
    priority: int | None = None
    estimate: float | None = None
    labels: tuple[str, ...] = ()
    kind: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    context: Mapping[str, Json] = field(default_factory=dict)
    timeout: float | None = None
    idle_timeout: float | None = None
    grace: float | None = None
    checkpoint_every: float | None = None
    final_grace: float | None = None
    attempt: int | None = None
    again: bool = False
    from_base: bool = False
    interactive: bool = False
    depth: int | None = None
    cpu: float | None = None
    memory: int | None = None
    pr_command: tuple[str, ...] | None = None
    max_agent_cost: float | None = None
    pr: bool = False
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What an order is made from besides the request.

    Args:
        defaults: of the configuration.
        presets: agents by name.
        find_issue: `(issue id, rig)` → the issue, or None when nobody knows it.
        environ: where secrets come from.
        cwd: where relative paths start.
        attempt: the attempt's number.
        resume: checkpoint of the attempt before, or None.
        resume_at: the outpost that alone has it, or "".
        local: asks git about `cwd`; None for a new one.
        prices: the section `prices` of the configuration.
        owner: id of the ledger, for the names of refs; "" for none.
        accounts: the section `accounts` of the configuration.
    """

    defaults: Defaults
    presets: Mapping[str, AgentPreset]
    find_issue: Callable[[str, str | None], Issue | None]
    environ: Mapping[str, str]
    cwd: Path
    attempt: int
    resume: str | None = None
    resume_at: str = ""
    local: LocalGit | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)
    owner: str = ""
    accounts: Sequence[AccountConfig] = ()

    @property
    def git(self) -> LocalGit:
        """What asks git about `cwd`."""
        return self.local or LocalGit(self.cwd, self.environ)


def make_order(request: OrderRequest, around: Surroundings) -> Order:
    """Build and check an order.

    Raises:
        UsageError: anything in the request is wrong; nothing was changed.
    """
    check_issue_id(request.issue)
    agent = _agent(request, around)
    named, elsewhere = _rig(request, around)
    url, password = split_rig(named or "")
    push, push_password = split_rig(elsewhere)
    rig = url or None
    if request.pr and rig is None:
        command_for(None)
    _amount("depth", request.depth, 1)
    _amount("estimate", request.estimate)
    issue = _issue(request, around, rig)
    branch = _branch(request, around)
    passwords = "\n".join(filter(None, (password, push_password)))
    return Order(
        issue=issue,
        agent=agent,
        attempt=around.attempt,
        rig=rig,
        base=_base(request, around, named) or (around.defaults.base if rig else None),
        resume=around.resume if rig else None,
        resume_at=around.resume_at if rig else "",
        owner=around.owner if rig else "",
        depth=request.depth or (around.defaults.depth if rig else None),
        delivery=_delivery(request, around, issue, branch, rig, push) if rig else None,
        prompt=_prompt(request, issue, branch, around.cwd),
        env=_env(request),
        secrets=_secrets(request, around, passwords, agent.name),
        context=dict(request.context),
        limits=_limits(request, around, agent),
    )


def _agent(request: OrderRequest, around: Surroundings) -> Agent:
    if request.command is not None:
        if request.agent:
            raise UsageError("both an agent and a command were given", hint="give one of the two")
        if not request.command or not request.command[0]:
            raise UsageError("the command is empty", hint="write it after --")
        if request.model or request.agent_args:
            raise UsageError(
                "--model and --agent-arg are for agents with a preset",
                hint="write the command's own arguments after --",
            )
        return Agent(
            argv=tuple(_no_nul(word) for word in request.command), interactive=request.interactive
        )
    name = request.agent or around.defaults.agent
    agent = presets.resolve(
        name,
        around.presets,
        interactive=request.interactive,
        environ=around.environ,
        budget=_max_agent_cost(request, around),
        model=request.model,
        extra=[_no_nul(word) for word in request.agent_args],
    )
    return replace(agent, prices=prices(agent.output, around.prices))


def _max_agent_cost(request: OrderRequest, around: Surroundings) -> float | None:
    """Return what the agent may spend.

    A default is a limit that is kept. Where nobody can see what is spent, in a command or on a
    terminal, only what the order itself says counts.
    """
    limit = request.max_agent_cost
    preset = around.presets.get(request.agent or around.defaults.agent)
    if limit is None and request.command is None and not request.interactive and preset:
        limit = preset.max_agent_cost_usd
        if limit is None and counted(preset.output):
            limit = around.defaults.max_agent_cost_usd
    check_limit(limit, "")
    return limit


def _rig(request: OrderRequest, around: Surroundings) -> tuple[str | None, str]:
    """Return the rig, and where its work is pushed when that is elsewhere."""
    if request.no_rig:
        if request.rig:
            raise UsageError("both --rig and --no-rig were given", hint="give one of the two")
        return None, ""
    if request.rig:
        return find_rig(request.rig, around.cwd), ""
    if town := rig_of_town(around.cwd, request.issue, around.environ):
        return find_rig(town, around.cwd), ""
    here = around.git.around()
    if here is None:
        raise UsageError(
            "no repository was named, and this folder is in none",
            hint="add --rig URL or --rig PATH; --no-rig runs the agent in an empty folder",
        )
    return here.rig, here.push


def _base(request: OrderRequest, around: Surroundings, rig: str | None) -> str | None:
    if request.base is None or request.rig or request.no_rig:
        return request.base
    here = around.git.around()
    if here is None or here.rig != rig:  # a town has told the rig
        return request.base
    from outpost_manager.orders.unpushed import base_of

    return base_of(around.git, request.base)


def _issue(request: OrderRequest, around: Surroundings, rig: str | None) -> Issue:
    try:
        known = around.find_issue(request.issue, rig)
    except NotFoundError:
        if _is_told(request) and request.title is None and request.text is None:
            raise
        known = None
    except OutpostError:
        if request.prompt is None and request.prompt_file is None and request.text is None:
            raise  # the agent would be told nothing of the issue
        known = None
    known = known or Issue(id=request.issue)
    labels = dict.fromkeys((*known.labels, *request.labels))
    return Issue(
        id=request.issue,
        title=known.title if request.title is None else request.title,
        text=known.text if request.text is None else request.text,
        priority=known.priority if request.priority is None else request.priority,
        estimate=known.estimate if request.estimate is None else request.estimate,
        labels=tuple(labels),
        kind=known.kind if request.kind is None else request.kind,
    )


def _is_told(request: OrderRequest) -> bool:
    """Whether the agent is told what the issue says, and nothing else."""
    if request.prompt is not None or request.prompt_file is not None:
        return False
    words = request.command
    return words is None or any("{prompt}" in word or "{prompt_file}" in word for word in words)


def _usual_branch(around: Surroundings) -> str:
    """Return the branch when nobody said one: Gas Town gives its workers' branches a name."""
    return "polecat/{issue}" if town_of(around.environ, around.cwd) else "outpost/{issue}"


def _branch(request: OrderRequest, around: Surroundings) -> str:
    template = request.branch or around.defaults.branch or _usual_branch(around)
    branch = template.replace("{issue}", request.issue).replace("{attempt}", str(around.attempt))
    return check_branch(branch)


def _delivery(
    request: OrderRequest, around: Surroundings, issue: Issue, branch: str, rig: str, push: str
) -> Delivery:
    defaults = around.defaults
    message = defaults.commit_message
    name, email = around.git.identity()
    for word, value in (("issue", issue.id), ("title", issue.title or "work by an agent")):
        message = message.replace("{" + word + "}", value)
    return Delivery(
        branch=branch,
        message=_no_nul(message),
        author_name=defaults.author_name,
        author_email=defaults.author_email,
        push_url=push,
        user_name=name,
        user_email=email,
        pr_command=tuple(_no_nul(word) for word in _pr_command(request, defaults, push or rig)),
    )


def _pr_command(request: OrderRequest, defaults: Defaults, rig: str) -> tuple[str, ...]:
    """Return the command that opens a pull request: as said, as configured, or by the host."""
    said = defaults.pr_command if request.pr_command is None else request.pr_command
    return said if said or not request.pr else command_for(rig)


def _prompt(request: OrderRequest, issue: Issue, branch: str, cwd: Path) -> str:
    if request.prompt is not None and request.prompt_file is not None:
        raise UsageError("both a prompt and a prompt file were given", hint="give one of the two")
    if request.prompt is not None:
        return _no_nul(request.prompt)
    if request.prompt_file is not None:
        file = cwd / request.prompt_file
        try:
            return _no_nul(file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise UsageError(f"the prompt file {file} cannot be read: {why}") from error
    if _is_told(request) and not issue.title and not issue.text.strip():
        raise UsageError(
            f"nobody knows the issue {issue.id}, so there is nothing to tell the agent",
            hint="add --title, --prompt or --prompt-file, or check the id: bd show " + issue.id,
        )
    text = f"\n{issue.text.strip()}\n" if issue.text.strip() else ""
    title = f": {issue.title}" if issue.title else ""
    return _no_nul(PROMPT.format(id=issue.id, branch=branch, title=title, text=text))


def _env(request: OrderRequest) -> dict[str, str]:
    return {check_env_name(name): _no_nul(value) for name, value in request.env.items()}


def _secrets(request: OrderRequest, around: Surroundings, password: str, agent: str) -> Secrets:
    """Return what goes apart from the order: what was asked for, `pass_env` (nobody knows what is
    in it), the preset's own keys, those of the agent's accounts, and the password of the rig's URL.
    """
    values = {}
    for name in request.secrets:
        if check_env_name(name) not in around.environ:
            raise UsageError(
                f"the secret {name} is not set in your environment",
                hint=f"export {name}=… first; its value never continues a command line",
            )
        values[name] = around.environ[name]
    preset = around.presets.get(request.agent or around.defaults.agent)
    own = preset.secrets if request.command is None and preset is not None else ()
    for name in (*around.defaults.pass_env, *own):
        if around.environ.get(name) and name not in request.env:
            values.setdefault(name, around.environ[name])
    # those of an account are read when the order is handed to its outpost
    for name in secret_names(around.accounts, agent):
        values.setdefault(name, "")
    if password:
        values[RIG_CREDENTIAL] = password
    return Secrets(values)


def _limits(request: OrderRequest, around: Surroundings, agent: Agent) -> Limits:
    defaults = around.defaults

    def either(said: float | None, default: float | None) -> float | None:
        return default if said is None else said

    limits = Limits(
        timeout=either(request.timeout, defaults.timeout),
        idle_timeout=either(request.idle_timeout, defaults.idle_timeout),
        log_bytes=defaults.log_bytes,
        grace=either(request.grace, defaults.grace) or 0.0,
        checkpoint_every=either(request.checkpoint_every, defaults.checkpoint_every) or 0.0,
        cpu=request.cpu,
        memory=request.memory,
        max_agent_cost_usd=_max_agent_cost(request, around),
        final_grace=either(request.final_grace, defaults.final_grace) or 0.0,
    )
    check_limit(limits.max_agent_cost_usd, agent.output)
    for name in (
        *("timeout", "idle_timeout", "grace", "checkpoint_every", "cpu", "memory", "final_grace"),
    ):
        _amount(name, getattr(limits, name))
    return limits


def _amount(name: str, value: float | None, least: float = 0) -> None:
    """Refuse what is less than `least`, endless, or no number at all."""
    if value is not None and not least <= value < inf:
        raise UsageError(f"{name} is {value}; it must be a number from {least} on")


def _no_nul(text: str) -> str:
    """Return a text that a program can be given: no NUL, and only what has bytes."""
    if "\0" in text:
        raise UsageError(f"a NUL character in {text[:40]!a}", hint="remove it")
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        around = text[max(error.start - 20, 0) : error.start + 20]
        raise UsageError(f"half of a character in {around!a}", hint="remove it") from None
    return text
