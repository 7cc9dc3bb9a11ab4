"""The table of retries: for each reason why an attempt ended, what comes next, and why.

The reference page `docs/reference/retries.md` is made from it. Reasons of backends are known here
by their names alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from outpost_core.types import State

MINUTE: Final = 60.0


class Where(StrEnum):
    """Where another attempt goes."""

    ANY = "any"  #: as the policy says
    OTHER = "other"  #: to another outpost, as long as there is another one
    ELSEWHERE = "elsewhere"  #: to another outpost; without one it is not tried again


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What comes after one reason.

    Args:
        times: how often it is tried again by itself; 0 for never.
        where: where it goes then.
        first: seconds before the first of these attempts; they double.
        park: its account is left alone until the provider's limit is over, and it goes on then.
            `times` is how often that may happen.
        asked: it is tried again where somebody asked for that (`retries` of an order).
        why: why that is so, in words.
    """

    times: int = 0
    where: Where = Where.ANY
    first: float = MINUTE
    park: bool = False
    asked: bool = False
    why: str = ""


def _judged(why: str) -> Rule:
    return Rule(asked=True, why=why)


def _never(why: str) -> Rule:
    return Rule(why=why)


_MACHINE: Final = Rule(
    times=3, where=Where.OTHER, first=30.0, why="the machine was lost, not the work"
)
_SETUP: Final = Rule(
    times=3,
    where=Where.ELSEWHERE,
    first=1.0,
    why="it is so at that outpost until somebody mends it",
)
_CLUSTER: Final = Rule(
    times=2, where=Where.ELSEWHERE, first=30.0, why="the cluster could not start it"
)

#: reason → what comes after it.
TABLE: Final[Mapping[str, Rule]] = {
    "ok": _never("it is done"),
    "nothing_to_commit": _never("the agent found that nothing was to be done"),
    "agent_failed": _judged("the agent says itself that it failed, and would most likely again"),
    "agent_signal": Rule(
        times=1, where=Where.OTHER, why="mostly memory ran out; another machine may have more"
    ),
    "budget_reached": _never("more money is a decision of a person"),
    "rate_limited": Rule(
        times=50, first=15 * MINUTE, park=True, why="the limit is over at a moment that is known"
    ),
    "overloaded": Rule(
        times=20, first=2 * MINUTE, park=True, why="the provider recovers by itself"
    ),
    "not_logged_in": Rule(
        times=2, where=Where.ELSEWHERE, first=1.0, why="another outpost may have a login"
    ),
    "permission_denied": _judged("what was denied is denied again"),
    "command_not_found": _SETUP,
    "wrapper_not_found": _SETUP,
    "no_fence": _SETUP,
    "timeout": _judged("the time was what the order gave it; the next attempt goes on from there"),
    "idle_timeout": Rule(times=1, why="an agent that hangs rarely does so twice"),
    "workspace_failed": Rule(
        times=2, where=Where.OTHER, why="the remote, or the way to it, may be back soon"
    ),
    "branch_blocked": _never("a branch is in the way until a person removes it"),
    "rig_partial": _never("the repository lacks objects wherever it is used"),
    "base_not_found": _never("the base has to be pushed first"),
    "commit_failed": _judged("a hook of the repository refused it, most likely again"),
    "filter_missing": _never("what was not committed is kept at its outpost alone"),
    "lfs_missing": _SETUP,
    "lfs_failed": Rule(times=2, first=5 * MINUTE, why="the LFS server may be back soon"),
    "push_failed": Rule(times=2, first=5 * MINUTE, why="the remote may take it a while later"),
    "submodule_unpushed": _never("a person has to push the submodule"),
    "verify_failed": Rule(times=1, first=5 * MINUTE, why="a mirror may have been late"),
    "stopped": _never("a person stopped it"),
    "superseded": _never("another machine has it, and says how it ends"),
    "terminated": _MACHINE,
    "disk_full": Rule(times=2, where=Where.OTHER, first=5 * MINUTE, why="another disk has room"),
    "lost_process": _MACHINE,
    "never_started": Rule(
        times=3, where=Where.OTHER, first=30.0, why="its agent never began, so nothing is lost"
    ),
    "broken": Rule(times=1, where=Where.OTHER, why="something wrote into its files there"),
    "internal": Rule(times=1, where=Where.OTHER, why="the same defect may not come elsewhere"),
    # Cloud Run
    "cloudrun_out_of_memory": Rule(
        times=1, where=Where.ELSEWHERE, first=1.0, why="its container has no more memory next time"
    ),
    "cloudrun_cancelled": _never("a person cancelled it at Google"),
    "cloudrun_deleted": _never("a person deleted it at Google"),
    # Kubernetes
    "k8s_unschedulable": _CLUSTER,
    "k8s_gated": _CLUSTER,
    "k8s_queued": _CLUSTER,
    "k8s_suspended": _CLUSTER,
    "k8s_quota": _CLUSTER,
    "k8s_admission": _SETUP,
    "k8s_image_pull": _SETUP,
    "k8s_config_missing": _SETUP,
    "k8s_volume": _SETUP,
    "k8s_start_failed": _CLUSTER,
    "k8s_init_failed": _CLUSTER,
    "k8s_oom_killed": Rule(
        times=1, where=Where.ELSEWHERE, first=1.0, why="its pod has no more memory next time"
    ),
    "k8s_disk_full": Rule(
        times=1, where=Where.ELSEWHERE, first=1.0, why="its pod has no more disk next time"
    ),
    "k8s_evicted": Rule(times=3, first=30.0, why="its node was drained, and others are there"),
    "k8s_preempted": Rule(times=3, first=5 * MINUTE, why="something more important has its place"),
    "k8s_node_lost": Rule(times=3, first=30.0, why="the node was lost, not the work"),
    "k8s_node_shutdown": Rule(times=3, first=30.0, why="the node went, and others are there"),
    "k8s_node_refused": Rule(times=3, first=30.0, why="another node may take it"),
    "k8s_deadline": _judged("the time was what the order gave it"),
    "k8s_deleted": _never("a person deleted it"),
    "k8s_namespace_terminating": _SETUP,
    "k8s_unknown": Rule(times=1, where=Where.OTHER, why="nobody knows what it was"),
    "k8s_work_lost": Rule(times=1, where=Where.OTHER, why="it starts from the last checkpoint"),
    "k8s_no_order": Rule(times=1, where=Where.OTHER, why="its agent never began"),
    "k8s_not_claimed": Rule(times=1, where=Where.OTHER, why="its agent never began"),
    "k8s_rig_not_brought": Rule(
        times=2, where=Where.OTHER, why="the repository was not brought in time"
    ),
    "k8s_elsewhere": _never("another machine has it, and says how it ends"),
}

#: What comes after a reason that is not in the table, by the state of the worker.
OTHERWISE: Final[Mapping[State, Rule]] = {
    State.DONE: _never("it is done"),
    State.FAILED: _judged("nobody knows whether it would go better"),
    State.STOPPED: _never("it was stopped"),
    State.LOST: _MACHINE,
}


def rule_of(reason: str, state: State) -> Rule:
    """Return what comes after a reason, for a worker that ended in a state."""
    return TABLE.get(reason) or OTHERWISE.get(state) or _never("it has not ended")


def page() -> str:
    """Return the reference page."""
    return "\n".join([*_lines(), ""])


def _lines() -> Iterator[str]:
    yield """\
# Retries
What comes after an attempt of the queue that has ended, by the `reason` of its result. A further
attempt always starts from the work that was rescued. The section
[`retries`](configuration.md#retries) of the configuration sets ceilings, and says for any reason
how often it is tried again; see [leave it running](../guides/unattended.md).

*any*: wherever the policy says; *other*: to another outpost where there is one; *elsewhere*: to
another outpost, or not at all. *asked*: only where `queue add --retry` or the configuration asks
for it. *parks*: its account is left alone until the limit is over, and then the same session goes
on; at once where another account has room, see
[usage limits](../guides/unattended.md#usage-limits). Back-offs double, and are shortened by up to a
half at random.
"""
    yield "| reason | tried again | where | first back-off | why |\n| --- | --- | --- | --- | --- |"
    for reason, rule in TABLE.items():
        yield f"| `{reason}` | {_row(rule)} |"
    for state, rule in OTHERWISE.items():
        yield f"| any other, {state.value} | {_row(rule)} |"


def _row(rule: Rule) -> str:
    from outpost_core.units import format_duration

    if rule.park:
        first = f"{format_duration(rule.first)} where no moment is named"
        return f"parks, {rule.times} × at most | {rule.where} | {first} | {rule.why}"
    if not rule.times:
        return f"{'asked' if rule.asked else 'never'} | – | – | {rule.why}"
    return f"{rule.times} × | {rule.where} | {format_duration(rule.first)} | {rule.why}"
