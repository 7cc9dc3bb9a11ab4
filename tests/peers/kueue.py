"""Kueue itself in a lab: its kinds, its webhooks, its program, and queues that it keeps.

https://kueue.sigs.k8s.io/docs/concepts
"""

import base64
import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from kubelab.plan import Plan

from peers.kubeapi import PATIENCE, Api, ApiError

if TYPE_CHECKING:
    from peers.kubelab import Lab

GROUP: Final = "kueue.x-k8s.io"
_VERSION: Final = "v1beta2"
_API: Final = f"/apis/{GROUP}/{_VERSION}"
_DEFINITIONS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_HOOKS: Final = "/apis/admissionregistration.k8s.io/v1"
_SERVICES: Final = "/apis/apiregistration.k8s.io/v1/apiservices"
_PLACES: Final = "visibility.kueue.x-k8s.io"
_NAMESPACE: Final = "kueue-system"
#: Parts of the paths of webhooks that are asked about Jobs and about Kueue's own kinds; its program
#: in the lab knows of nothing else.
_ASKED: Final = ("-batch-v1-job", "-kueue-x-k8s-io-")
#: Kinds of which it makes one version out of another.
_CONVERTED: Final = ("clusterqueues", "cohorts", "localqueues", "multikueueclusters", "workloads")


def define(admin: Api, folder: Path, kinds: Iterable[str] = (), conversion: Any = None) -> None:
    """Have kinds of Kueue in a cluster.

    Args:
        admin: its administrator.
        folder: with the definitions, see `Plan.kueue`.
        kinds: which ones; none for all.
        conversion: who makes one version of them out of another; None for nobody.
    """
    wanted = {*kinds}
    names = []
    for file in sorted(folder.glob(f"{GROUP}_*.yaml")):
        kind = file.stem.rpartition("_")[2]
        if wanted and kind not in wanted:
            continue
        names.append(f"{kind}.{GROUP}")
        text = file.read_text()  # a megabyte: it is not parsed here, and sent once
        if conversion is not None and kind in _CONVERTED:
            more = f"\nspec:\n  conversion: {json.dumps(conversion)}\n"
            text = text.replace("\nspec:\n", more, 1)
        with contextlib.suppress(ApiError):  # it is there
            admin.call("POST", _DEFINITIONS, text.encode(), content="application/yaml")
    for name in names:
        admin.until(f"{_DEFINITIONS}/{name}", lambda found: "Established" in true(found))


def true(found: dict[str, Any]) -> set[str]:
    """Return the types of the conditions that hold."""
    conditions = (found.get("status") or {}).get("conditions") or ()
    return {one["type"] for one in conditions if one["status"] == "True"}


class Kueue:
    """Kueue in a lab. Made by `installed`."""

    def __init__(self, admin: Api) -> None:
        self._admin = admin
        flavor = {"apiVersion": f"{GROUP}/{_VERSION}", "kind": "ResourceFlavor"}
        admin.post(f"{_API}/resourceflavors", {**flavor, "metadata": {"name": "default"}})

    def queue(self, namespace: str, name: str, **quota: str) -> "Queue":
        """Have a queue with its own quota; whoever has a higher priority preempts others there.

        Args:
            namespace: where its LocalQueue is.
            name: of the LocalQueue.
            quota: what may be used at once, by resource; `-` in its name is `_`.
        """
        resources = [{"name": one.replace("_", "-"), "nominalQuota": quota[one]} for one in quota]
        group = {
            "coveredResources": [one["name"] for one in resources],
            "flavors": [{"name": "default", "resources": resources}],
        }
        whole = f"{namespace}-{name}"
        self._post(
            "clusterqueues", "ClusterQueue", whole,
            {
                "namespaceSelector": {}, "resourceGroups": [group],
                "preemption": {"withinClusterQueue": "LowerPriority"},
            },
        )  # fmt: skip
        of = f"namespaces/{namespace}/localqueues"
        self._post(of, "LocalQueue", name, {"clusterQueue": whole})
        self._admin.until(f"{_API}/{of}/{name}", lambda found: "Active" in true(found))
        return Queue(self._admin, f"{_API}/clusterqueues/{whole}")

    def _post(self, resource: str, kind: str, name: str, spec: dict[str, Any]) -> None:
        made = {"apiVersion": f"{GROUP}/{_VERSION}", "kind": kind}
        self._admin.post(f"{_API}/{resource}", {**made, "metadata": {"name": name}, "spec": spec})


class Queue:
    """A ClusterQueue. Made by `Kueue.queue`."""

    def __init__(self, admin: Api, path: str) -> None:
        self._admin = admin
        self._path = path

    def hold(self) -> None:
        """Admit nobody any more, and evict whom it has admitted."""
        self._admin.patch(self._path, {"spec": {"stopPolicy": "HoldAndDrain"}})

    def resume(self) -> None:
        """Undo `hold`."""
        self._admin.patch(self._path, {"spec": {"stopPolicy": "None"}})


@contextlib.contextmanager
def installed(lab: "Lab") -> Iterator[Kueue]:
    """Have Kueue in a lab of one's own: all kinds that it converts need it from then on."""
    plan, admin = lab.plan, lab.admin
    with contextlib.suppress(ApiError):
        admin.post("/api/v1/namespaces", {"metadata": {"name": _NAMESPACE}})
    authority = _base64((plan.keys / "ca.crt").read_bytes())
    server = f"https://127.0.0.1:{plan.ports['kueue']}"
    converts = {"url": f"{server}/convert", "caBundle": authority}
    conversion = {
        "strategy": "Webhook",
        "webhook": {"clientConfig": converts, "conversionReviewVersions": ["v1"]},
    }
    define(admin, plan.kueue, conversion=conversion)
    lab.start("kueue")
    try:
        _register_places(admin, plan, authority)
        _register_hooks(admin, plan, server, authority)
        _until(lambda: admin.get(f"/apis/{_PLACES}/v1beta1"))
        yield _until(lambda: Kueue(admin))
    finally:
        lab.kill("kueue")


def _register_hooks(admin: Api, plan: Plan, server: str, authority: str) -> None:
    for one in yaml.safe_load_all((plan.kueue / "manifests.yaml").read_text()):
        asked = []
        for hook in one["webhooks"]:
            path = hook["clientConfig"]["service"]["path"]
            if any(part in path for part in _ASKED):
                asked.append(hook)
                hook["clientConfig"] = {"url": server + path, "caBundle": authority}
        admin.post(f"{_HOOKS}/{one['kind'].lower()}s", {**one, "webhooks": asked})


def _register_places(admin: Api, plan: Plan, authority: str) -> None:
    """Let the API server pass on what is asked about places in queues."""
    port = plan.ports["kueue_places"]
    spec = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}
    services = f"/api/v1/namespaces/{_NAMESPACE}/services"
    admin.post(services, {"metadata": {"name": "kueue"}, "spec": spec})
    service = {"namespace": _NAMESPACE, "name": "kueue", "port": port}
    for version in ("v1beta1", "v1beta2"):
        served = {
            "group": _PLACES, "version": version, "service": service, "caBundle": authority,
            "groupPriorityMinimum": 100, "versionPriority": 100,
        }  # fmt: skip
        admin.post(_SERVICES, {"metadata": {"name": f"{version}.{_PLACES}"}, "spec": served})


def _until(ask: Callable[[], Any]) -> Any:
    """Ask until it is answered: its program begins, and the API server hears of it later."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return ask()
        except (ApiError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
