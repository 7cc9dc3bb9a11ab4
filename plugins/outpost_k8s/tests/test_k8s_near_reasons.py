"""Why a worker waits or ended, from objects that a real cluster of the lab has told (1.36)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Final

import pytest

from outpost_core.types import State
from outpost_k8s.near import ended, seen, waiting
from outpost_k8s.near.codes import REASONS, Why
from outpost_k8s.near.reasons import explain

RECORDED: Final[dict[str, dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "data" / "near_reasons.json").read_text()
)


def recorded(case: str) -> dict[str, Any]:
    return copy.deepcopy(RECORDED[case])


def told(case: dict[str, Any]) -> Why:
    return explain(case["job"], case["pod"], case["events"])


#: case → state, reason, and a part of what is said of it.
WAITS: Final = {
    "cpu": (State.STARTING, "k8s_unschedulable", "1 Insufficient cpu"),
    "selector": (State.STARTING, "k8s_unschedulable", "didn't match Pod's node affinity/selector"),
    "taint": (State.STARTING, "k8s_unschedulable", "2 node(s) had untolerated taint(s)"),
    "gated": (State.QUEUED, "k8s_gated", "non-empty scheduling gates"),
    "imagebad": (State.STARTING, "k8s_image_pull", "its name is none"),
    "imagenever": (State.STARTING, "k8s_image_pull", "`image_pull_policy` is Never"),
    "imagepull": (State.STARTING, "k8s_image_pull", "the registry does not answer"),
    "novolume": (State.STARTING, "k8s_volume", 'persistentvolumeclaim "gone" not found'),
    "noorder": (State.STARTING, "k8s_config_missing", 'secret "nosuch" not found'),
    "configkey": (State.STARTING, "k8s_config_missing", 'secret "model" not found'),
    "quota": (State.STARTING, "k8s_quota", "exceeded quota: small"),
    "limit": (State.STARTING, "k8s_quota", "memory limit of 16Mi"),
    "psa": (State.STARTING, "k8s_admission", 'violates PodSecurity "restricted'),
    "policy": (State.STARTING, "k8s_admission", "agents are not allowed here"),
    "webhook": (State.STARTING, "k8s_admission", 'webhook "away.example.com"'),
    "serviceaccount": (State.STARTING, "k8s_admission", 'serviceaccount "nobody" not found'),
    "priority": (State.STARTING, "k8s_admission", "no PriorityClass with name nosuch"),
    "runtime": (State.STARTING, "k8s_admission", 'RuntimeClass "gvisor" not found'),
    "suspended": (State.QUEUED, "k8s_suspended", "suspended"),
    "kueue": (State.QUEUED, "k8s_queued", "queue agents"),
    "initrun": (State.STARTING, "", "its init container prepare runs"),
    "running": (State.WORKING, "", ""),
    "pod_deleted_ending": (State.WORKING, "", "its pod is being ended"),
    "evicted_ending": (State.WORKING, "", "Eviction API: evicting"),
    "job_deleted_ending": (State.WORKING, "", "its Job was deleted"),
    "preempted_ending": (State.WORKING, "", "higher priority pod"),
    "node_given_up": (State.WORKING, "", "its pod is given up"),
    "node_silent": (State.WORKING, "", "its node does not answer since 2026-11-28 18:32:46 UTC"),
}
ENDS: Final = {
    "oom": (State.FAILED, "k8s_oom_killed", "more than its `memory`"),
    "deadline": (State.FAILED, "k8s_deadline", "activeDeadlineSeconds"),
    "diskfull": (State.FAILED, "k8s_disk_full", 'EmptyDir volume "disk" exceeds the limit'),
    "initfail": (State.FAILED, "k8s_init_failed", "prepare ended with exit code 7: no disk"),
    "nocommand": (State.FAILED, "k8s_start_failed", "no such file or directory"),
    "agentfail": (State.LOST, "lost_process", "ended with exit code 3 and left no result"),
    "ok": (State.LOST, "lost_process", "left no result"),
    "preempted": (State.LOST, "k8s_preempted", "Preempted by pod"),
    "node_lost": (State.LOST, "k8s_node_lost", "its node was lost"),
    "poddeleted": (State.LOST, "k8s_deleted", "its pod was deleted or evicted"),
    "podevicted": (State.LOST, "k8s_deleted", "its pod was deleted or evicted"),
    "jobdeleted": (State.LOST, "k8s_deleted", "its Job was deleted"),
}


@pytest.mark.parametrize("case", sorted(WAITS))
def test_what_a_worker_waits_for_is_told(case: str) -> None:
    state, reason, words = WAITS[case]
    why = told(recorded(case))
    assert (why.state, why.reason) == (state, reason)
    assert words in why.detail
    assert bool(why.hint) == bool(reason)
    waits = reason and state is State.STARTING
    assert bool(why.since) == bool(waits or case == "initrun"), "patience counts"


@pytest.mark.parametrize("case", sorted(ENDS))
def test_how_a_worker_ended_is_told(case: str) -> None:
    state, reason, words = ENDS[case]
    why = told(recorded(case))
    assert (why.state, why.reason) == (state, reason)
    assert words in why.message
    result = why.result()
    assert (result.state, result.reason, result.message) == (state, reason, why.message)
    unbegun = case in ("initfail", "nocommand")
    assert result.agent_began is (False if unbegun else None)


def test_moments_of_a_pod_are_the_cluster_s() -> None:
    why = told(recorded("agentfail"))
    assert (why.started, why.finished, why.exit_code) == (1795890337.0, 1795890337.0, 3)
    assert told(recorded("oom")).signal == 9
    assert told(recorded("nocommand")).started is None, "the epoch stands for never"


def test_a_container_whose_end_nobody_saw_is_told_as_unknown() -> None:
    case = recorded("oom")
    done = case["pod"]["status"]["containerStatuses"][0]["state"]["terminated"]
    done |= {"reason": "ContainerStatusUnknown", "message": "The container could not be located"}
    why = told(case)
    assert (why.state, why.reason) == (State.LOST, "k8s_unknown")
    assert "could not be located" in why.message


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("PreemptionByScheduler", "k8s_preempted"),
        ("DeletionByTaintManager", "k8s_node_lost"),
        ("DeletionByPodGC", "k8s_node_lost"),
        ("EvictionByEvictionAPI", "k8s_evicted"),
        ("TerminationByKubelet", "k8s_evicted"),
    ],
)
def test_a_disrupted_pod_says_by_what(reason: str, code: str) -> None:
    case = recorded("agentfail")
    case["pod"]["status"]["conditions"].append(
        {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "because"}
    )
    why = told(case)
    assert (why.state, why.reason) == (State.LOST, code)
    assert why.message.endswith(": because")


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("Evicted", "k8s_evicted"),
        ("NodeLost", "k8s_node_lost"),
        ("NodeShutdown", "k8s_node_shutdown"),
        ("Terminated", "k8s_node_shutdown"),
        ("UnexpectedAdmissionError", "k8s_node_refused"),
        ("OutOfcpu", "k8s_node_refused"),
        ("OutOfpods", "k8s_node_refused"),
    ],
)
def test_a_pod_that_its_node_ends_says_why(reason: str, code: str) -> None:
    case = recorded("agentfail")
    case["pod"]["status"] = {"phase": "Failed", "reason": reason, "message": "The node was low"}
    why = told(case)
    assert why.reason == code
    assert why.began is False, "no container of it is known"
    assert "The node was low" in why.message


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ('failed to resolve reference "r/x:1": r/x:1: not found', "has no such image"),
        ("unexpected status from HEAD request: 401 Unauthorized", "wants a login"),
        ("pull access denied, repository does not exist", "does not let the cluster have it"),
        ("dial tcp: lookup r.example: no such host", "name leads nowhere"),
        ("tls: failed to verify certificate: x509", "does not trust"),
        ("429 Too Many Requests - toomanyrequests: pull rate limit", "gives out no more"),
        ("no match for platform in manifest", "another kind of machine"),
        ("write /var/lib: no space left on device", "the node's disk is full"),
    ],
)
def test_an_image_that_cannot_be_had_says_which_error(said: str, words: str) -> None:
    case = recorded("imagepull")
    waits = case["pod"]["status"]["containerStatuses"][0]["state"]["waiting"]
    for reason in ("ErrImagePull", "ImagePullBackOff"):
        waits |= {"reason": reason, "message": said}
        why = told(case)
        assert why.reason == "k8s_image_pull"
        assert words in why.detail


def test_kueue_tells_the_place_in_the_queue_and_why() -> None:
    case = recorded("kueue")
    workload = {
        "status": {
            "conditions": [
                {
                    "type": "QuotaReserved", "status": "False", "reason": "Pending",
                    "message": "insufficient unused quota for cpu in flavor default, 1 more needed",
                }
            ]
        }
    }  # fmt: skip
    why = explain(case["job"], None, [], workload=workload, position=3)
    assert why.detail == (
        "Kueue has not admitted its Job yet: queue agents, 3 before it; insufficient unused quota"
        " for cpu in flavor default, 1 more needed"
    )
    assert "it is next" in explain(case["job"], None, [], position=0).detail


def test_a_namespace_that_ends_is_told() -> None:
    case = recorded("psa")
    for event in case["events"]:
        event["message"] = (
            'Error creating: pods "x-1" is forbidden: unable to create new content in namespace'
            " gone because it is being terminated"
        )
    assert told(case).reason == "k8s_namespace_terminating"


def test_an_autoscaler_that_adds_a_node_is_told() -> None:
    case = recorded("cpu")
    case["events"].append({"reason": "TriggeredScaleUp", "message": "pod triggered scale-up"})
    assert told(case).detail.endswith("the cluster's autoscaler adds a node")


def test_the_same_words_are_told_each_time_a_pod_is_refused() -> None:
    case = recorded("quota")
    before = told(case).detail
    for event in case["events"]:
        event["message"] = event["message"].replace('pods "quota-', 'pods "quota-another-')
    assert told(case).detail == before


HOSTILE: Final[tuple[object, ...]] = (
    None,
    7,
    "text",
    [],
    {},
    [None, 3],
    {"a": {"b": []}},
    "2026-99-99T00:00:00Z",
)


@pytest.mark.parametrize("odd", HOSTILE)
def test_objects_of_another_shape_are_read_as_nothing(odd: object) -> None:
    for case in (recorded("oom"), recorded("cpu"), recorded("kueue"), recorded("initfail")):
        for place in ("metadata", "status", "spec"):
            for thing in ("job", "pod"):
                if case[thing] is not None:
                    broken = copy.deepcopy(case)
                    broken[thing][place] = odd
                    told(broken)
        if case["pod"]:
            broken = copy.deepcopy(case)
            broken["pod"]["status"]["containerStatuses"] = odd
            broken["pod"]["status"]["conditions"] = odd
            told(broken)


def test_what_the_cluster_says_is_one_bounded_plain_line() -> None:
    case = recorded("psa")
    for event in case["events"]:
        event["message"] = "Error creating: \x1b[31mred\nline\u202e " + "x" * 100_000
    detail = told(case).detail
    assert detail.isprintable()
    assert len(detail) < 500


def test_every_code_is_in_the_table_and_used() -> None:
    used = {*ended._POD.values(), *ended._DISRUPTION.values(), *ended._EVENTS.values()}
    used |= {reason for _, reason, _ in [*WAITS.values(), *ENDS.values()]}
    used |= {reason for _, reason in waiting._CREATE_ERRORS}
    assert used - {"", "lost_process"} <= REASONS.keys()
    by_pods = {"k8s_work_lost", "k8s_no_order", "k8s_not_claimed", "k8s_rig_not_brought"}
    assert REASONS.keys() - used == {"k8s_unknown", "k8s_elsewhere", *by_pods}
    assert seen.moment({"at": "2026-11-28T18:25:36.123456Z"}, "at") == 1795890336.123456
