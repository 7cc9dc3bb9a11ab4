"""`outpost bootstrap` and `outpost add` of a Kubernetes outpost, at a real API server."""

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from peers import containers
from peers.kubelab import ApiError, Cluster, User

from outpost_core.errors import UsageError
from outpost_core.types import Step
from outpost_k8s import bootstrap, probing
from outpost_k8s.objects import around, difference, names, permissions, reach, trial
from outpost_k8s.options import K8sOptions
from outpost_k8s.plugin import outpost_backends
from outpost_manager.cli.app import cli
from outpost_manager.cli.session import Session
from outpost_manager.config import load_config

IMAGE = "localhost/outpost-none:1"
#: What whoever sets a namespace up may do; a Role can be given by who has what is in it.
KEEPER = [
    *permissions.rules(),
    {"apiGroups": [""], "resources": ["serviceaccounts", "persistentvolumeclaims", "pods"],
     "verbs": ["*"]},
    {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"],
     "verbs": ["*"]},
    {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["*"]},
]  # fmt: skip


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody gives these clusters a volume."""
    monkeypatch.setattr(probing, "STUCK", 0.5)


@pytest.fixture
def fresh(cluster: Cluster) -> Iterator[str]:
    """Have the name of a namespace that is not there, and that is removed at the end."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    yield name
    try:
        cluster.admin.delete(f"/api/v1/namespaces/{name}")
    except ApiError as error:
        assert error.status == 404  # noqa: PT017 - it was never made


def options(cluster: Cluster, namespace: str, **said: Any) -> K8sOptions:
    values = {
        "image": IMAGE, "image_pull_policy": "Never", "namespace": namespace,
        "kubeconfig": cluster.kubeconfig, "cpu": 0.1, "memory": 128 << 20,
        "ephemeral_storage": 64 << 20,
    }  # fmt: skip
    return K8sOptions(**values | said)


def run(chosen: K8sOptions, *, dry_run: bool = False, agents: tuple[str, ...] = ()) -> list[Step]:
    async def all_steps() -> list[Step]:
        steps = bootstrap.bootstrap("team", chosen, agents, dry_run=dry_run)
        return [step async for step in steps if step.state != "doing"]

    return asyncio.run(all_steps())


def states(steps: list[Step]) -> dict[str, str]:
    return {step.name: step.state for step in steps if step.name != "image"}


SET_UP = ("namespace", "service account", "role", "role binding", "volume", "network policy")


def test_a_dry_run_says_what_it_would_do_and_does_nothing(cluster: Cluster, fresh: str) -> None:
    found = run(options(cluster, fresh, volume="work"), dry_run=True)
    assert states(found) == {"cluster": "ok", **dict.fromkeys(SET_UP, "would")}
    with pytest.raises(ApiError, match="404"):
        cluster.admin.get(f"/api/v1/namespaces/{fresh}")


def test_everything_is_made_once_and_the_server_shows_it(cluster: Cluster, fresh: str) -> None:
    chosen = options(cluster, fresh, volume="work", labels={"team": "a"})
    assert states(run(chosen)) == {"cluster": "ok", **dict.fromkeys(SET_UP, "done"), "worker": "ok"}
    assert states(run(chosen)) == {"cluster": "ok", **dict.fromkeys(SET_UP, "ok"), "worker": "ok"}
    namespace = cluster.admin.get(f"/api/v1/namespaces/{fresh}")
    assert namespace["metadata"]["labels"][around.ENFORCE] == "restricted"
    role = cluster.admin.get(
        f"/apis/rbac.authorization.k8s.io/v1/namespaces/{fresh}/roles/{around.ACCOUNT}"
    )
    assert role["rules"] == permissions.rules()
    claim = cluster.admin.get(f"/api/v1/namespaces/{fresh}/persistentvolumeclaims/work")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    managers = {each["manager"] for each in role["metadata"]["managedFields"]}
    assert managers == {"outpost"}


def test_a_change_is_shown_as_it_is_and_what_others_have_set_stays(
    cluster: Cluster, fresh: str
) -> None:
    run(options(cluster, fresh))
    where = f"/apis/networking.k8s.io/v1/namespaces/{fresh}/networkpolicies/{around.POLICY}"
    cluster.admin.patch(where, {"metadata": {"annotations": {"theirs": "1"}}})
    chosen = options(cluster, fresh, egress=("10.0.3.7:8443",))
    (step,) = [each for each in run(chosen, dry_run=True) if each.state == "would"][:1]
    assert step.name == "network policy"
    assert "spec.egress" in step.detail
    assert "10.0.3.7/32" not in str(cluster.admin.get(where))
    (step,) = [each for each in run(chosen) if each.state == "done"]
    assert step.name == "network policy"
    found = cluster.admin.get(where)
    assert found["metadata"]["annotations"] == {"theirs": "1"}
    assert not difference.missing(around.policy(chosen), found)


def test_what_somebody_else_has_set_is_told_and_left(cluster: Cluster, fresh: str) -> None:
    chosen = options(cluster, fresh)
    run(chosen)
    where = f"/apis/networking.k8s.io/v1/namespaces/{fresh}/networkpolicies/{around.POLICY}"
    body = around.policy(chosen)
    body["spec"]["policyTypes"] = ["Ingress"]
    cluster.admin.patch(where, body, kind="apply", fieldManager="somebody", force="true")
    (step,) = [each for each in run(chosen) if each.name == "network policy"]
    assert step.state == "failed"
    assert "somebody" in step.detail
    assert cluster.admin.get(where)["spec"]["policyTypes"] == ["Ingress"]


def test_a_namespace_of_others_keeps_its_labels(cluster: Cluster) -> None:
    with cluster.namespace({"pod-security.kubernetes.io/enforce": "baseline"}) as namespace:
        found = {step.name: step for step in run(options(cluster, namespace))}
        assert (found["namespace"].state, found["role"].state) == ("ok", "done")
        assert "baseline" in found["namespace"].detail
        labels = cluster.admin.get(f"/api/v1/namespaces/{namespace}")["metadata"]["labels"]
        assert labels[around.ENFORCE] == "baseline"
        assert names.MANAGED_BY not in labels


def test_a_run_that_was_killed_after_any_object_is_completed_by_the_next(
    cluster: Cluster, fresh: str
) -> None:
    """It dies with the first object that it applies, each time: every run makes one more."""
    program = (
        "import asyncio, pathlib, sys\n"
        "from outpost_k8s import bootstrap\nfrom outpost_k8s.options import K8sOptions\n"
        "o = K8sOptions(image=sys.argv[1], image_pull_policy='Never', namespace=sys.argv[2],"
        " kubeconfig=pathlib.Path(sys.argv[3]))\n"
        "async def main():\n"
        "    async for _ in bootstrap.bootstrap('team', o, (), dry_run=False): pass\n"
        "asyncio.run(main())\n"
    )
    argv = [sys.executable, "-c", program, IMAGE, fresh, str(cluster.kubeconfig)]
    for _ in range(5):
        done = subprocess.run(argv, env={**os.environ, "OUTPOST_FAULT": "k8s.applied"}, check=False)
        assert done.returncode == -9
    assert set(states(run(options(cluster, fresh))).values()) == {"ok"}


def test_who_may_not_set_up_is_told_who_can_and_the_rest_goes_on(cluster: Cluster) -> None:
    with cluster.namespace() as namespace:
        user = cluster.user(namespace, permissions.rules())
        found = run(options(cluster, namespace, kubeconfig=user.kubeconfig))
        told = {step.name: step for step in found}
        assert told["role"].state == "skipped"
        assert "kubectl apply -k deploy/k8s" in told["role"].hint
        assert told["worker"].state == "ok"


def test_the_role_is_enough_for_whoever_has_what_is_in_it_to_set_up(cluster: Cluster) -> None:
    with cluster.namespace() as namespace:
        user: User = cluster.user(namespace, KEEPER)
        found = states(run(options(cluster, namespace, kubeconfig=user.kubeconfig)))
        assert found == {
            "cluster": "ok", "namespace": "ok", "service account": "done", "role": "done",
            "role binding": "done", "network policy": "done", "worker": "ok",
        }  # fmt: skip


def test_a_cluster_that_is_not_there_is_one_failed_step(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("nothing: here\n")
    (step,) = run(K8sOptions(image=IMAGE, kubeconfig=config))
    assert (step.name, step.state) == ("cluster", "failed")


def test_a_pod_that_admission_refuses_is_told_before_anything_runs(cluster: Cluster) -> None:
    with cluster.namespace({around.ENFORCE: "restricted"}) as namespace:
        chosen = options(cluster, namespace, pod_template={"spec": {"hostNetwork": True}})
        (step,) = [each for each in run(chosen) if each.name == "worker"]
        assert step.state == "failed"
        assert "restricted" in step.detail


def test_an_image_that_nobody_has_is_told_at_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "STUCK", probing.PATIENCE)  # the machine may be busy
    with cluster.namespace() as namespace:
        (step,) = [each for each in run(options(cluster, namespace)) if each.name == "image"]
        assert step.state == "failed"
        assert IMAGE in step.detail
        pods = cluster.admin.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
        assert pods == []


@pytest.mark.containers
def test_the_image_is_tried_in_a_pod_of_the_restricted_standard(cluster: Cluster) -> None:
    tag = cluster.load_image(containers.image().tag, containers.base())
    with cluster.namespace({around.ENFORCE: "restricted"}) as namespace:
        found = run(options(cluster, namespace, image=tag, cpu=0.1), agents=("gemini",))
        told = {step.name: step for step in found}
        assert told["image"].state == "ok", told["image"]
        assert "has Outpost" in told["image"].detail
        assert told["gemini"].state == "failed"
        assert "--agent gemini" in told["gemini"].hint
        pods = cluster.admin.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
        assert pods == []


def test_a_queue_is_made_where_it_is_certain_which_one(cluster: Cluster) -> None:
    with cluster.namespace() as namespace, cluster.kueue(namespace, "theirs"):
        there = options(cluster, namespace, queue="theirs")
        assert states(run(there, dry_run=True))["queue"] == "ok"
        group = "/apis/kueue.x-k8s.io/v1beta2"
        above = f"{namespace}-mine"[:60]
        body = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ClusterQueue",
                "metadata": {"name": above}, "spec": {"resourceGroups": []}}  # fmt: skip
        cluster.admin.post(f"{group}/clusterqueues", body)
        try:
            chosen = options(cluster, namespace, queue=above)
            assert states(run(chosen))["queue"] == "done"
            assert states(run(chosen))["queue"] == "ok"
            made = cluster.admin.get(f"{group}/namespaces/{namespace}/localqueues/{above}")
            assert made["spec"]["clusterQueue"] == above
            lost = options(cluster, namespace, queue="nobody-knows")
            assert states(run(lost))["queue"] == "failed"
        finally:
            cluster.admin.delete(f"{group}/clusterqueues/{above}")


# --- what the network policy says ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10.0.3.7", ("10.0.3.7/32", None)),
        ("10.0.0.0/8:443", ("10.0.0.0/8", 443)),
        ("fd00::1", ("fd00::1/128", None)),
        ("[fd00::]/8:22", ("fd00::/8", 22)),
        ("[fd00::1]:22", ("fd00::1/128", 22)),
    ],
)
def test_places(text: str, found: tuple[str, int | None]) -> None:
    assert reach.place(text) == found


@pytest.mark.parametrize(
    "text",
    ["", "git.example", "10.0.0.1/8", "10.0.0.1:0", "10.0.0.1:99999", "[x]:1", ":443", "a b"],
)
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="egress"):
        reach.place(text)


def test_nobody_reaches_workers_and_they_reach_no_private_address() -> None:
    spec = around.policy(K8sOptions(image=IMAGE))["spec"]
    assert spec["ingress"] == []
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    dns, public = spec["egress"]
    assert {(each["protocol"], each["port"]) for each in dns["ports"]} == {("UDP", 53), ("TCP", 53)}
    assert {each["port"] for each in public["ports"]} == {22, 443}
    left_out = {cidr for block in public["to"] for cidr in block["ipBlock"]["except"]}
    assert {"169.254.0.0/16", "10.0.0.0/8", "fc00::/7", "fe80::/10"} <= left_out
    assert reach.reaches_metadata("169.254.0.0/16")
    assert not reach.reaches_metadata("10.0.0.0/8")


# --- outpost add -----------------------------------------------------------------------------


def add(folder: Path, *more: str) -> Result:
    where = ["--config", str(folder / "outposts.yaml"), "--state", str(folder / "state")]
    said = ["add", "k8s", "team", "--image", IMAGE, *more]
    return CliRunner().invoke(cli, [*where, *said], prog_name="outpost", obj=Session())


def test_add_looks_at_the_cluster_and_writes_which_one_it_is(
    cluster: Cluster, tmp_path: Path
) -> None:
    with cluster.namespace() as namespace:
        user = cluster.user(namespace, permissions.rules()[1:])
        said = ("--kubeconfig", str(user.kubeconfig), "--price-per-hour", "0.2")
        done = add(tmp_path, *said, "--max-workers", "5")
        assert done.exit_code == 0, done.stderr
        assert "you may not: get jobs" in done.stderr
        assert "0.200 USD an hour, 5 at once 1.00" in done.stderr
        assert "outpost bootstrap team" in done.stdout
        made = load_config(tmp_path / "outposts.yaml", {"k8s": outpost_backends()}).outposts[-1]
        assert isinstance(made.options, K8sOptions)
        assert made.options.namespace == namespace
        assert made.options.context


def test_add_of_a_cluster_that_is_not_there_writes_nothing(tmp_path: Path) -> None:
    done = add(tmp_path, "--kubeconfig", str(tmp_path / "missing"))
    assert done.exit_code == 2
    assert not (tmp_path / "outposts.yaml").exists()
    done = add(tmp_path, "--no-check")
    assert done.exit_code == 0, done.stderr


# --- differences ---------------------------------------------------------------------------------


def test_a_pod_that_a_killed_run_has_left_is_in_nobodys_way(cluster: Cluster) -> None:
    with cluster.namespace() as namespace:
        chosen = options(cluster, namespace)
        left = trial.probe(chosen, ["git"])
        cluster.admin.post(f"/api/v1/namespaces/{namespace}/pods", left)
        (step,) = [each for each in run(chosen) if each.name == "image"]
        assert IMAGE in step.detail  # it is another one that was tried
        assert cluster.admin.get(f"/api/v1/namespaces/{namespace}/pods")["items"] == []


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"spec": {"a": 1}}, {"spec": {"a": 2}}, ["spec.a: 1 → 2"]),
        ({"spec": {"a": 1}}, {"spec": {}}, ["spec.a: 1 is taken out"]),
        ({"spec": {}}, {"spec": {"a": [1]}}, ["spec.a: [1]"]),
        ({"spec": {"a": []}}, {"spec": {}}, []),
        ({"metadata": {"uid": "1"}, "status": 1}, {"metadata": {"uid": "2"}, "status": 2}, []),
        ({}, {"a": "x" * 500}, ["a: '" + "x" * 98 + "…"]),
        ({}, {"a": "\x1b[2J"}, ["a: '\\x1b[2J'"]),
    ],
)
def test_a_change_in_words(before: dict[str, Any], after: dict[str, Any], said: list[str]) -> None:
    assert difference.changes(before, after) == said


@pytest.mark.parametrize(
    ("wanted", "found", "said"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, []),
        ({"a": {"b": 1}}, {"a": {}}, ["a.b is nothing and not 1"]),
        ({"a": [1, 2]}, {"a": [1]}, ["a is [1] and not [1, 2]"]),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2, "c": 3}]}, ["a[0].b is 2 and not 1"]),
        ({"a": [], "b": "", "c": {}}, {}, []),
        ({"a": False}, {}, ["a is nothing and not False"]),
    ],
)
def test_what_is_not_there_as_it_was_sent(
    wanted: dict[str, Any], found: dict[str, Any], said: list[str]
) -> None:
    assert difference.missing(wanted, found) == said
