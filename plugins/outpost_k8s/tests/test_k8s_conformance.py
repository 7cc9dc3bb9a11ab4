"""The Kubernetes outpost keeps what every outpost must keep, on a real kubelet.

Workers are in pods, so the kit sees neither their files nor their processes. What cuts the outpost
off is the cluster's own cable.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import k8smutants
import pytest
from peers.kubelab import Lab, Options, own_lab

from outpost_k8s.options import K8sOptions
from outpost_k8s.outpost import K8sOutpost
from outpost_shared import faults
from outpost_testing import OutpostSuite, Target
from outpost_testing.registry import GROUPS, all_checks, run_check

pytestmark = pytest.mark.kube


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A cluster of its own, since checks cut it off."""
    with own_lab(Options(fake_nodes=0)) as running:
        yield running


def make_target(lab: Lab, image: str, namespace: str, state: Path, **more: Any) -> Target:
    values: dict[str, Any] = {
        "type": "k8s",
        "provider": "outpost_k8s.plugin",
        "options": K8sOptions(
            kubeconfig=lab.kubeconfig,
            namespace=namespace,
            image=image,
            image_pull_policy="Never",
            cpu=0.3,
            memory=128 << 20,
            ephemeral_storage=64 << 20,
        ),
        "state": state,
        "shared": False,
        "cut": lab.cut,
        "restore": lab.restore,
        "fault_points": faults.NEAR,
        "within": 120.0,
        "spawns": 3,
        "listed": 5,
        "log_bytes": 5_000_000,
        **more,
    }
    return Target(**values)


class TestKubernetes(OutpostSuite):
    """All but what the worker in a pod does by itself, which other outposts show as well."""

    groups = tuple(group for group in GROUPS if group not in ("agent", "mail"))

    @pytest.fixture
    def target(self, lab: Lab, image: str, tmp_path: Path) -> Iterator[Target]:
        with lab.namespace() as namespace:
            yield make_target(lab, image, namespace, tmp_path)


def test_only_what_a_pod_cannot_have_is_passed_over(lab: Lab, image: str, tmp_path: Path) -> None:
    target = make_target(lab, image, "default", tmp_path)
    lacking = {what for one in all_checks() for what in one.needs - target.capabilities}
    assert lacking == {"facts", "mail", "inbox", "shared"}


@pytest.mark.parametrize(
    ("outpost", "caught_by", "saying"),
    k8smutants.MUTANTS,
    ids=[outpost.__name__ for outpost, _, _ in k8smutants.MUTANTS],
)
def test_a_broken_near_side_is_caught(
    lab: Lab,
    image: str,
    tmp_path: Path,
    outpost: type[K8sOutpost],
    caught_by: str,
    saying: str,
) -> None:
    (check,) = (check for check in all_checks() if check.id == caught_by)
    with lab.namespace() as namespace:
        target = make_target(
            lab, image, namespace, tmp_path, type=outpost.type, provider="k8smutants"
        )
        result = run_check(check, target)
    assert result.status == "failed", result
    assert saying in result.detail
