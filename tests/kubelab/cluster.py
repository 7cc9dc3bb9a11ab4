"""What the keeper does in its cluster: waits until it works, makes nodes, compacts."""

import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, Final

from kubelab.plan import KIND, NODE, Plan

#: Seconds until what has to come is taken for missing.
PATIENCE: Final = 180.0
_POLL: Final = 0.05


def prepare(plan: Plan, run: Callable[..., tuple[int, str]], start: Callable[[str], None]) -> None:
    """Wait for the control plane, then for the nodes.

    Args:
        plan: the lab.
        run: runs a program within the lab.
        start: starts a part.
    """
    call = caller(plan)
    _until("the API server", lambda: call("GET", "/readyz"))
    if plan.has_node:
        ctr = ctr_argv(plan)
        _until("containerd", lambda: run(*ctr, "version")[0] == 0)
        code, printed = run(*ctr, "images", "import", f"{plan.tools}/pause.tar")
        if code:
            raise RuntimeError(f"the pause image was not imported: {printed}")
        start("kubelet")
    for number in range(plan.options.fake_nodes):
        call("POST", "/api/v1/nodes", fake_node(number))
    _until(
        "the first account",
        lambda: call("GET", "/api/v1/namespaces/default/serviceaccounts/default"),
    )
    names = [f"kwok-{number}" for number in range(plan.options.fake_nodes)]
    for name in names + [NODE] * plan.has_node:
        _until(f"node {name}", lambda name=name: is_ready(call("GET", f"/api/v1/nodes/{name}")))


def ctr_argv(plan: Plan) -> list[str]:
    """Return the start of a command line of containerd's ctr."""
    return [f"{plan.debian}/usr/bin/ctr", "-a", str(plan.containerd), "-n", "k8s.io"]


def fake_node(number: int) -> dict[str, Any]:
    """Return a node for kwok to play, on which only pods run that tolerate it."""
    name = f"kwok-{number}"
    room = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "1000"}
    labels = {KIND: "kwok", "kubernetes.io/os": "linux", "kubernetes.io/hostname": name}
    taint = {"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}
    return {
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "annotations": {"kwok.x-k8s.io/node": "fake"}, "labels": labels},
        "spec": {"taints": [taint]},
        "status": {"allocatable": room, "capacity": room},
    }  # fmt: skip


def compact(plan: Plan) -> None:
    """Make etcd forget all but the newest state of everything."""
    now = _etcd(plan, "range", {"key": "AA=="})["header"]["revision"]
    _etcd(plan, "compaction", {"revision": now, "physical": True})


def is_ready(node: dict[str, Any]) -> bool:
    """Whether pods may be put on a node."""
    conditions = {one["type"]: one["status"] for one in node["status"].get("conditions", [])}
    taints = [one["key"] for one in node["spec"].get("taints", [])]
    waits = any(key.startswith("node.kubernetes.io/") for key in taints)
    return conditions.get("Ready") == "True" and not waits


def caller(plan: Plan) -> Callable[..., Any]:
    """Return a function (method, path, body) that speaks with the API server as administrator."""
    context = ssl.create_default_context(cafile=str(plan.keys / "ca.crt"))
    context.load_cert_chain(plan.keys / "admin.crt", plan.keys / "admin.key")
    handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    opener = urllib.request.build_opener(*handlers)

    def call(method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            plan.server + path, method=method, data=data,
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        with opener.open(request, timeout=10) as response:
            read = response.read()
        return json.loads(read) if read[:1] in (b"{", b"[") else read.decode()

    return call


def _etcd(plan: Plan, what: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{plan.ports['etcd']}/v3/kv/{what}", data=json.dumps(body).encode()
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def _until(what: str, asks: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        error: Exception | None = None
        try:
            if asks():
                return
        except (OSError, ValueError, urllib.error.URLError) as caught:
            error = caught
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {PATIENCE:.0f} s: {error}")
        time.sleep(_POLL)
