"""Named places where a crash is survived, and the switch that makes one happen there.

Every write that changes durable state is followed by `point(NAME)`. In production that is one
comparison. In tests, `OUTPOST_FAULT=NAME` in the environment makes the process kill itself there
with SIGKILL (no cleanup handler runs, as in a power cut); the conformance suite walks through
all of `NEAR` and demands that exactly one worker and no orphan is left.
"""

from __future__ import annotations

import os

#: The controller's side: in the process that calls `Manager.spawn`.
NEAR = (
    "manager.reserved",  # slot, cost and order are in the ledger, the backend knows nothing
    "manager.spawned",  # the backend has accepted, the ledger does not know it yet
    "manager.recorded",  # the ledger says starting; the caller has not been answered
)
#: Trying again what failed before its agent began, in the same process.
RENEW = (
    "manager.renewing",  # the ended row is claimed; its outpost has its files still
    "manager.cleared",  # the outpost has forgotten it, the ledger shows how it ended
)
#: The failures of plugins, in the process that saw one.
PLUGINS = (
    "plugins.kept",  # the last failure of a plugin is in the file for other processes
)
#: Mail, in the process that sends it.
MAIL = (
    "mail.posted",  # the message is in the outbox; nobody was asked
    "mail.delivered",  # the outpost has it, the outbox does not know it yet
)
#: Telling an observer what happened, in whatever process does that.
OBSERVERS = (
    "observer.begun",  # the ledger says that the event is being told
    "observer.told",  # the observer is done with it, which is not written down yet
)
#: The local backend's spawn, also in the caller's process (over SSH: in the far server).
LOCAL = (
    "local.sealed",  # the seal of a worker that nobody sees yet
    "local.staged",  # order, prompt and secrets are in a staging folder
    "local.published",  # the worker's folder exists under its id, nothing runs
    "local.launched",  # tmux or the detached process was started
)
#: The warm process, which forks supervisors for who launches several.
WARM = (
    "warm.listening",  # nobody has asked it
    "warm.asked",  # it knows whose supervisors are wanted, and has forked none
    "warm.forked",  # it has forked them; whoever asked has no answer
)
#: The configuration, in the process that changes or trusts it.
CONFIG = (
    "config.written",  # the file is as it was meant; what is trusted is as it was before
    "config.trusted",  # it is written down that the user trusts the file
)
#: What removes an ended worker's files.
CLEAN = (
    "clean.discarded",  # the worker's folder is in the trash, whole
)
#: The worker's supervisor.
FAR = (
    "worker.claimed",  # the attempt is claimed for ever; the agent has not run
    "worker.prepared",  # the working tree is there
    "worker.agent_started",
    "worker.agent_ended",  # the agent's exit is recorded, nothing is committed
    "worker.committed",
    "worker.pushed",
    "worker.verified",  # the remote's commit was seen, no result is written
    "worker.finished",  # result.json is there
)
#: The same, where a rig has large files or filters.
FILTERS = (
    "worker.lfs_uploaded",  # the objects are on the rig, no ref was moved
    "worker.lfs_kept",  # the objects are beside the bundle that needs them
    "worker.unfiltered_kept",  # the files whose filter is missing are in their archive
)
#: The record of a worker at a place that outlives its machine, in whatever process writes it.
RECORD = (
    "record.pushed",  # a value may be on the rig; nobody has looked
    "record.claimed",  # the claim stands; nothing runs
    "record.stop_asked",  # word of a stop stands
    "record.finished",  # the result stands
    "record.leg_begun",  # where the log of a further leg begins was said
    "record.segment_put",  # bytes of a log are kept, which this process does not know yet
    "record.forgotten",  # one part of a record is removed
)
#: Whatever process keeps a worker's unpushed work.
KEEPING = (
    "checkpoint.noted",  # it is written down what is to be pushed
    "checkpoint.pushed",  # it was seen on the rig, which is not written down yet
    "checkpoint.kept",  # it is in a bundle in the worker's folder, which is not written down yet
    "clean.kept",  # the bundle is where it stays; the worker's folder is still there
)
#: The same, where a working tree holds other repositories or what git does not take.
CONTENT = (
    "worker.packed",  # the archive is written under another name
    "worker.kept",  # the archive is there and noted
    "worker.git_taking",  # refs of the agent's repository are taken over, its index is not
    "worker.git_taken",  # all of it is, and noted
    "worker.submodules_committed",  # the submodules' edits are in commits of theirs
    "worker.submodules_pushed",  # the remotes of the submodules show them, the rig nothing
)
#: The near program, where the rig is a path of its own machine and the worker is on another one.
RIG = (
    "rig.noted",  # what is to come home is written down, nothing was sent
    "rig.packed",  # what the other machine lacks is in a file here
    "rig.uploaded",  # all of it is there, but not in the repository there
    "rig.taken",  # the repository there has it; nothing was spawned
    "rig.fetched",  # the ended worker's commits are in a repository aside
    "rig.homed",  # they are in the rig; the other machine has not been told
    "rig.told",  # the worker is shown as done; the note is still there
)
#: The same, where that other machine is gone for good.
GONE = ("rig.given_up",)  # nothing is waited for any more; how the worker ended is not written
#: The same, for the files with work that no remote took.
RESCUE = (
    "rescue.fetched",  # all of them are here, where nobody looks for them
    "rescue.kept",  # they are where they stay; no result says so, the other machine was not told
)
#: The same, on the machine of the worker.
HOSTED = (
    "hosted.indexed",  # the objects are there, no ref was moved
    "hosted.noted",  # it is written down which values of refs are to be known as the near side's
    "hosted.applied",  # the refs are moved
    "hosted.home",  # it is written that the work is home
)

#: The program in a container, beside what a worker's own folder and record go through.
SERVER = (
    "server.noted",  # the claim that is to be made is written down; nobody has claimed anything
    "server.settled",  # the record says how the worker ended, and that is noted here
)
#: The program in a pod, besides those, and what serves it to whoever execs into the pod.
POD = (
    "pod.brought",  # the repository is here, and that is noted; nothing was claimed
    "pod.stop_noted",  # a stop is noted; nobody was told
    "pod.kept",  # work that no remote took is on the volume; the record does not say so yet
    "pod.told",  # the termination message is written
    "pod.collected",  # it is noted that the work was fetched; the pod is still there
)
#: Setting up the namespace of a Kubernetes outpost, in the process that does.
KUBE_SETUP = (
    "k8s.applied",  # one of its objects is at the cluster; what follows is not, nobody was told
)
#: The keeper of a Cloud Run outpost, which holds its workers' streams between commands.
KEEPER = (
    "keeper.recorded",  # the order is in the state folder; nobody was asked to start it
    "keeper.accepted",  # it certainly runs, and that is noted; the caller has not been answered
    "keeper.logged",  # output is in the log, and how far it goes was told nobody
    "keeper.stop_noted",  # a stop is written down; nobody was asked
    "keeper.rescued",  # unpushed work is in a bundle here; the worker has no result yet
    "keeper.finished",  # the result is here; nothing is removed elsewhere
    "keeper.discarded",  # what is known of a worker is in the trash, whole
    "keeper.recalled",  # an order of which nothing was known is here; nobody was asked of it
)

#: Workers that are jobs of Cloud Run, in the process that keeps them.
JOBS = (
    "job.created",  # the job is there and begins by itself; nothing is noted here
    "job.cancelled",  # its execution is being cancelled; nobody has seen its end
    "job.settled",  # the result stands in the worker's record; the job is still there
    "job.removed",  # the job is removed; the result is not here yet
)

#: Workers that are instances of Cloud Run, in the process that keeps them.
INSTANCES = (
    "instance.created",  # the instance is there and is paid for; no worker is in it
    "instance.harvested",  # the result is noted here; the instance is still paid for
    "instance.removed",  # it is gone; the worker does not count as ended yet
    "instance.stopped",  # the program in it was asked; nobody has seen the end
)

#: Workers that are Jobs of Kubernetes, in the program that orders, lists and removes them.
KUBE = (
    "kube.secret_created",  # the order is in a Secret that nothing owns; there is no Job
    "kube.job_created",  # the Job is there and begins by itself; nothing is noted here
    "kube.secret_owned",  # the Secret goes with the Job
    "kube.accepted",  # it is noted here that the Job is there; the caller has not been answered
    "kube.stop_noted",  # a stop stands at the Job; nobody in the pod was told
    "kube.ending_noted",  # it is written down that a worker is taken back; its Job is there
    "kube.harvested",  # the result is here; the Job is still there
    "kube.log_kept",  # the output is here
    "kube.secret_deleted",  # the order of an ended worker is gone from the cluster
    "kube.job_deleted",  # the Job is being deleted; nobody has seen it gone
    "kube.forgotten",  # what is kept here is in the trash, whole
)

#: The queue, in whatever process changes it or works on it.
QUEUE = (
    "queue.added",  # the orders wait; whoever ordered has no answer
    "dispatch.chosen",  # it is known whose turn it is; nothing is reserved
    "dispatch.placed",  # workers run; what comes next was not looked for
    "queue.removed",  # entries are out of the queue; whoever asked has no answer
)

#: The mayor, which places, follows and tells by itself.
MAYOR = (
    "mayor.leased",  # the state folder is its own, and it is written down whose
    "mayor.fired",  # what a schedule ordered is in the queue, with its firing
    "mayor.noticed",  # what is to be told is written down; nobody was told
    "mayor.told",  # somebody was told; that is not written down yet
    "token.kept",  # a token counts, or counts no more; whoever asked has no answer
)

#: Bringing an outpost up and down, in the mayor or the command that does.
SCALE = (
    "scale.begun",  # what is to be done is written down, nobody has begun
    "scale.decided",  # whoever does it has it in hand; the outpost was not asked
    "scale.emptied",  # nothing is there, and nothing can come; it is up
    "scale.asked",  # it is up, or down; nobody has written that down
)

_armed = os.environ.get("OUTPOST_FAULT", "")

#: Processes that die first at a fault: a forked stage takes its supervisor along.
together: list[int] = []


def arm(name: str) -> None:
    """Make this process, and what it starts, die at the point `name`; for tests only."""
    global _armed  # noqa: PLW0603 - one process has one
    _armed = os.environ["OUTPOST_FAULT"] = name


def point(name: str) -> None:
    """Die here with SIGKILL if this fault was asked for, else do nothing."""
    if name == _armed:
        for pid in (*together, os.getpid()):
            os.kill(pid, 9)
