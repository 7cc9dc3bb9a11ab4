"""`outpost doctor` of a Kubernetes outpost: what is missing is named, each with its mend."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from peers.kubelab import Cluster

from outpost_core.types import Finding
from outpost_k8s import doctor, findings
from outpost_k8s.api.transport import _skew
from outpost_k8s.objects import around, permissions, room, trial
from outpost_k8s.options import K8sOptions

IMAGE = "localhost/outpost-none:1"


def options(cluster: Cluster, namespace: str, **said: Any) -> K8sOptions:
    values = {"image": IMAGE, "namespace": namespace, "kubeconfig": cluster.kubeconfig}
    return K8sOptions(**values | said)


def examine(chosen: K8sOptions, rig: str | None = None) -> dict[str, Finding]:
    found = asyncio.run(doctor.examine("team", chosen, rig))
    assert len({each.check for each in found}) == len(found)
    return {each.check: each for each in found}


def test_a_namespace_that_is_not_there(cluster: Cluster) -> None:
    found = examine(options(cluster, "nobody-made-this"))
    assert found["cluster"].ok
    assert found["clock"].ok is not False
    assert found["namespace"].ok is False
    assert found["namespace"].hint == "outpost bootstrap team"


def test_what_is_missing_is_named_with_its_mend(cluster: Cluster) -> None:
    said = {
        "secrets": {"KEY": "keys/a", "OTHER": "keys"}, "git_secret": "login/token",
        "image_pull_secrets": ("registry",), "service_account": "agents",
        "runtime_class": "gvisor-none", "priority_class": {"P0": "none-urgent"},
        "volume": "work", "rig_cache": "mirrors/x", "storage_class": "none-fast",
        "node_selector": {"kubelab/none": "x"}, "queue": "team",
    }  # fmt: skip
    with cluster.namespace() as namespace:
        core = f"/api/v1/namespaces/{namespace}"
        cluster.admin.post(f"{core}/secrets", {"metadata": {"name": "keys"}, "data": {"a": ""}})
        found = examine(options(cluster, namespace, **said), "https://git.example/rig.git")
        assert found["namespace"].ok is None
        assert around.ENFORCE in found["namespace"].hint
        for check, word, mend in (
            ("secret keys", "has no OTHER", "create secret generic keys"),
            ("secret login", "not there", "--from-file=token=FILE"),
            ("secret registry", "not there", "docker-registry registry"),
            ("service account", "no agents", "create serviceaccount agents"),
            ("runtime class", "no gvisor-none", "runtimeclasses"),
            ("priority class", "no none-urgent", "priorityclasses"),
            ("storage class", "no none-fast", "storageclasses"),
            ("volume work", "not there", "outpost bootstrap team"),
            ("volume mirrors", "not there", "outpost bootstrap team"),
            ("nodes", "node_selector", "node_selector"),
            ("queue", "team", ""),
        ):
            assert found[check].ok is False, found[check]
            assert word in found[check].detail
            assert mend in found[check].hint
        assert found["network policy"].ok is None
        assert found["rig"].ok is None
        assert "git_credentials" not in found["rig"].hint


def test_what_is_there_is_well(cluster: Cluster) -> None:
    with cluster.namespace({around.ENFORCE: "restricted"}) as namespace:
        core = f"/api/v1/namespaces/{namespace}"
        chosen = options(cluster, namespace, secrets={"KEY": "keys/a"}, volume="work")
        cluster.admin.post(f"{core}/secrets", {"metadata": {"name": "keys"}, "data": {"a": "eA=="}})
        cluster.admin.post(f"{core}/persistentvolumeclaims", around.claim(chosen, "work"))
        cluster.admin.post(
            f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
            around.policy(chosen),
        )
        found = examine(chosen, "/srv/rig.git")
        assert {check for check, each in found.items() if each.ok is False} == set()
        for check in ("namespace", "secret keys", "nodes", "network policy", "worker", "rig"):
            assert found[check].ok is True, found[check]
        assert found["volume work"].ok is None  # nobody has bound it
        assert found["may jobs"].detail == "get list watch create patch delete"


def test_a_pod_that_admission_refuses(cluster: Cluster) -> None:
    with cluster.namespace({around.ENFORCE: "restricted"}) as namespace:
        chosen = options(cluster, namespace, pod_template={"spec": {"hostPID": True}})
        found = examine(chosen)["worker"]
        assert found.ok is False
        assert "restricted" in found.detail


def test_room_in_a_quota(cluster: Cluster) -> None:
    with cluster.namespace() as namespace:
        path = f"/api/v1/namespaces/{namespace}/resourcequotas"
        body = {"metadata": {"name": "q"}, "spec": {"hard": {"requests.cpu": "5", "pods": "9"}}}
        cluster.admin.post(path, body)
        cluster.admin.until(f"{path}/q", lambda quota: quota.get("status", {}).get("hard"))
        found = examine(options(cluster, namespace, cpu=2.0, max_workers=2))["quota"]
        assert (found.ok, found.detail) == (True, "room for 2 more workers (requests.cpu)")
        assert examine(options(cluster, namespace, cpu=2.0, max_workers=3))["quota"].ok is None
        assert examine(options(cluster, namespace, cpu=6.0))["quota"].ok is False


def test_permissions_verb_by_verb(cluster: Cluster) -> None:
    with cluster.namespace() as namespace:
        some = [rule for rule in permissions.rules() if rule["resources"] != ["pods/exec"]]
        some[0] = some[0] | {"verbs": ["get", "list", "watch", "create"]}
        user = cluster.user(namespace, some)
        found = examine(options(cluster, namespace, kubeconfig=user.kubeconfig))
        assert found["may jobs"].ok is False
        assert "not patch delete" in found["may jobs"].detail
        assert found["may pods/exec"].ok is False
        assert "attach" in found["may pods/exec"].detail
        assert "create rolebinding" in found["may pods/exec"].hint
        assert found["may pods"].ok is True
        assert found["nodes"].ok is None  # those of the whole cluster are not for everybody
        assert "cannot be seen" in found["nodes"].detail


def test_every_missing_right_says_what_it_is_for_and_who_can_give_it(cluster: Cluster) -> None:
    with cluster.namespace() as namespace:
        user = cluster.user(namespace, [])
        found = examine(options(cluster, namespace, kubeconfig=user.kubeconfig, queue="team"))
        lines = {check: each for check, each in found.items() if check.startswith("may ")}
        for right in permissions.PERMISSIONS:
            each = lines[f"may {right.name}"]
            assert each.ok is (False if right.needed else None), each
            for verb in right.verbs:
                assert re.search(rf"\b{verb}\b", each.detail), each
            assert right.why in each.detail, each
            assert "create rolebinding" in each.hint, each
            assert len(each.detail) < 200, "one line"


def test_a_server_that_nobody_makes_sure_of_is_told(cluster: Cluster, tmp_path: Path) -> None:
    said = yaml.safe_load(cluster.kubeconfig.read_text())
    place = said["clusters"][0]["cluster"]
    place.pop("certificate-authority-data", None)
    place.pop("certificate-authority", None)
    place["insecure-skip-tls-verify"] = True
    path = tmp_path / "blind"
    path.write_text(yaml.safe_dump(said))
    with cluster.namespace() as namespace:
        assert "connection" not in examine(options(cluster, namespace))
        told = examine(options(cluster, namespace, kubeconfig=path))["connection"]
    assert told.ok is None
    assert "insecure-skip-tls-verify" in told.detail
    assert str(path) in told.hint


def test_the_role_alone_is_enough_for_a_clean_bill(cluster: Cluster) -> None:
    with cluster.namespace() as namespace:
        user = cluster.user(namespace, permissions.rules())
        found = examine(options(cluster, namespace, kubeconfig=user.kubeconfig))
        assert [each for each in found.values() if each.ok is False] == []


def test_a_queue_that_is_there(cluster: Cluster) -> None:
    with cluster.namespace() as namespace, cluster.kueue(namespace, "team"):
        assert examine(options(cluster, namespace, queue="team"))["queue"].ok is True
        missing = examine(options(cluster, namespace, queue="other"))["queue"]
        assert (missing.ok, missing.hint) == (False, "outpost bootstrap team")


def test_an_image_that_a_node_has(cluster: Cluster) -> None:
    nodes = cluster.admin.get("/api/v1/nodes")["items"]
    there = [n for node in nodes for i in node["status"].get("images", []) for n in i["names"]]
    if there:
        with cluster.namespace() as namespace:
            assert examine(options(cluster, namespace, image=there[0]))["image"].ok is True


def test_a_cluster_that_cannot_be_reached(tmp_path: Path) -> None:
    config = tmp_path / "config"
    found = examine(K8sOptions(image=IMAGE, kubeconfig=config))
    assert found["cluster"].ok is False
    config.write_text(
        "{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster:"
        " {server: 'https://127.0.0.1:1'}}], users: [{name: u, user: {token: x}}],"
        " contexts: [{name: c, context: {cluster: c, user: u}}]}"
    )
    (cluster,) = examine(K8sOptions(image=IMAGE, kubeconfig=config)).values()
    assert cluster.ok is False


# --- pure ----------------------------------------------------------------------------------------


def node(**spec: Any) -> dict[str, Any]:
    allocatable = {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "100Gi"}
    return {"metadata": {"labels": {"disk": "ssd"}}, "spec": spec,
            "status": {"allocatable": allocatable}}  # fmt: skip


def pod(**said: Any) -> dict[str, Any]:
    spec: dict[str, Any] = trial.trial_pod(K8sOptions(image=IMAGE, **said))["spec"]
    return spec


TAINT = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
GPU = {"spec": {"containers": [
    {"name": "worker", "resources": {"limits": {"nvidia.com/gpu": 1}}}]}}  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "said", "why"),
    [
        ({}, {}, ""),
        ({}, {"node_selector": {"disk": "ssd"}}, ""),
        ({}, {"node_selector": {"disk": "hdd"}}, "node_selector"),
        ({"unschedulable": True}, {}, "cordoned"),
        ({"taints": [TAINT]}, {}, "taint gpu"),
        ({"taints": [TAINT]}, {"tolerations": ("gpu=yes:NoSchedule",)}, ""),
        ({"taints": [TAINT]}, {"tolerations": ("gpu=no",)}, "taint gpu"),
        ({"taints": [TAINT]}, {"tolerations": ("*",)}, ""),
        ({"taints": [TAINT]}, {"tolerations": ("gpu:NoExecute",)}, "taint gpu"),
        ({"taints": [TAINT | {"effect": "PreferNoSchedule"}]}, {}, ""),
        ({}, {"cpu": 4.5}, "cpu"),
        ({}, {"memory": 9 << 30}, "memory"),
        ({}, {"ephemeral_storage": 200 << 30}, "ephemeral-storage"),
        ({}, {"pod_template": GPU}, "nvidia.com/gpu"),
    ],
)  # fmt: skip
def test_why_a_node_can_not(spec: dict[str, Any], said: dict[str, Any], why: str) -> None:
    assert room.why_not(node(**spec), pod(**said)) == why


@pytest.mark.parametrize("thing", [{}, {"spec": None}, {"spec": {"taints": "x"}}, {"status": []}])
def test_what_a_server_says_otherwise_breaks_nothing(thing: dict[str, Any]) -> None:
    room.why_not(thing, pod())
    assert room.workers_left([thing], pod()) is None


def test_the_tightest_quota_counts() -> None:
    quotas = [
        {"status": {"hard": {"limits.memory": "40Gi"}, "used": {"limits.memory": "9Gi"}}},
        {"status": {"hard": {"count/jobs.batch": "10"}, "used": {"count/jobs.batch": "7"}}},
        {"status": {"hard": {"cpu": "1k", "configmaps": "0"}}},
    ]
    assert room.workers_left(quotas, pod()) == (3, "count/jobs.batch")


def test_the_clock() -> None:
    date = "Sat, 28 Nov 2026 18:00:00 GMT"
    assert _skew("nonsense", 0.0, 7.0) == 7.0
    assert _skew("", 0.0, None) is None
    ahead = _skew("Sat, 28 Nov 2099 18:00:00 GMT", 0.0, None)
    assert ahead is not None
    assert ahead > 300
    behind = _skew(date, 4e9, None)
    assert behind is not None
    assert behind < -300
    (wrong,) = findings.of_clock(-400.0)
    assert (wrong.ok, "ahead of" in wrong.detail) == (False, True)
    assert findings.of_clock(7.0)[0].ok is None
    assert findings.of_clock(1.0)[0].ok is True
    assert findings.of_clock(None) == []
