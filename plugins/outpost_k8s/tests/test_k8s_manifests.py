"""`deploy/k8s` is what bootstrap makes, and a real API server takes it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from peers.kubelab import ApiError, Cluster

from outpost_k8s.api.paths import path
from outpost_k8s.objects import around, difference
from outpost_k8s.options import K8sOptions

ROOT = Path(__file__).parents[3] / "deploy/k8s"
NAMESPACE = "outpost"
OPTIONS = K8sOptions(
    image="worker", volume="outpost-work", rig_cache="outpost-mirrors", queue="outpost"
)
PLURALS = {
    "Namespace": "namespaces", "ServiceAccount": "serviceaccounts", "Role": "roles",
    "RoleBinding": "rolebindings", "NetworkPolicy": "networkpolicies",
    "PersistentVolumeClaim": "persistentvolumeclaims", "LocalQueue": "localqueues",
    "ClusterQueue": "clusterqueues", "ResourceFlavor": "resourceflavors",
}  # fmt: skip
WHOLE = ("Namespace", "ClusterQueue", "ResourceFlavor")


def read(folder: str) -> list[dict[str, Any]]:
    """Return the objects of a folder: of each file that its kustomization names, and no other."""
    kustomization = yaml.safe_load((ROOT / folder / "kustomization.yaml").read_text())
    files = sorted(file.name for file in (ROOT / folder).glob("*.yaml"))
    assert files == sorted([*kustomization["resources"], "kustomization.yaml"])
    found: list[dict[str, Any]] = []
    for name in kustomization["resources"]:
        found += yaml.safe_load_all((ROOT / folder / name).read_text())
    return found


def test_they_are_what_bootstrap_makes() -> None:
    assert read("base") == [
        around.namespace(OPTIONS, NAMESPACE, restricted=True),
        around.account(OPTIONS),
        around.role(OPTIONS),
        around.binding(OPTIONS, NAMESPACE),
        around.policy(OPTIONS),
    ]
    assert read("storage") == [around.claim(OPTIONS, name) for name in around.claims(OPTIONS)]
    queue = around.queue(OPTIONS, "outpost", "kueue.x-k8s.io/v1beta1")
    assert [each for each in read("kueue") if each["kind"] == "LocalQueue"] == [queue]


def test_the_whole_is_made_of_the_folders() -> None:
    whole = yaml.safe_load((ROOT / "kustomization.yaml").read_text())
    assert whole["resources"] == ["base"]
    text = (ROOT / "kustomization.yaml").read_text()
    assert set(yaml.safe_load(text.replace("# components", "components").replace("# -", "-"))) == {
        "apiVersion", "kind", "resources", "components",
    }  # fmt: skip


@pytest.mark.parametrize("folder", ["base", "storage"])
def test_a_real_api_server_takes_them(cluster: Cluster, folder: str) -> None:
    with cluster.namespace() as namespace:
        for sent in read(folder):
            kind, name = sent["kind"], sent["metadata"]["name"]
            where = path(
                PLURALS[kind], "" if kind in WHOLE else namespace, name, group=sent["apiVersion"]
            )
            taken = cluster.admin.patch(
                where, sent, kind="apply", fieldManager="test", dryRun="All",
                fieldValidation="Strict",
            )  # fmt: skip
            assert not difference.missing(sent, taken), where


def test_a_real_api_server_takes_the_mayor(cluster: Cluster) -> None:
    plurals = {"ConfigMap": "configmaps", "Service": "services", "StatefulSet": "statefulsets"}
    with cluster.namespace() as namespace:
        for sent in read("mayor"):
            where = path(
                plurals[sent["kind"]], namespace, sent["metadata"]["name"],
                group=sent["apiVersion"],
            )  # fmt: skip
            taken = cluster.admin.patch(
                where, sent, kind="apply", fieldManager="test", dryRun="All",
                fieldValidation="Strict",
            )  # fmt: skip
            assert not difference.missing(sent, taken), where


def test_the_mayor_is_one_has_the_right_account_and_a_configuration_that_loads(
    tmp_path: Path,
) -> None:
    config, _, mayor = read("mayor")
    spec = mayor["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert mayor["spec"]["replicas"] == 1
    assert spec["serviceAccountName"] == around.account(OPTIONS)["metadata"]["name"]
    assert spec["automountServiceAccountToken"] is True
    (claim,) = mayor["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (state,) = [each["value"] for each in container["env"] if each["name"] == "OUTPOST_STATE"]
    assert state.startswith(mounts[claim["metadata"]["name"]] + "/")
    assert container["command"][2] == f"{mounts['config']}/outposts.yaml"
    file = tmp_path / "outposts.yaml"
    file.write_text(config["data"]["outposts.yaml"])
    done = subprocess.run(
        [sys.executable, "-m", "outpost_manager", "--config", str(file), "config", "check"],
        capture_output=True, text=True, check=False, timeout=120,
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_kueue_takes_its_part(cluster: Cluster) -> None:
    with cluster.namespace() as namespace, cluster.kueue(namespace, "other"):
        served = cluster.admin.get("/apis/kueue.x-k8s.io")["versions"]
        version = "kueue.x-k8s.io/v1beta1"
        if version not in [each["groupVersion"] for each in served]:
            version = served[0]["groupVersion"]
        for sent in read("kueue"):
            kind, name = sent["kind"], sent["metadata"]["name"]
            where = path(PLURALS[kind], "" if kind in WHOLE else namespace, name, group=version)
            body = sent | {"apiVersion": version}
            try:
                cluster.admin.patch(
                    where, body, kind="apply", fieldManager="test", dryRun="All",
                    fieldValidation="Strict",
                )  # fmt: skip
            except ApiError as error:
                # the stand-in has no ResourceFlavors
                assert (kind, error.status) == ("ResourceFlavor", 404)  # noqa: PT017
