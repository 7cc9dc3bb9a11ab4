"""Codes of why a worker waits or has ended, each with what it means and what helps.

`docs/reference/reasons.md` shows the table; `outpost_manager.hints` has the hints too.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Final, NamedTuple

from outpost_core.types import Result, State


class Reason(NamedTuple):
    """What a code means, and what helps; `{outpost}` and `{issue}` are replaced."""

    words: str
    hint: str


REASONS: Final[dict[str, Reason]] = {
    "k8s_unschedulable": Reason(
        "no node can take its pod",
        "ask for less (`cpu`, `memory`, `ephemeral_storage`), let {outpost} use more nodes"
        " (`node_selector`, `tolerations`), or add some",
    ),
    "k8s_gated": Reason(
        "its pod is held back by a scheduling gate",
        "whoever sets the gate (a policy, a queue) removes it",
    ),
    "k8s_queued": Reason(
        "Kueue has not admitted its Job yet",
        "its queue has no room now: kubectl get clusterqueues says how much it has",
    ),
    "k8s_suspended": Reason(
        "its Job is suspended",
        "whoever suspended it resumes it: kubectl edit job, `suspend: false`",
    ),
    "k8s_quota": Reason(
        "the namespace's ResourceQuota or LimitRange leaves no room for its pod",
        "raise the quota, ask for less (`cpu`, `memory`, `ephemeral_storage`), or lower"
        " `max_workers`",
    ),
    "k8s_admission": Reason(
        "the cluster refuses its pod: a policy, a webhook, or a name that does not exist",
        "outpost doctor {outpost}; change the policy, or what it refuses with `pod_template`",
    ),
    "k8s_image_pull": Reason(
        "its image cannot be had",
        "outpost doctor {outpost} looks at `image` and `image_pull_secrets`",
    ),
    "k8s_config_missing": Reason(
        "a Secret or ConfigMap that its pod needs is missing, or lacks a key",
        "create it in the namespace, or change `secrets`, `git_secret` or `pod_template`",
    ),
    "k8s_volume": Reason(
        "a volume of its pod is missing, or cannot be bound or mounted",
        "look at the claims: kubectl get pvc; outpost bootstrap {outpost} makes those of `volume`"
        " and `rig_cache`",
    ),
    "k8s_start_failed": Reason(
        "its container could not be started",
        "outpost doctor {outpost} looks at the image and the runtime class",
    ),
    "k8s_init_failed": Reason(
        "an init container of its pod failed",
        "it comes from `pod_template` or from a webhook; the message says how it ended",
    ),
    "k8s_oom_killed": Reason(
        "it used more than its `memory`, and was killed",
        "give {outpost} more `memory`; then outpost retry {issue}",
    ),
    "k8s_disk_full": Reason(
        "it used more disk than its pod may",
        "give {outpost} more `ephemeral_storage`; then outpost retry {issue}",
    ),
    "k8s_evicted": Reason(
        "its pod was evicted, for a drain of its node or for want of something there",
        "outpost retry {issue}; kubectl describe node says what its node lacked",
    ),
    "k8s_preempted": Reason(
        "its pod made room for one of a higher priority",
        "outpost retry {issue}; `priority_class` makes it more important",
    ),
    "k8s_node_lost": Reason(
        "its node was lost, and its pod with it",
        "outpost retry {issue}",
    ),
    "k8s_node_shutdown": Reason(
        "its node was shut down",
        "outpost retry {issue}",
    ),
    "k8s_node_refused": Reason(
        "its node refused its pod after all",
        "outpost retry {issue}",
    ),
    "k8s_deadline": Reason(
        "its Job was over its `activeDeadlineSeconds`",
        "outpost logs {worker}; for more time, give the same command with --again and a"
        " longer --timeout",
    ),
    "k8s_deleted": Reason(
        "somebody deleted its pod or its Job",
        "outpost retry {issue}",
    ),
    "k8s_namespace_terminating": Reason(
        "its namespace is being deleted",
        "give {outpost} another `namespace`, or make it again: outpost bootstrap {outpost}",
    ),
    "k8s_unknown": Reason(
        "the cluster does not know how its container ended",
        "outpost retry {issue}",
    ),
    "k8s_work_lost": Reason(
        "its pod ended before its work came to the repository of this machine",
        "outpost retry {issue}; a `volume` keeps such work",
    ),
    "k8s_no_order": Reason(
        "its pod could not read its order",
        "outpost doctor {outpost}; then outpost retry {issue}",
    ),
    "k8s_not_claimed": Reason(
        "its record could not be written, so nothing was run",
        "see that pods can push to the repository: outpost doctor {outpost} --rig RIG",
    ),
    "k8s_rig_not_brought": Reason(
        "its repository was not brought from the machine that ordered it",
        "outpost retry {issue}, and let `outpost spawn` come to its end",
    ),
    "k8s_elsewhere": Reason(
        "another pod had claimed it, so this one ran nothing",
        "the machine that has it says how it ended; else outpost retry {issue}",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Why:
    """What a cluster tells of a worker.

    Args:
        state: how it counts; a terminal one is how it counts where it left no result.
        detail: what it waits for, in words; "" for nothing.
        reason: a code of `REASONS`, or one of the core's; "" when all is well.
        message: how it ended, one sentence.
        exit_code: of its container.
        signal: that ended its container.
        began: whether its agent can have begun; None when nobody knows.
        started: when its container began, by the cluster's clocks.
        finished: when it ended, likewise.
        since: since when it waits for what is to come soon, likewise: patience counts from there.
            None while it does not, or where waiting is what was asked for (a queue).
    """

    state: State
    detail: str = ""
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    signal: int | None = None
    began: bool | None = None
    started: float | None = None
    finished: float | None = None
    since: float | None = None

    @property
    def hint(self) -> str:
        """What helps; "" for nothing."""
        return REASONS[self.reason].hint if self.reason in REASONS else ""

    def result(self) -> Result:
        """Return a terminal one as a result."""
        return Result(
            state=self.state,
            reason=self.reason,
            message=self.message,
            exit_code=self.exit_code,
            signal=self.signal,
            started_at=self.started,
            finished_at=self.finished,
            agent_began=self.began,
        )


def killed_by(code: int | None) -> tuple[int | None, int | None]:
    """Return exit code and signal of a container: runtimes tell a signal as 128 and its number."""
    if code is not None and 128 < code < 128 + signal.NSIG:
        return None, code - 128
    return code, None
