"""The Kubernetes lab of the tests: what it offers works, and nothing of it stays."""

from __future__ import annotations

import base64
import contextlib
import http.server
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from peers import MissingError, containers, kubelab
from peers.kubehook import mutate, refuse
from peers.kubelab import ON_KWOK, ApiError, Cluster, Lab, LabError, Options, own_lab
from peers.kubequeue import QUEUE

pytestmark = pytest.mark.kube

CHECKOUT = Path(__file__).parents[1]
JOBS = "/apis/batch/v1/namespaces/{}/jobs"
PODS = "/api/v1/namespaces/{}/pods"
MAPS = "/api/v1/namespaces/{}/configmaps"
#: Where a kubelet, containerd and their plugins leave things, were a lab not to cover it.
PLACES = ("/run/containerd", "/var/lib/kubelet", "/var/lib/cni/results", "/var/log/containers",
          "/var/log/pods")  # fmt: skip


@pytest.fixture(scope="module")
def mine() -> Iterator[Lab]:
    """A lab that tests may break."""
    with own_lab(Options(node_grace=8, flow_control=True)) as lab:
        yield lab


@pytest.fixture(scope="module")
def image() -> Any:
    return containers.image()


def job(image: str, *argv: str, **pod: Any) -> dict[str, Any]:
    container = {"name": "w", "image": image, "imagePullPolicy": "Never", "command": list(argv)}
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, **pod}
    template = {"spec": {**spec, "containers": [container]}}
    return {"metadata": {"name": "j"}, "spec": {"backoffLimit": 0, "template": template}}


def ended(job: dict[str, Any]) -> bool:
    conditions = job.get("status", {}).get("conditions", [])
    return any(one["type"] in ("Complete", "Failed") for one in conditions)


def only_pod(cluster: Cluster, namespace: str) -> dict[str, Any]:
    [pod] = cluster.admin.until(PODS.format(namespace), lambda pods: pods["items"])["items"]
    found: dict[str, Any] = pod
    return found


def phase(cluster: Cluster, namespace: str, name: str) -> None:
    cluster.admin.until(
        PODS.format(namespace),
        lambda pods: [one["status"]["phase"] for one in pods["items"]] == [name],
    )


def test_a_pod_runs_and_reaches_this_machine(cluster: Cluster, image: Any) -> None:
    tag = cluster.load_image(image.tag, containers.base())

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"from this machine")

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer((cluster.host_address, 0), Handler)
    url = f"http://{cluster.host_address}:{server.server_address[1]}/"
    script = f"import urllib.request as r; print(r.urlopen({url!r}).read().decode())"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        with cluster.namespace() as namespace:
            path = JOBS.format(namespace)
            cluster.admin.post(path, job(tag, "python3", "-c", script))
            cluster.admin.until(f"{path}/j", ended)
            pod = only_pod(cluster, namespace)["metadata"]["name"]
            printed = cluster.admin.get(f"{PODS.format(namespace)}/{pod}/log")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert printed == "from this machine\n"


def test_kwok_plays_pods(cluster: Cluster) -> None:
    with cluster.namespace() as namespace:
        path = JOBS.format(namespace)
        many = job("none", **ON_KWOK)
        many["spec"] |= {"completions": 20, "parallelism": 20}
        cluster.admin.post(path, many)
        assert cluster.admin.until(f"{path}/j", ended)["status"]["succeeded"] == 20


def test_a_user_may_what_they_may(cluster: Cluster) -> None:
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]
    with cluster.namespace() as namespace, cluster.namespace() as other:
        user = cluster.user(namespace, rules)
        assert user.api.get(MAPS.format(namespace))["kind"] == "ConfigMapList"
        for path in (PODS.format(namespace), MAPS.format(other)):
            with pytest.raises(ApiError, match="forbidden"):
                user.api.get(path)
        assert user.token in user.kubeconfig.read_text()
        assert user.kubeconfig.stat().st_mode & 0o077 == 0
        user.revoke()


def test_a_webhook_refuses_and_changes(mine: Lab) -> None:
    def decide(request: dict[str, Any]) -> dict[str, Any]:
        if request.get("name") == "bad":
            return refuse("not here")
        return mutate({"op": "add", "path": "/data", "value": {"seen": "yes"}})

    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
              "resources": ["configmaps"]}]  # fmt: skip
    with mine.namespace() as namespace, mine.webhook(decide, namespace, rules) as hook:
        path = MAPS.format(namespace)
        mine.admin.until(path, lambda _: _is_changed(mine, path))
        with pytest.raises(ApiError, match="not here"):
            mine.admin.post(path, {"metadata": {"name": "bad"}})
        assert hook.asked


def _is_changed(lab: Lab, path: str) -> bool:
    """Whether the API server knows of the webhook; it looks for new ones now and then."""
    made = lab.admin.post(path, {"metadata": {"generateName": "m-"}})
    return bool(made.get("data") == {"seen": "yes"})


def test_a_user_is_throttled(mine: Lab) -> None:
    with mine.namespace() as namespace:
        user = mine.user(namespace)
        with mine.throttled(user, namespace), pytest.raises(ApiError, match="429"):
            user.api.get("/api")
        mine.admin.get("/api")


def test_jobs_wait_in_a_queue(mine: Lab) -> None:
    with mine.namespace() as namespace, mine.kueue(namespace, slots=0) as queue:
        path = JOBS.format(namespace)
        waits = job("none", nodeSelector={"none": "such"})
        waits["metadata"]["labels"] = {QUEUE: queue.name}
        waits["spec"]["suspend"] = True
        mine.admin.post(path, waits)
        workload = f"/apis/kueue.x-k8s.io/v1beta1/namespaces/{namespace}/workloads/job-j"

        def is_admitted(found: dict[str, Any], status: str) -> bool:
            conditions = found.get("status", {}).get("conditions", [])
            return {"Admitted": status}.items() <= {
                one["type"]: one["status"] for one in conditions
            }.items()

        found = mine.admin.until(workload, lambda found: is_admitted(found, "False"))
        assert "insufficient unused quota" in str(found["status"])
        queue.slots = 1
        mine.admin.until(workload, lambda found: is_admitted(found, "True"))
        mine.admin.until(f"{path}/j", lambda found: found["status"].get("active") == 1)
        queue.evict("j")
        mine.admin.until(f"{path}/j", lambda found: found["spec"]["suspend"])
        found = mine.admin.until(workload, lambda found: is_admitted(found, "False"))
        assert "Preempted" in str(found["status"])


def test_the_api_server_is_killed_and_comes_back(mine: Lab) -> None:
    mine.kill("apiserver")
    with pytest.raises(OSError, match="refused"):
        mine.admin.get("/readyz")
    assert mine.client.status()["parts"]["apiserver"] == 0
    mine.start("apiserver")
    assert mine.admin.get("/readyz") == "ok"


def test_the_api_server_is_stopped_and_goes_on(mine: Lab) -> None:
    mine.stop("apiserver")
    try:
        with pytest.raises(TimeoutError):
            next(mine.admin.watch("/api/v1/pods", seconds=0.5))
    finally:
        mine.cont("apiserver")
    assert mine.admin.get("/readyz") == "ok"


def test_the_cable_is_pulled(mine: Lab) -> None:
    mine.cut()
    try:
        with pytest.raises(OSError, match=r"timed out|No route"):
            next(mine.admin.watch("/api/v1/pods", seconds=0.5))
    finally:
        mine.restore()
    assert mine.admin.get("/readyz") == "ok"


def test_the_past_is_forgotten(mine: Lab) -> None:
    with mine.namespace() as namespace:
        path = MAPS.format(namespace)
        old = mine.admin.get(path)["metadata"]["resourceVersion"]
        for _ in range(3):
            mine.admin.post(path, {"metadata": {"generateName": "m-"}})
        mine.compact()
        told: dict[str, Any] = {}
        try:
            told = next(mine.admin.watch(path, resourceVersion=old))["object"]
        except ApiError as error:
            told = error.body
        assert told["code"] == 410


def test_a_pod_goes_on_while_the_kubelet_is_away(mine: Lab, image: Any) -> None:
    tag = mine.load_image(image.tag, containers.base())
    with mine.namespace() as namespace:
        path = JOBS.format(namespace)
        script = "import time; [time.sleep(0.1) for _ in range(30)]; print('went on')"
        mine.admin.post(path, job(tag, "python3", "-c", script))
        phase(mine, namespace, "Running")
        mine.kill("kubelet")
        mine.start("kubelet")
        assert mine.admin.until(f"{path}/j", ended)["status"]["succeeded"] == 1


def test_a_node_is_lost_and_comes_back(mine: Lab, image: Any) -> None:
    tag = mine.load_image(image.tag, containers.base())
    node = f"/api/v1/nodes/{kubelab.NODE}"
    with mine.namespace() as namespace:
        path = JOBS.format(namespace)
        mine.admin.post(path, job(tag, "sleep", "1000"))
        phase(mine, namespace, "Running")
        mine.lose_node()
        mine.admin.until(node, lambda found: not kubelab.cluster.is_ready(found))
        mine.start("containerd")
        mine.start("kubelet")
        mine.admin.until(node, kubelab.cluster.is_ready)
        assert mine.admin.until(f"{path}/j", ended)["status"]["failed"] == 1


def test_one_without_namespaces_is_at_loopback() -> None:
    with own_lab(Options(apart=False)) as lab:
        assert lab.server.startswith("https://127.0.0.1:")
        assert not lab.has_node
        for harm in (lab.cut, lab.restore, lab.lose_node):  # it would be this machine's
            with pytest.raises(MissingError, match="root"):
                harm()
        with pytest.raises(LabError, match="no real node"):
            lab.client.call("lose_node")
        with lab.namespace() as namespace:
            path = JOBS.format(namespace)
            lab.admin.post(path, job("none", **ON_KWOK))
            lab.admin.until(f"{path}/j", ended)
        pids = [pid for pid in lab.client.status()["parts"].values() if pid]
        assert len(pids) == 5
    deadline = time.monotonic() + 30  # they were sent SIGKILL, and die when they have a turn
    while [pid for pid in pids if _lives(pid)]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_another_cluster_does(mine: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = yaml.safe_load(mine.kubeconfig.read_text())
    for of in (read["clusters"][0]["cluster"], read["users"][0]["user"]):
        for key in ("certificate-authority", "client-certificate", "client-key"):
            if path := of.pop(key, None):  # as kind and k3s have them
                of[f"{key}-data"] = base64.b64encode(Path(path).read_bytes()).decode()
    (tmp_path / "config").write_text(yaml.safe_dump(read))
    monkeypatch.setenv("OUTPOST_TEST_KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("OUTPOST_TEST_IMAGE", "registry.example/worker:1")
    with kubelab.lab() as other, other.namespace() as namespace:
        assert other.server == mine.server
        assert other.host_address == mine.host_address
        assert other.load_image("worker", {}) == "registry.example/worker:1"
        mine.admin.until(MAPS.format(namespace), lambda maps: maps["items"])
        with pytest.raises(MissingError, match="kwok"):
            other.kwok_nodes(1)
        with pytest.raises(ApiError, match="forbidden"):
            other.user(namespace).api.get(PODS.format(namespace))


def test_one_that_does_not_start_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    wrong = Options(fake_nodes=0, real_node=False, api_arguments=("--no-such-argument",))
    with pytest.raises(MissingError, match="unknown flag: --no-such-argument"), own_lab(wrong):
        pass
    assert not list(tmp_path.iterdir())


def test_it_ends_with_its_guard() -> None:
    places = {path for path in PLACES if os.path.exists(path)}
    with own_lab(Options(fake_nodes=0)) as lab:
        of_it = (str(lab.plan.folder), lab.plan.number)
        before = _traces(*of_it) - places
        guard = lab.client.guard
        assert guard is not None
        guard.kill()
        guard.wait()
    assert any(one.startswith("card") for one in before), before
    assert any(one.startswith("group") for one in before), before
    _wait_until_gone(before, *of_it)


def _wait_until_gone(before: set[str], folder: str, number: int) -> None:
    deadline = time.monotonic() + kubelab.PATIENCE
    while left := _traces(folder, number) & before:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


SHARED = """
import sys, time
from peers.kubelab import lab
with lab() as cluster:
    print(cluster.client.folder, cluster.plan.number, flush=True)
    sys.stdin.read()
"""


def test_processes_of_one_run_share_one_and_nothing_is_left() -> None:
    places = {path for path in PLACES if os.path.exists(path)}
    run = f"{os.getpid()}-{time.monotonic_ns()}"
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT / "tests"), "PYTEST_XDIST_TESTRUNUID": run}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", SHARED], env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    told = []
    for process in both:
        assert process.stdout is not None
        told.append(process.stdout.readline().split())
    assert told[0] == told[1] != []
    folder, number = told[0]
    inside = _traces(folder, int(number))
    assert {one.split()[0] for one in inside - places} >= {"card", "group", "process"}
    both[0].send_signal(signal.SIGKILL)
    both[0].communicate()
    assert os.path.exists(folder)
    both[1].send_signal(signal.SIGKILL)
    both[1].communicate()
    _wait_until_gone({*inside, folder} - places, folder, int(number))
    assert not os.path.exists(folder)


def test_the_command_for_people(tmp_path: Path) -> None:
    env = {**os.environ, "OUTPOST_KUBELAB_RUN": str(tmp_path)}

    def run(*words: str, code: int = 0) -> str:
        done = subprocess.run(
            [CHECKOUT / "scripts" / "kube-lab", *words], env=env, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == code, (done.stdout, done.stderr)
        return done.stdout + done.stderr

    assert "kube-lab up" in run("status", code=1)
    told = run("up", "--no-real-node", "--fake-nodes", "1")
    try:
        assert run("env").strip() in told
        assert run("env") == f"export KUBECONFIG={tmp_path}/default/keys/admin.kubeconfig\n"
        assert run("up") in told  # another one is not started
        assert "apiserver    runs" in run("status")
        for words in (("--name", "other", "env"), ("env", "--name", "other")):
            assert "no lab runs" in run(*words, code=1)
        assert "kwok-0" in run("kubectl", "get", "nodes", "--output", "name")
        assert "no real node" in run("load", "an-image", code=1)
    finally:
        run("down")
    assert not list(tmp_path.iterdir())


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


def _traces(folder: str, number: int) -> set[str]:
    """Return what is on this machine of one lab, and what any lab could have left.

    Cards and control groups by what the kernel knows them by: another lab may have got the number.
    """
    found = {path for path in PLACES if os.path.exists(path)}
    with contextlib.suppress(OSError):
        found.add(f"card {Path(f'/sys/class/net/kubelab{number}/ifindex').read_text()}")
    for group, below, _ in os.walk("/sys/fs/cgroup"):  # passes over what is removed meanwhile
        if os.path.basename(group) == f"outpost-kubelab-{number}":
            below.clear()
            with contextlib.suppress(OSError):
                found.add(f"group {group} {os.stat(group).st_ino}")
    found |= {f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit():
                found.add(f"process {(process / 'cmdline').read_text()}")
    whole = tuple(f"{word} " for word in ("card", "group"))
    return {one for one in found if one in PLACES or one.startswith(whole) or folder in one}
