"""A worker's Job and Secret: named, marked, restricted, and as an API server takes them."""

import base64
import copy
import json
import re
import uuid

import pytest
from peers.kubelab import ApiError, Cluster

from outpost_core import wire
from outpost_core.errors import SpawnRefusedError, UsageError
from outpost_core.types import Agent, Delivery, Issue, Limits, Order, Secrets
from outpost_k8s.objects import job as jobs
from outpost_k8s.objects import names, podtemplate, quantities, strategic, told
from outpost_k8s.objects.tolerations import toleration
from outpost_k8s.options import K8sOptions

LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
HOSTILE = [
    "gt-abc.1", "A" * 96 + ".999999", "a.b_c-D.2", "x" * 36 + "-tail.1", "0.1", "a--.1",
    "Ünïcode.1", "", "../../etc.1", "a\ud800b.1", "-.1", "'; rm -rf /.1", "\0.1",
]  # fmt: skip


def options(**more) -> K8sOptions:
    return K8sOptions(**{"image": "registry.example/outpost/worker:1"} | more)


def order(name: str = "gt-1", **more) -> Order:
    values = {
        "issue": Issue(id=name, title="A title", text="PRIVATE TEXT", priority=1),
        "agent": Agent(argv=("sh", "-c", "echo PRIVATE ARGUMENT"), env={"A": "PRIVATE-ENV"}),
        "rig": "https://me:PRIVATE-PASSWORD@git.example/rig.git",
        "delivery": Delivery(branch=f"outpost/{name}", message="PRIVATE MESSAGE"),
        "prompt": "PRIVATE PROMPT",
        "secrets": Secrets({"KEY": "PRIVATE-VALUE"}),
        "owner": "0123abcd",
        "limits": Limits(timeout=60.0, grace=7.0),
    }
    return Order(**values | more)


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("worker", HOSTILE)
def test_every_id_has_a_name_that_a_pod_can_be_made_of(worker):
    name = names.job_name(worker)
    assert LABEL.fullmatch(name)
    assert len(name) <= 57
    assert name == names.job_name(worker)
    assert name.endswith(names.worker_hash(worker))
    assert LABEL.fullmatch(names.worker_hash(worker))


def test_no_two_ids_share_a_name_whatever_the_slug_makes_of_them():
    ids = [*HOSTILE, "gt_abc.1", "GT-ABC.1", "gt-abc-1", "gt-abc.11"]
    assert len({names.job_name(worker) for worker in ids}) == len(ids)


# --- quantities and tolerations ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "text"), [(2.0, "2"), (0.5, "500m"), (0.1 + 0.2, "300m"), (1.0005, "1001m")]
)
def test_cores(cores, text):
    assert quantities.cores(cores) == text


@pytest.mark.parametrize(
    ("size", "text"), [(4 << 30, "4Gi"), (1536 << 20, "1536Mi"), (1000, "1000"), (3 << 10, "3Ki")]
)
def test_sizes_are_exact(size, text):
    assert quantities.size(size) == text
    assert quantities.amount(text) == size


@pytest.mark.parametrize(
    ("quantity", "amount"),
    [("500m", 0.5), ("1e3", 1000), ("2E", 2e18), ("1.5Gi", 1.5 * 2**30), (3, 3), (True, None),
     ("", None), ("1 Gi", None), ("Gi", None), ("-1", None), (None, None), ("9" * 40, None)],
)  # fmt: skip
def test_what_the_api_says_is_read(quantity, amount):
    assert quantities.amount(quantity) == (amount if amount is None else pytest.approx(amount))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("gpu", {"key": "gpu", "operator": "Exists"}),
        ("gpu=yes:NoSchedule",
         {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}),
        ("a.example/b=:NoExecute",
         {"key": "a.example/b", "operator": "Equal", "value": "", "effect": "NoExecute"}),
        ("*", {"operator": "Exists"}),
        ("*:NoExecute", {"operator": "Exists", "effect": "NoExecute"}),
    ],
)  # fmt: skip
def test_tolerations(text, found):
    assert toleration(text) == found


@pytest.mark.parametrize("text", ["", "a b", "a:never", "=x", "*=x", "a=b=c", "a/b/c", "x" * 400])
def test_what_is_no_taint_is_refused(text):
    with pytest.raises(UsageError, match="tolerations"):
        toleration(text)


# --- the Job and the Secret --------------------------------------------------------------------


def test_the_same_order_is_the_same_job_and_another_is_another():
    one, again = (jobs.job(options(), order(), hosted=False) for _ in range(2))
    assert one == again
    annotations = one["metadata"]["annotations"]
    assert annotations[names.SPEC] == jobs.spec_hash(one)
    assert annotations[names.DIGEST] == wire.digest(order())
    assert annotations[names.ID] == "gt-1.1"
    assert annotations[names.OWNER] == "0123abcd"
    assert jobs.spec_hash(jobs.job(options(cpu=4.0), order(), hosted=False)) != jobs.spec_hash(one)


@pytest.mark.parametrize("hosted", [True, False])
def test_nothing_private_is_in_the_job(hosted):
    text = json.dumps(jobs.job(options(queue="q"), order(), hosted=hosted))
    assert "PRIVATE" not in text
    held = jobs.secret(options(), order(), git_credentials="PRIVATE-KEY")
    assert "PRIVATE" not in json.dumps(held["metadata"])
    data = {name: base64.b64decode(value).decode() for name, value in held["data"].items()}
    assert json.loads(data["secrets.json"]) == {"KEY": "PRIVATE-VALUE"}
    assert data["git-credentials"] == "PRIVATE-KEY"
    assert "PRIVATE-VALUE" not in data["order.json"]
    assert "PRIVATE PROMPT" in data["order.json"]
    assert wire.digest(wire.from_json(Order, json.loads(data["order.json"]))) == wire.digest(
        order()
    )


def test_what_stands_at_the_job_can_be_read_again():
    made = jobs.job(options(), order(), hosted=True)
    found = told.order_of(made)
    assert found is not None
    assert found.worker == "gt-1.1"
    assert found.rig == "https://git.example/rig.git"
    assert found.limits == order().limits
    assert made["metadata"]["annotations"][names.HOSTED] == "true"


@pytest.mark.parametrize(
    "job",
    [{}, {"metadata": None}, {"metadata": {"annotations": []}}]
    + [{"metadata": {"annotations": {names.ORDER: text}}}
       for text in ("", "{}", "[" * 5000, "{" * 20_000, "1", '{"issue": {"id": ".."}}')],
)  # fmt: skip
def test_what_others_have_written_there_counts_for_nothing(job):
    assert told.order_of(job) is None


def test_an_order_that_no_object_holds_is_refused():
    with pytest.raises(SpawnRefusedError, match="Secret holds"):
        jobs.secret(options(), order(prompt="x" * (1 << 20)))
    long = "https://git.example/" + "x" * 20_000
    with pytest.raises(SpawnRefusedError, match="a Job holds"):
        jobs.job(options(), order(rig=long), hosted=False)


def test_the_secret_is_owned_by_the_very_job():
    held = jobs.secret(options(), order())
    (owner,) = jobs.owned(held, "uid-1")["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == (
        "Job",
        held["metadata"]["name"],
        "uid-1",
    )


def test_a_worker_never_runs_twice_and_has_time_to_save_its_work():
    spec = jobs.job(options(), order(limits=Limits(grace=30.5)), hosted=False)["spec"]
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["automountServiceAccountToken"] is False
    assert pod["terminationGracePeriodSeconds"] == 91


def test_what_an_order_wants_goes_before_what_the_outpost_gives():
    wanted = order(limits=Limits(cpu=3.5, memory=6 << 30))
    (worker,) = jobs.job(options(), wanted, hosted=False)["spec"]["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["cpu"] == "3500m"
    assert worker["resources"]["requests"]["memory"] == "6Gi"


def test_the_kubelet_leaves_values_as_they_are():
    made = jobs.job(options(env={"A": "$(HOME) $$ $"}), order(), hosted=False)
    assert variables(made)["A"]["value"] == "$$(HOME) $$$$ $$"


def variables(made: dict) -> dict:
    (worker,) = made["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each for each in worker["env"]}


EVERYTHING = {
    "queue": "team", "volume": "work", "rig_cache": "mirrors/a/b", "git_secret": "git/key",
    "secrets": {"ANTHROPIC_API_KEY": "keys/anthropic", "TOKEN": "keys"}, "env": {"LANG": "C"},
    "service_account": "agents", "node_selector": {"disk": "ssd"}, "image_pull_policy": "Always",
    "tolerations": ("gpu=yes:NoSchedule", "*:NoExecute"), "image_pull_secrets": ("registry",),
    "labels": {"team": "gastown"}, "priority_class": {"P0": "urgent", "default": "batch"},
}  # fmt: skip


def test_every_option_is_in_the_pod():
    made = jobs.job(options(**EVERYTHING), order(), hosted=True)
    pod = made["spec"]["template"]["spec"]
    env = variables(made)
    assert made["spec"]["suspend"] is True
    assert made["metadata"]["labels"][names.QUEUE] == "team"
    assert pod["priorityClassName"] == "batch"
    assert pod["serviceAccountName"] == "agents"
    assert env["TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "keys", "key": "TOKEN"}}
    assert env["OUTPOST_SECRETS"]["value"] == "ANTHROPIC_API_KEY,TOKEN"
    assert "OUTPOST_RIG_REFERENCE" not in env  # what travels needs no mirror
    reference = variables(jobs.job(options(**EVERYTHING), order(), hosted=False))
    assert reference["OUTPOST_RIG_REFERENCE"]["value"] == "/outpost/rigs/a/b"
    assert env["OUTPOST_HOSTED"]["value"] == "1"
    assert env["OUTPOST_LINGER"]["value"] == "0"
    assert {v["name"] for v in pod["volumes"]} == {"disk", "tmp", "order", "volume", "rigs", "git"}
    urgent = order(issue=Issue(id="gt-1", priority=0))
    pod = jobs.job(options(**EVERYTHING), urgent, hosted=False)["spec"]["template"]["spec"]
    assert pod["priorityClassName"] == "urgent"


# --- pod_template ------------------------------------------------------------------------------


def template() -> dict:
    return jobs.job(options(), order(), hosted=False)["spec"]["template"]


def test_a_part_of_a_pod_is_merged_and_nothing_is_changed_in_place():
    before = template()
    kept = copy.deepcopy(before)
    partial = {
        "metadata": {"labels": {"team": "a"}},
        "spec": {
            "containers": [
                {"name": "worker", "resources": {"limits": {"nvidia.com/gpu": 1}},
                 "env": [{"name": "CUDA", "value": "1"}],
                 "volumeMounts": [{"mountPath": "/data", "name": "data"}]},
            ],
            "volumes": [{"name": "data", "emptyDir": {}}],
            "initContainers": [{"name": "side", "image": "x", "restartPolicy": "Always"}],
            "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["git"]}],
        },
    }  # fmt: skip
    after = podtemplate.with_template(before, partial)
    assert before == kept
    worker = next(c for c in after["spec"]["containers"] if c["name"] == "worker")
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert worker["resources"]["limits"]["cpu"] == "2"
    assert {"CUDA", "OUTPOST_SECRETS"} <= {each["name"] for each in worker["env"]}
    assert after["metadata"]["labels"] == before["metadata"]["labels"] | {"team": "a"}
    assert {v["name"] for v in after["spec"]["volumes"]} == {"data", "disk", "tmp", "order"}


def worker_says(**said) -> dict:
    return {"spec": {"containers": [{"name": "worker", **said}]}}


@pytest.mark.parametrize(
    ("partial", "says"),
    [
        ({"spec": {"restartPolicy": "Always"}}, "restartPolicy"),
        ({"spec": {"restartPolicy": None}}, "restartPolicy"),
        ({"spec": {"terminationGracePeriodSeconds": 1}}, "terminationGracePeriodSeconds"),
        ({"spec": {"terminationGracePeriodSeconds": "x"}}, "terminationGracePeriodSeconds"),
        ({"spec": {"$patch": "replace", "containers": []}}, "restartPolicy"),
        ({"spec": {"containers": [{"name": "worker", "$patch": "delete"}]}}, "containers"),
        ({"spec": {"containers": None}}, "containers"),
        ({"spec": {"containers": [{"$patch": "replace"}]}}, "containers"),
        ({"spec": {"containers": {"name": "worker"}}}, "containers"),
        ({"spec": {"containers": [{"image": "x"}]}}, "name"),
        ({"spec": {"containers": ["worker"]}}, "name"),
        (worker_says(command=["sleep"]), "command"),
        (worker_says(args=["--evil"]), "args"),
        (worker_says(terminationMessagePath="/x"), "terminationMessagePath"),
        (worker_says(env=[{"name": "OUTPOST_SECRETS", "value": "x"}]), "OUTPOST_SECRETS"),
        (worker_says(env=[{"name": "OUTPOST_ROOT", "value": "/x"}]), "OUTPOST_ROOT"),
        (worker_says(env=[{"name": "OUTPOST_LINGER", "$patch": "delete"}]), "OUTPOST_LINGER"),
        (worker_says(resources={"limits": {"cpu": "64"}}), "cpu"),
        (worker_says(resources=None), "resources"),
        (worker_says(volumeMounts=[{"mountPath": "/outpost/order", "name": "a"}]), "/outpost/ord"),
        (worker_says(volumeMounts=[{"mountPath": "/tmp", "$patch": "delete"}]), "/tmp"),
        ({"spec": {"volumes": [{"name": "order", "secret": {"secretName": "x"}}]}}, "order"),
        ({"spec": {"volumes": [{"name": "disk", "$patch": "delete"}]}}, "disk"),
        ({"spec": {"volumes": [{"name": "disk", "hostPath": {"path": "/"}}]}}, "several sources"),
        ({"metadata": {"labels": {names.WORKER: "x"}}}, "outpost/worker"),
        ({"metadata": {"annotations": {"outpost/stop": "1"}}}, "outpost/stop"),
        ({"metadata": {"labels": {names.MANAGED_BY: None}}}, "managed-by"),
        ({"metadata": {"name": "x"}}, "metadata.name"),
        ({"metadata": {"labels": "x"}}, "labels"),
        ({"metadata": []}, "metadata"),
        ({"containers": []}, "below spec"),
        ({"kind": "Deployment"}, "kind: Pod"),
        ({"spec": {"$setElementOrder/containers": []}}, "directive"),
        ({"spec": {"$patch": "merge"}}, "patch"),
        ({"spec": {"volumes": [{"name": "disk", "$retainKeys": "x"}]}}, "retainKeys"),
    ],
)  # fmt: skip
def test_what_a_worker_stands_on_cannot_be_undone(partial, says):
    with pytest.raises(UsageError) as caught:
        podtemplate.with_template(template(), partial)
    assert says in str(caught.value)
    assert "pod_template" in str(caught.value)


def test_the_disk_may_be_another_one_and_the_cluster_may_evict():
    claim = {"ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}}}
    disk = {"name": "disk", "$retainKeys": ["name", "ephemeral"], **claim}
    partial = {
        "metadata": {"annotations": {names.SAFE_TO_EVICT: "true"}},
        "spec": {"volumes": [disk]},
    }
    after = podtemplate.with_template(template(), partial)
    assert {"name": "disk", **claim} in after["spec"]["volumes"]


# --- a real API server -------------------------------------------------------------------------


def test_a_real_api_server_takes_every_job_under_the_restricted_standard(cluster: Cluster):
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    with cluster.namespace(labels) as namespace:
        batch = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        core = f"/api/v1/namespaces/{namespace}"
        shapes = [
            (options(), order(), False),
            (options(**EVERYTHING), order(), True),
            (options(pod_template=worker_says(ports=[{"containerPort": 8080}])), order(), False),
            (options(), Order(issue=Issue(id="A" * 96), agent=Agent(argv=("true",))), False),
        ]
        for chosen, wanted, hosted in shapes:
            sent = jobs.job(chosen, wanted, hosted=hosted)
            taken = cluster.admin.post(batch, sent, dryRun="All")
            assert_kept(sent, taken)
            assert_admitted(cluster, core, sent)
            cluster.admin.post(f"{core}/secrets", jobs.secret(chosen, wanted, "key"), dryRun="All")


def assert_kept(sent, taken, at: str = "") -> None:
    """See that a server has everything as it was sent: nothing was unknown to it."""
    if isinstance(sent, dict):
        for key, value in sent.items():
            if value == "":
                continue  # the API leaves it out
            assert key in taken, f"{at}.{key}"
            assert_kept(value, taken[key], f"{at}.{key}")
    elif isinstance(sent, list):
        assert len(sent) == len(taken), at
        for number, (one, other) in enumerate(zip(sent, taken, strict=True)):
            assert_kept(one, other, f"{at}[{number}]")
    elif "resources" in at:
        assert quantities.amount(sent) == quantities.amount(taken), at
    else:
        assert sent == taken, at


def assert_admitted(cluster: Cluster, core: str, sent: dict) -> None:
    """See that its pod is admitted: a Job is taken whatever its pods are."""
    pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(sent["spec"]["template"])}
    pod["metadata"]["name"] = f"try-{uuid.uuid4().hex[:8]}"
    for key in ("priorityClassName", "serviceAccountName"):
        pod["spec"].pop(key, None)  # they are not there
    cluster.admin.post(f"{core}/pods", pod, dryRun="All")


def test_a_pod_that_is_not_restricted_is_refused_there(cluster: Cluster):
    """What the test above proves, it could also see otherwise."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    chosen = options(pod_template={"spec": {"hostNetwork": True}})
    with cluster.namespace(labels) as namespace, pytest.raises(ApiError, match="restricted"):
        assert_admitted(
            cluster, f"/api/v1/namespaces/{namespace}", jobs.job(chosen, order(), hosted=False)
        )


PATCHES = [
    {"spec": {"containers": [{"name": "worker", "env": [{"name": "B", "value": "2"}]}]}},
    {"spec": {"containers": [{"name": "side", "image": "x"}, {"name": "worker", "image": "y"}]}},
    {"spec": {"containers": [{"name": "worker", "env": [
        {"name": "OUTPOST_SECRETS", "$patch": "delete"}, {"name": "Z", "value": "1"}]}]}},
    {"spec": {"containers": [{"name": "worker", "env": [{"$patch": "replace"},
        {"name": "Z", "value": "1"}]}]}},
    {"spec": {"volumes": [
        {"name": "new", "emptyDir": {}}, {"name": "tmp", "emptyDir": {"medium": "Memory"}}]}},
    {"spec": {"volumes": [
        {"name": "disk", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}},
    {"spec": {"containers": [{"name": "worker", "volumeMounts": [
        {"mountPath": "/outpost/order", "$patch": "delete"},
        {"mountPath": "/a", "name": "tmp"}]}]}},
    {"spec": {"securityContext": {"runAsUser": None, "fsGroup": 7}}},
    {"spec": {"securityContext": {"$patch": "replace", "fsGroup": 7}}},
    {"spec": {"tolerations": [{"key": "a", "operator": "Exists"}], "nodeSelector": {"x": "y"}}},
    {"spec": {"imagePullSecrets": [{"name": "b"}, {"name": "a"}],
              "hostAliases": [{"ip": "1.2.3.4"}]}},
    {"spec": {"containers": [{"name": "worker", "command": ["a", "b"], "ports": [
        {"containerPort": 80}, {"containerPort": 81, "name": "x"}]}]}},
    {"metadata": {"labels": {"a": "b", "outpost/worker": None}, "annotations": None}},
    {"spec": {"initContainers": [
        {"name": "i", "image": "x", "env": [{"name": "A", "value": ""}]}]}},
    {"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}}}},
]  # fmt: skip


def test_merging_is_what_a_real_api_server_does(cluster: Cluster):
    original = jobs.job(options(**EVERYTHING | {"tolerations": ("gpu",)}), order(), hosted=True)
    pod = original["spec"]["template"]
    with cluster.namespace() as namespace:
        path = f"/api/v1/namespaces/{namespace}/podtemplates"

        def stored(name: str, content: dict) -> dict:
            body = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}}
            return cluster.admin.post(path, body | {"template": content})["template"]

        before = stored("original", pod)
        for number, patch in enumerate(PATCHES):
            server = cluster.admin.patch(
                f"{path}/original", {"template": patch}, kind="strategic", dryRun="All"
            )["template"]
            ours = stored(f"ours-{number}", strategic.merged(before, patch))
            assert ours == server, patch
