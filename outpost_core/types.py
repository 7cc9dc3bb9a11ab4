"""What crosses a boundary: frozen, keyword-only, standard library only.

Units: durations are seconds, moments are seconds since the epoch (UTC), money is USD, sizes are
bytes. The words are those of `docs/glossary.md`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias

from outpost_core.errors import UsageError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

#: Metadata of a field of an order that came after 0.1.0: while it has its default it is no part
#: of the order's identity (`wire.digest`), so that orders of before stay the same orders.
LATER: Final[Mapping[str, bool]] = MappingProxyType({"later": True})
#: Metadata of such a field that is no part of the identity whatever it says: the same order of
#: two people is one worker.
ASIDE: Final[Mapping[str, bool]] = MappingProxyType({"later": True, "aside": True})

#: USD for a million tokens that go in, that come from a cache, and that come out.
Price: TypeAlias = tuple[float, float, float]

#: Longest issue id; with ".<attempt>" a worker id stays within what every backend can name.
MAX_ISSUE_ID: Final = 96
_ISSUE_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.))*", re.ASCII)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_OWNER = re.compile(r"(?:[0-9a-f]{8,64})?", re.ASCII)


class State(StrEnum):
    """The state of a worker. The last four are terminal and never change again."""

    QUEUED = "queued"
    STARTING = "starting"
    WORKING = "working"
    IDLE = "idle"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    LOST = "lost"

    @property
    def terminal(self) -> bool:
        """Whether the worker has ended for good."""
        return self in TERMINAL


TERMINAL: Final = frozenset({State.DONE, State.FAILED, State.STOPPED, State.LOST})

#: Stable reason codes of a result, with what they mean. Backends may add their own
#: (`k8s_evicted` …); tools may match on these.
REASONS: Final[Mapping[str, str]] = {
    "ok": "the agent succeeded and its work, if any, is on the remote",
    "nothing_to_commit": "the agent succeeded and changed nothing, so no branch was pushed",
    "agent_failed": "the agent exited with a non-zero code or reported an error",
    "agent_signal": "the agent was ended by a signal",
    "budget_reached": "the agent had spent what it may (max_agent_cost_usd); the work is kept",
    "rate_limited": "the model's provider takes no more requests of this account for a while",
    "overloaded": "the model's provider could not answer: it is overloaded or broken",
    "not_logged_in": "the agent has no valid login or key where it ran",
    "permission_denied": "the agent was denied what it wanted to do, and changed nothing",
    "command_not_found": "the agent's command is not installed there or cannot be executed",
    "wrapper_not_found": "the sandbox before the agent's command is missing or cannot be executed",
    "no_fence": "a fence is required at the outpost, and none can be made there",
    "timeout": "the wall-clock limit passed",
    "idle_timeout": "the agent printed nothing for longer than the idle limit",
    "workspace_failed": "the repository could not be cloned or the working tree not made",
    "branch_blocked": "a branch on the rig is in the way: git cannot have both a and a/b",
    "rig_partial": "the rig is a partial clone, which lacks objects that a worker needs",
    "base_not_found": "the base branch or commit does not exist on the remote",
    "commit_failed": "the work could not be committed; it is kept in the working tree",
    "filter_missing": "files whose filter the outpost lacks (git-crypt, …) were not committed",
    "lfs_missing": "the repository uses git-lfs, which is not installed at the outpost",
    "lfs_failed": "objects of git-lfs could not be fetched or uploaded; the work is kept",
    "push_failed": "the remote did not take the branch; the work is kept, see checkpoint",
    "submodule_unpushed": "commits in a submodule are not on its remote, so the branch was not"
    " pushed; they are kept, see checkpoint",
    "verify_failed": "the push was answered, but the remote does not show the commit",
    "stopped": "a stop was asked for",
    "superseded": "another machine has taken the worker over, so nothing was pushed from this one",
    "terminated": "the supervisor was told to end by its system (SIGTERM)",
    "disk_full": "no space was left on the worker's disk",
    "lost_process": "the supervisor vanished without a result",
    "never_started": "the worker was prepared, but its supervisor never began",
    "broken": "a file of the worker is not as Outpost wrote it; the message says which",
    "internal": "a defect of Outpost itself; the message says more",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Issue:
    """What is to be worked on.

    Args:
        id: 1 to 96 of `A-Z a-z 0-9 . _ -`, starting with a letter or digit, without `..`, not
            ending in `.` or `.lock` (so that it is safe in paths, refs and names everywhere).
        title: one line.
        text: the issue's full text (Markdown).
        priority: 0 to 4; 0 is the highest.
        estimate: how long it may take, in seconds; None when nobody said.
        labels: free words.
        kind: bug, feature, task, … (beads' `issue_type`).

    Raises:
        UsageError: a field is outside what is said above.
    """

    id: str
    title: str = ""
    text: str = ""
    priority: int = 2
    estimate: float | None = None
    labels: tuple[str, ...] = ()
    kind: str = "task"

    def __post_init__(self) -> None:
        check_issue_id(self.id)
        if not 0 <= self.priority <= 4:
            raise UsageError(f"priority {self.priority} is not one of P0 to P4")


def check_issue_id(issue: str) -> str:
    """Return `issue` when it is a valid id.

    Raises:
        UsageError: it is not; the message shows it escaped.
    """
    if (
        len(issue) > MAX_ISSUE_ID
        or not _ISSUE_ID.fullmatch(issue)
        or issue.endswith((".", ".lock"))
    ):
        shown = ascii(issue if len(issue) <= 80 else issue[:77] + "...")
        raise UsageError(
            f"{shown} is not an issue id",
            hint=f"use 1 to {MAX_ISSUE_ID} letters, digits, '.', '_' or '-', starting with a"
            " letter or digit",
        )
    return issue


def check_env_name(name: str) -> str:
    """Return `name` when it can be the name of an environment variable.

    Raises:
        UsageError: it can not.
    """
    if not _ENV_NAME.fullmatch(name):
        raise UsageError(f"{name!a} is not the name of an environment variable")
    return name


class Secrets(Mapping[str, str]):
    """Names and values of secrets. The values show in no repr, and never in JSON by accident.

    Iterating gives the names; `secrets[name]` gives a value.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self._values = dict(values or {})

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Secrets({', '.join(sorted(self._values))})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Agent:
    """The command that does the work.

    Args:
        name: preset's name (`claude`, `codex`, …) or `command` for a bare command.
        argv: program and arguments. `{prompt}`, `{prompt_file}` and `{issue}` inside an
            argument are replaced on the far side, by plain text substitution.
        interactive: runs on a terminal and may wait for a person.
        output: the name of the reader that says what its output means (outcome, session,
            usage), as packages register it; `plain` for none.
        env: variables the agent needs; the order's own `env` wins over them.
        prices: beginning of a model's name → its price, for agents that report tokens alone;
            the longest that fits counts, "" fits every model. Empty: nobody knows.
    """

    argv: tuple[str, ...]
    name: str = "command"
    interactive: bool = False
    output: str = "plain"
    env: Mapping[str, str] = field(default_factory=dict)
    prices: Mapping[str, Price] = field(default_factory=dict, metadata=ASIDE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a worker may use.

    Args:
        timeout: wall-clock seconds for the agent; None for no limit.
        idle_timeout: seconds without any output; None for no limit.
        log_bytes: where `output.log` is cut, with a marker; the agent runs on.
        grace: seconds between TERM and KILL.
        checkpoint_every: seconds between checkpoints of unpushed work; 0 for none.
        cpu: cores that the worker wants, for placement; None when nobody said.
        memory: bytes that the worker wants, for placement; None when nobody said.
        final_grace: seconds that an agent may continue after it has reported its end, before it is
            ended and its work delivered; 0 for no limit.
        max_agent_cost_usd: USD that the agent may spend; at that it is ended, its work rescued.
    """

    timeout: float | None = None
    idle_timeout: float | None = None
    log_bytes: int = 256 * 1024 * 1024
    grace: float = 10.0
    checkpoint_every: float = 300.0
    cpu: float | None = None
    memory: int | None = None
    final_grace: float = field(default=60.0, metadata=LATER)
    max_agent_cost_usd: float | None = field(default=None, metadata=LATER)


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """How work goes home.

    Args:
        branch: the branch to push, already expanded (`outpost/gt-abc123`).
        message: commit message for what the agent left uncommitted.
        author_name: author of that commit; "" for git's own configuration, else `outpost`.
        author_email: likewise.
        pr_command: argv run in the working tree after the push, with `{branch}`, `{base}`,
            `{title}`, `{issue}` replaced; the last URL that it prints becomes `pr_url`.
        push_url: URL or absolute path that branch and checkpoints are pushed to, such as a fork;
            "" for the rig itself.
        user_name: who ordered it: the author of the agent's commits and of ours where neither
            `author_name` nor git at the outpost says one. It is no part of the order's identity.
        user_email: likewise.
    """

    branch: str
    message: str
    author_name: str = ""
    author_email: str = ""
    pr_command: tuple[str, ...] = ()
    push_url: str = field(default="", metadata=LATER)
    user_name: str = field(default="", metadata=ASIDE)
    user_email: str = field(default="", metadata=ASIDE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What is to be done, once. The same order spawned twice is the same worker.

    Args:
        issue: the issue.
        agent: the command.
        attempt: 1 for the first; each `--again` counts up.
        rig: URL or absolute path of the git repository; None for a bare command in an empty
            folder, which delivers nothing.
        base: branch, tag or commit to start from; None for the remote's default branch.
        resume: the checkpoint of an earlier attempt to start from instead: its ref
            (`refs/outpost/<owner>/<worker>`), or a commit.
        owner: id of the ledger that ordered it, 8 to 64 hex digits: part of the names of refs for
            unpushed work, so that nobody takes another one's; "" for those of Outpost 0.1.
        resume_at: the outpost that alone has what `resume` names, since the rig did not take it;
            "" when the rig has it. Neither counts in the digest.
        depth: history depth of the first clone; None for all of it.
        delivery: how the work goes home; None exactly when `rig` is None.
        prompt: what the agent is told; goes to a file, never into a shell.
        env: environment variables for the agent.
        secrets: likewise, but their values are in no file that stays, no log and no JSON.
        context: free hints for the agent, policy and backends.
        limits: what it may use.

    Raises:
        UsageError: `owner` is no such id.
    """

    issue: Issue
    agent: Agent
    attempt: int = 1
    rig: str | None = None
    base: str | None = None
    resume: str | None = None
    owner: str = field(default="", metadata=ASIDE)
    resume_at: str = field(default="", metadata=ASIDE)
    depth: int | None = None
    delivery: Delivery | None = None
    prompt: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Secrets = field(default_factory=Secrets)
    context: Mapping[str, Json] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not _OWNER.fullmatch(self.owner):
            raise UsageError(f"{self.owner[:80]!a} is not the id of a ledger")

    @property
    def worker(self) -> str:
        """The worker's id: `<issue>.<attempt>`."""
        return worker_id(self.issue.id, self.attempt)


def worker_id(issue: str, attempt: int) -> str:
    """Return the id of one attempt at an issue: `gt-abc123.1`."""
    return f"{issue}.{attempt}"


def split_worker_id(worker: str) -> tuple[str, int]:
    """Return issue and attempt of a worker id.

    Raises:
        UsageError: `worker` is not `<issue>.<attempt>`.
    """
    issue, dot, attempt = worker.rpartition(".")
    if dot and attempt.isascii() and attempt.isdigit() and attempt[0] != "0" and len(attempt) < 7:
        return check_issue_id(issue), int(attempt)
    raise UsageError(
        f"{worker[:120]!a} is not a worker id", hint="it looks like gt-abc123.1: issue.attempt"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What the agent says that it used; None where it does not say.

    Args:
        input_tokens: everything that went into the model.
        output_tokens: everything that came out, thinking included.
        cached_tokens: the part of `input_tokens` that came from a cache.
        cost_usd: what that cost.
        turns: how often the model was asked.
        partial: counted from what the agent had printed until it was ended or lost, so it may
            have used more.
        estimated: `cost_usd` was computed from tokens and prices; the agent did not say it.
        model: the model that did most of it.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cost_usd: float | None = None
    turns: int | None = None
    partial: bool = False
    estimated: bool = False
    model: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How a worker ended. Written once, at the backend; never changes.

    Args:
        state: `done`, `failed`, `stopped` or `lost`.
        reason: a code of `REASONS` or a backend's own.
        message: one sentence for people.
        branch: the branch that is on the remote, or None.
        commit: the commit seen on the remote under that branch, or None.
        pr_url: what the pull-request command printed last that looks like a URL.
        exit_code: of the agent, None when a signal ended it or it never ran.
        signal: number of the signal that ended it.
        checkpoint: `refs/outpost/<owner>/<worker>` when unpushed work was rescued to the remote,
            or the path where it is kept, or None.
        session: the agent's own session id, to resume it.
        started_at: when the agent's attempt began.
        finished_at: when this result was written.
        log_bytes: size of `output.log`.
        log_truncated: the log was cut at its cap.
        cost_usd: what the outpost itself charged; None: unknown, so the reserved worst case counts.
        usage: what the agent says that it used.
        agent_began: whether the agent's command was started; False only where that is certain,
            None when nobody can say.
        fence: what kept the agent to its work: `namespace`, `landlock 7`, `off`, `none: ` and why;
            "" when nobody can say.
        retry_at: when its provider takes requests again, as the agent says; None when it does not.
    """

    state: State
    reason: str = "ok"
    message: str = ""
    branch: str | None = None
    commit: str | None = None
    pr_url: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    checkpoint: str | None = None
    session: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    log_bytes: int | None = None
    log_truncated: bool = False
    cost_usd: float | None = None
    usage: Usage = field(default_factory=Usage)
    agent_began: bool | None = None
    fence: str = ""
    retry_at: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerStatus:
    """What a backend knows of one worker.

    Args:
        id: `<issue>.<attempt>`.
        state: its state now; terminal exactly when `result` is there.
        digest: `wire.digest(order)` of the order that it was spawned with.
        detail: a short word for people: the phase, or what it waits for.
        started_at: when the attempt began; None while it is queued.
        updated_at: when the backend last knew something new.
        result: how it ended.
        usage: what the agent has used so far; None when it does not say, and once there is a
            result.
        tree: path of its working tree on its own machine; None when there is none to be seen.
        fence: what keeps its agent to its work, as in its result; "" when nobody can say.
    """

    id: str
    state: State
    digest: str = ""
    detail: str = ""
    started_at: float | None = None
    updated_at: float | None = None
    result: Result | None = None
    usage: Usage | None = None
    tree: str | None = None
    fence: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """One attempt at one order, as the ledger knows it.

    Args:
        id: `<issue>.<attempt>`.
        issue: the issue's id.
        attempt: from 1.
        outpost: where it is.
        digest: `wire.digest(order)`.
        state: the last known state.
        detail: a short word for people.
        title: the issue's title.
        priority: 0 to 4.
        rig: URL or path of the repository, or None.
        agent: the agent's name.
        created_at: when it was reserved.
        started_at: when the attempt began there.
        updated_at: when something new was last heard.
        finished_at: when it ended.
        unreachable_since: since when its outpost does not answer; None while it does.
        cost_reserved: worst-case USD that the outpost may charge, held for it; 0 once settled.
        cost_settled: USD that the outpost charged; None while it runs.
        agent_reserved: worst-case USD that its agent may spend, held for it; None once settled,
            and where nobody knows.
        agent_cost: USD that its agent has spent: what was seen while it runs, then what counts;
            None when it is not known.
        usage: what its agent has used; None when nothing was seen.
        result: how it ended.
    """

    id: str
    issue: str
    attempt: int
    outpost: str
    digest: str
    state: State
    detail: str = ""
    title: str = ""
    priority: int = 2
    rig: str | None = None
    agent: str = ""
    created_at: float = 0.0
    started_at: float | None = None
    updated_at: float | None = None
    finished_at: float | None = None
    unreachable_since: float | None = None
    cost_reserved: float = 0.0
    cost_settled: float | None = None
    agent_reserved: float | None = None
    agent_cost: float | None = None
    usage: Usage | None = None
    result: Result | None = None

    @property
    def unbegun(self) -> bool:
        """Whether it failed, or was lost, before its agent began: its number is free again.

        Not where its machine cost something: that counts towards the cap of the hour, under its id.
        """
        return not self.cost_settled and (
            self.state in (State.FAILED, State.LOST)
            and self.result is not None
            and self.result.agent_began is False
        )

    @property
    def cost(self) -> float | None:
        """USD that it cost so far, machine and agent; None when neither is known."""
        if self.cost_settled is None and self.agent_cost is None:
            return None
        return (self.cost_settled or 0.0) + (self.agent_cost or 0.0)

    @property
    def cost_estimated(self) -> bool:
        """Whether a part of `cost` was estimated from tokens, or the worst case stands for it."""
        if not self.agent_cost:
            return False
        usage = self.usage
        return usage is None or usage.cost_usd is None or usage.estimated or usage.partial

    @property
    def cost_held(self) -> float:
        """USD that are held for it while it runs, machine and agent; 0 once settled."""
        if self.state.terminal:
            return 0.0
        return self.cost_reserved + max(self.agent_reserved or 0.0, self.agent_cost or 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """An answer to ping.

    Args:
        ok: the outpost would take a worker now, as far as it knows itself.
        detail: why not, or what is worth saying (`tmux 3.3a`).
        hint: what to do about it.
        latency: seconds that the answer took; the manager fills it in.
        free_memory: bytes available there; None when unknown.
    """

    ok: bool
    detail: str = ""
    hint: str = ""
    latency: float | None = None
    free_memory: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What an outpost is and has, for placement.

    Args:
        cpus: cores that workers there can use; None when nobody knows.
        memory: bytes of memory that the place has in all; None when nobody knows.
        programs: for each program that was asked for, the path of what a worker there would run,
            or "" when there is no such program on its agents' `PATH`.
        logins: for each of them whether a login of it was seen; nothing of those of which that
            cannot be seen. Keys may still come with an order.
    """

    cpus: float | None = None
    memory: int | None = None
    programs: Mapping[str, str] = field(default_factory=dict)
    logins: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of `outpost doctor`.

    Args:
        check: what was looked at (`tmux`).
        ok: True good, False to be fixed, None worth knowing.
        detail: what was found.
        hint: the command or step that fixes it.
    """

    check: str
    ok: bool | None
    detail: str = ""
    hint: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaned:
    """What removing a worker's files did.

    Args:
        removed: the files are gone (True also when there were none).
        rescued: where unpushed work went first, or None when there was none.
        detail: why it was not removed, or what there is to say besides.
    """

    removed: bool
    rescued: str | None = None
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step of `outpost bootstrap`.

    Args:
        name: what it is about (`tmux`).
        state: `ok` it was there, `would` it would be done, `doing`, `done`, `failed`, or `skipped`
            because an earlier step failed or it is not allowed.
        detail: what was found or done.
        hint: what a person can do about a failed or skipped one.
    """

    name: str
    state: str
    detail: str = ""
    hint: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much of an outpost is up.

    Args:
        running: units (machines, warm containers) that are up.
        target: how many it makes sure of.
        limit: the most that it can have.
        detail: what is worth saying.
        always: it takes work at 0 too.
        price: USD an hour of one more unit; None when it does not know.
    """

    running: int
    target: int
    limit: int = 1
    detail: str = ""
    always: bool = False
    price: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """Mail to someone at an outpost.

    Args:
        to: the address there (a name, or `rig/name`).
        subject: one line.
        body: the text.
        sender: who it is from.
        priority: 0 to 4; 0 is the highest.
        id: its identity, the same at every try to deliver it; "" for one that has none.
        sent_at: when it was written; None when nobody said.
        read: the receiver has seen it.
        via: who put it there (`outpost mail` of whom, on which machine), where its outpost can
            prove that; "" where `sender` is only what the writer claims.
    """

    to: str
    subject: str
    body: str = ""
    sender: str = "overseer"
    priority: int = 2
    id: str = ""
    sent_at: float | None = None
    read: bool = False
    via: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened, told to observers (`outpost_event`).

    Args:
        kind: `reserved`, `spawned`, `refused`, `state`, `unreachable`, … (guide «Watch events»).
        at: when.
        worker: the worker concerned, or "".
        outpost: the outpost concerned, or "".
        data: more, JSON.
        id: its place in the event log, ascending; 0 while it is not there.
    """

    kind: str
    at: float
    worker: str = ""
    outpost: str = ""
    data: Mapping[str, Json] = field(default_factory=dict)
    id: int = field(default=0, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Candidate:
    """One outpost as the policy sees it: a fact sheet, made by the manager.

    Args:
        name: its name.
        type: its type.
        position: its place in the configuration file, from 0.
        available: False when it is missing, broken, unreachable or unhealthy.
        unavailable_reason: why not.
        capabilities: what it declares.
        active: workers there that have not ended, by the ledger.
        max_workers: its slots; None for no limit.
        cost: worst-case USD of this order there: what the outpost charges and its agent spends.
        agent_cost: the agent's part of it.
        uncounted: why nobody knows what the agent may spend, so that no cost cap could be kept;
            "" when it is known.
        spent: USD reserved or settled there in the last hour.
        cost_cap_hourly: USD; None for no cap.
        facts: what it is known to be and have, for orders that ask for that; None when nobody
            knows.
    """

    name: str
    type: str
    position: int
    available: bool = True
    unavailable_reason: str = ""
    capabilities: frozenset[str] = frozenset()
    active: int = 0
    max_workers: int | None = None
    cost: float = 0.0
    agent_cost: float = 0.0
    uncounted: str = ""
    spent: float = 0.0
    cost_cap_hourly: float | None = None
    facts: Facts | None = None


@dataclass(frozen=True)
class Assignment:
    """A policy's choice of outposts for one order.

    Args:
        outposts: a name, or names, best first. Outposts that are not named do not get the order.
        reason: why, in a few words; `outpost explain` and `outpost show` say it.
    """

    outposts: str | Sequence[str]
    reason: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the outposts, best first."""
        return (self.outposts,) if isinstance(self.outposts, str) else tuple(self.outposts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the policy says of one candidate.

    Args:
        outpost: its name.
        rank: 1 is tried first; None when it is passed over.
        eligible: it would be tried.
        reason: why it has that rank, or why it is passed over.
        machine_cost: worst-case USD that the outpost charges; None when nobody looked.
        agent_cost: worst-case USD that the agent spends; None when nobody knows.
    """

    outpost: str
    rank: int | None
    eligible: bool
    reason: str
    machine_cost: float | None = field(default=None, compare=False)
    agent_cost: float | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Why an order goes where it goes; kept with the worker.

    Args:
        rule: the override or preference that ordered the outposts.
        verdicts: one for each candidate, eligible ones first in their order.
        attempts: `(outpost, error)` for each that was tried and did not take it.
        notes: what went wrong while it was decided: a policy that failed and was passed over.
    """

    rule: str
    verdicts: tuple[Verdict, ...]
    attempts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
