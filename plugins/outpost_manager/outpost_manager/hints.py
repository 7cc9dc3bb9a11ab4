"""What to do next, for each reason why a worker ended otherwise than well."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final

from outpost_core.types import State

if TYPE_CHECKING:
    from outpost_core.agents import AgentPreset
    from outpost_core.types import Worker

#: reason → the next step, one line. `{worker}`, `{issue}`, `{outpost}`, `{login}` and `{install}`
#: are replaced.
HINTS: Final[Mapping[str, str]] = {
    "agent_failed": "outpost logs {worker}",
    "agent_signal": "outpost logs {worker}; when memory ran out, the system ended it:"
    " outpost doctor {outpost}",
    "budget_reached": "give the same command with --again and a higher --max-agent-cost",
    "rate_limited": "when the limit is reset: outpost retry {issue}",
    "overloaded": "in a few minutes: outpost retry {issue}",
    "not_logged_in": "log in at {outpost}{login}, or set its key where you type the order, from"
    " where it travels along as a secret; then outpost retry {issue}",
    "permission_denied": "allow the tool that is named above, in the agent's own settings or with"
    " --agent-arg; then outpost retry {issue}, or with --agent-arg the same command with --again",
    "command_not_found": "{install}; a worker sees the PATH of its outpost:"
    " outpost doctor {outpost}",
    "wrapper_not_found": "install it where {outpost} runs workers, or change its options",
    "no_fence": "outpost doctor {outpost} says what is missing; `fence: auto` continues without",
    "timeout": "outpost logs {worker}; for more time, give the same command with --again and a"
    " longer --timeout",
    "idle_timeout": "see what it waited for: outpost logs {worker}; for more time, give the same"
    " command with --again and a longer --idle-timeout",
    "workspace_failed": "outpost doctor {outpost} --rig RIG says whether the repository can be used"
    " from there",
    "branch_blocked": "deliver to another branch with --branch, or rename the one in the way",
    "rig_partial": "name the repository that this one was cloned from: --rig URL",
    "base_not_found": "name another base with --base; workers start from what is pushed",
    "commit_failed": "outpost show {worker} says where the work is",
    "filter_missing": "install and configure the filter at {outpost}; outpost show {worker} says"
    " where the files are",
    "lfs_missing": "install git-lfs at {outpost} (sudo apt install git-lfs); then"
    " outpost retry {issue}",
    "lfs_failed": "see that the LFS server of the remote answers and has room; then"
    " outpost retry {issue}",
    "push_failed": "put right what the remote refused; then outpost retry {issue}",
    "submodule_unpushed": "push the submodule's commits from where outpost show {worker} says that"
    " they are; then outpost retry {issue}",
    "verify_failed": "look for a hook or a mirror at the remote that moves branches",
    "disk_full": "make room at {outpost}, with outpost clean for instance; then"
    " outpost retry {issue}",
    "superseded": "the machine that took it over says how it ended; else outpost retry {issue}",
    "lost_process": "outpost retry {issue}",
    "never_started": "outpost retry {issue}",
    "broken": "nothing of it is run any more; look at its files before outpost clean --force"
    " {worker}",
    "internal": "outpost logs {worker}; please report it with the message above",
}


#: The same for reasons that backends of ours add.
BACKENDS: Final[Mapping[str, str]] = {
    "cloudrun_out_of_memory": "give {outpost} more `memory`, fewer workers a container"
    " (`concurrency`), or a `disk` for its clones; then outpost retry {issue}",
    "cloudrun_cancelled": "somebody cancelled it at Google; outpost retry {issue}",
    "cloudrun_deleted": "somebody deleted it at Google; outpost retry {issue}",
    "k8s_unschedulable": "ask for less (`cpu`, `memory`, `ephemeral_storage`), let {outpost} use"
    " more nodes (`node_selector`, `tolerations`), or add some",
    "k8s_gated": "whoever sets the gate (a policy, a queue) removes it",
    "k8s_queued": "its queue has no room now: kubectl get clusterqueues says how much it has",
    "k8s_suspended": "whoever suspended it resumes it: kubectl edit job, `suspend: false`",
    "k8s_quota": "raise the quota, ask for less (`cpu`, `memory`, `ephemeral_storage`), or lower"
    " `max_workers`",
    "k8s_admission": "outpost doctor {outpost}; change the policy, or what it refuses with"
    " `pod_template`",
    "k8s_image_pull": "outpost doctor {outpost} looks at `image` and `image_pull_secrets`",
    "k8s_config_missing": "create it in the namespace, or change `secrets`, `git_secret` or"
    " `pod_template`",
    "k8s_volume": "look at the claims: kubectl get pvc; outpost bootstrap {outpost} makes those"
    " of `volume` and `rig_cache`",
    "k8s_start_failed": "outpost doctor {outpost} looks at the image and the runtime class",
    "k8s_init_failed": "it comes from `pod_template` or from a webhook; the message says how it"
    " ended",
    "k8s_oom_killed": "give {outpost} more `memory`; then outpost retry {issue}",
    "k8s_disk_full": "give {outpost} more `ephemeral_storage`; then outpost retry {issue}",
    "k8s_evicted": "outpost retry {issue}; kubectl describe node says what its node lacked",
    "k8s_preempted": "outpost retry {issue}; `priority_class` makes it more important",
    "k8s_node_lost": "outpost retry {issue}",
    "k8s_node_shutdown": "outpost retry {issue}",
    "k8s_node_refused": "outpost retry {issue}",
    "k8s_deadline": "outpost logs {worker}; for more time, give the same command with --again and a"
    " longer --timeout",
    "k8s_deleted": "outpost retry {issue}",
    "k8s_namespace_terminating": "give {outpost} another `namespace`, or make it again: outpost"
    " bootstrap {outpost}",
    "k8s_unknown": "outpost retry {issue}",
    "k8s_work_lost": "outpost retry {issue}; a `volume` keeps such work",
    "k8s_no_order": "outpost doctor {outpost}; then outpost retry {issue}",
    "k8s_not_claimed": "see that pods can push to the repository: outpost doctor {outpost} --rig"
    " RIG",
    "k8s_rig_not_brought": "outpost retry {issue}, and let `outpost spawn` come to its end",
    "k8s_elsewhere": "the machine that has it says how it ended; else outpost retry {issue}",
}


def next_step(worker: Worker, presets: Mapping[str, AgentPreset]) -> str:
    """Return what a person can do about a worker that ended otherwise than well; "" for nothing.

    Args:
        worker: an ended one.
        presets: all that there are, for what installs an agent and logs it in.
    """
    result = worker.result
    if result is None or worker.state in (State.DONE, State.STOPPED):
        return ""
    preset = presets.get(worker.agent)
    login = preset.login if preset is not None else ""
    known = {**BACKENDS, **HINTS}
    text = known.get(result.reason, "outpost logs {worker}")
    values = {
        "worker": worker.id,
        "issue": worker.issue,
        "outpost": worker.outpost,
        "login": f" ({login})" if login else "",
        "install": preset.install if preset and preset.install else "install the agent's command",
    }
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    if result.checkpoint and result.checkpoint.endswith(".tar"):
        text += f"; what the archive has: tar -tf {result.checkpoint}"
    elif result.checkpoint:
        what = "it" if "retry" in text or "--again" in text else f"outpost retry {worker.issue}"
        text += f"; {what} continues from what is kept"
    return text


def missing_agent(
    agent: str, preset: AgentPreset | None, machines: Collection[str], images: Collection[str]
) -> str:
    """Return what a person can do about an agent that outposts do not have.

    Args:
        agent: its name.
        preset: how it is installed; None where nobody knows.
        machines: outposts where it can be installed.
        images: outposts whose workers run in a container of an image: it has to be in there.
    """
    steps = []
    if machines:
        by_hand = f": {preset.install}" if preset is not None and preset.install else ""
        steps.append(f"install it there{by_hand}; `outpost bootstrap NAME` does that where it can")
    if images:
        names = ", ".join(sorted(images))
        steps.append(
            f"for {names} it has to be in the image: outpost image build --agent {agent}, and push"
            " it"
        )
    return "; ".join(steps)
