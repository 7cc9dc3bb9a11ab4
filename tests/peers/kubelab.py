"""A real Kubernetes cluster for tests: the lab of `tests/kubelab`, or any throw-away cluster.

`lab` is one for the whole test run, whichever of its processes asks first; it ends with the last of
them, however they end. `own_lab` is for tests that kill, stop or cut something. Both start in
seconds, once `.ci/kubelab` has built what they run. Where OUTPOST_TEST_KUBECONFIG names the
kubeconfig of another cluster (kind, k3s), `lab` is that one, and has no faults to offer.
"""

import atexit
import contextlib
import fcntl
import functools
import os
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from kubelab import certificates, client, cluster
from kubelab.client import Client, LabError
from kubelab.plan import KIND, NODE, Options

from peers import MissingError
from peers.kubeapi import Api, ApiError, Target, from_kubeconfig
from peers.kubehook import Decide, Hook
from peers.kubequeue import KINDS, Queue
from peers.kueue import define

__all__ = ["KIND", "NODE", "Api", "ApiError", "Cluster", "Lab", "Options", "lab", "own_lab"]

#: Seconds until what has to come is taken for missing.
PATIENCE: Final = 120.0
#: A pod with these runs on a node of kwok.
ON_KWOK: Final[Mapping[str, Any]] = {
    "nodeSelector": {KIND: "kwok"},
    "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}],
}
_RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"


class Cluster:
    """A cluster that runs, whoever made it.

    Attributes:
        kubeconfig: the administrator's.
        server: the URL of its API server.
        host_address: where pods and the API server find what a test listens with on this machine.
        admin: speaks with the API server as the administrator.
    """

    def __init__(self, kubeconfig: Path, target: Target, host_address: str, folder: Path) -> None:
        self.kubeconfig = kubeconfig
        self.target = target
        self.server = target.server
        self.host_address = host_address
        self.admin = Api(target)
        self._folder = folder

    @contextlib.contextmanager
    def namespace(self, labels: Mapping[str, str] | None = None) -> Iterator[str]:
        """Have a fresh namespace; it goes with all that is in it, which is not waited for."""
        name = f"test-{uuid.uuid4().hex[:10]}"
        body = {"metadata": {"name": name, "labels": dict(labels or {})}}
        self.admin.post("/api/v1/namespaces", body)
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        self.admin.until(account, bool)  # without it no pod is admitted
        try:
            yield name
        finally:
            with contextlib.suppress(ApiError, OSError):
                self.admin.delete(f"/api/v1/namespaces/{name}")

    def user(
        self,
        namespace: str,
        rules: Sequence[Mapping[str, Any]] = (),
        *,
        name: str = "",
        cluster_rules: Sequence[Mapping[str, Any]] = (),
        seconds: int = 3600,
    ) -> "User":
        """Make a service account that may do what is said and nothing else.

        Args:
            namespace: where it is, where its rules hold, and what its kubeconfig names.
            rules: as a Role has them.
            name: its name.
            cluster_rules: as a ClusterRole has them.
            seconds: how long its token is good; Kubernetes takes no less than 600.
        """
        name = name or f"user-{uuid.uuid4().hex[:8]}"
        here = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        self.admin.post(here, {"metadata": {"name": name}})
        who = [{"kind": "ServiceAccount", "name": name, "namespace": namespace}]
        whole = f"{namespace}-{name}"
        for kind, held, place, called in (
            ("Role", rules, f"/namespaces/{namespace}", name),
            ("ClusterRole", cluster_rules, "", whole),
        ):
            if not held:
                continue
            of = {"metadata": {"name": called}}
            self.admin.post(f"{_RBAC}{place}/{kind.lower()}s", {**of, "rules": list(held)})
            ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": called}
            self.admin.post(
                f"{_RBAC}{place}/{kind.lower()}bindings", {**of, "roleRef": ref, "subjects": who}
            )
        asked = {"spec": {"expirationSeconds": seconds}}
        token = self.admin.post(f"{here}/{name}/token", asked)["status"]["token"]
        target = self.target.as_bearer(token)
        path = target.write(self._folder / f"{whole}.kubeconfig", namespace)
        return User(name, path, token, Api(target), self, f"{here}/{name}")

    def kwok_nodes(self, count: int) -> None:
        """Have at least so many nodes that kwok plays.

        Raises:
            MissingError: this cluster has no kwok.
        """
        raise MissingError(f"{self.server} has no kwok; the project's own lab has")

    def load_image(self, tag: str, env: Mapping[str, str]) -> str:
        """Let pods have an image of podman's; returns what it is called in the cluster.

        Args:
            tag: the name of the image.
            env: of the podman that has it.
        """
        del tag, env
        image = os.environ.get("OUTPOST_TEST_IMAGE")
        if not image:
            raise MissingError(
                "OUTPOST_TEST_IMAGE has to name the image of workers as this cluster pulls it"
            )
        return image


class User:
    """Somebody who may do little. Made by `Cluster.user`.

    Attributes:
        name: of the service account.
        kubeconfig: theirs.
        token: theirs.
        api: speaks with the API server as them.
    """

    def __init__(
        self, name: str, kubeconfig: Path, token: str, api: Api, of: Cluster, path: str
    ) -> None:
        self.name, self.kubeconfig, self.token, self.api = name, kubeconfig, token, api
        self._cluster, self._path = of, path

    def revoke(self) -> None:
        """Make the token worthless; returns once the API server takes it no more."""
        self._cluster.admin.delete(self._path)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                self.api.get("/api")
            except ApiError as error:
                if error.status == 401:
                    return
            time.sleep(0.1)
        raise AssertionError("the token is still good")


class Lab(Cluster):
    """A lab of the project's own, whose parts can be killed and stopped.

    The names of parts are those of `kubelab.plan`: etcd, apiserver, manager, scheduler, kwok,
    containerd, kubelet.
    """

    def __init__(self, connection: Client) -> None:
        plan = connection.plan
        target = Target(
            plan.server, plan.keys / "ca.crt", plan.keys / "admin.crt", plan.keys / "admin.key"
        )
        super().__init__(plan.kubeconfig, target, plan.host_address, plan.keys)
        self.plan = plan
        self.client = connection

    @property
    def has_node(self) -> bool:
        """Whether pods can really run."""
        return self.plan.has_node

    def start(self, part: str) -> None:
        """Start a part that was killed; returns once the API server answers, if it is that."""
        self.client.call("start", part=part)
        if part in ("apiserver", "etcd"):
            self._wait_for_api()

    def kill(self, part: str, number: int = signal.SIGKILL) -> None:
        """End a part, and leave it ended; returns once it is gone."""
        self.client.call("kill", part=part, signal=number)

    def restart(self, part: str) -> None:
        """Kill a part, and start it."""
        self.kill(part)
        self.start(part)

    def stop(self, part: str) -> None:
        """Freeze a part: its connections stay open, and nothing is answered."""
        self.client.call("signal", part=part, signal=signal.SIGSTOP)

    def cont(self, part: str) -> None:
        """Undo `stop`."""
        self.client.call("signal", part=part, signal=signal.SIGCONT)

    def cut(self) -> None:
        """Pull the cable between this machine and the lab: nothing gets through either way."""
        self._need_cable()
        self.client.run("ip", "link", "set", "eth0", "down")

    def restore(self) -> None:
        """Undo `cut`."""
        self._need_cable()
        self.client.run("ip", "link", "set", "eth0", "up")

    def lose_node(self) -> None:
        """Let the node's power fail: kubelet, containerd and all pods' processes are gone."""
        self._need_node()
        self.client.call("lose_node")

    def compact(self) -> None:
        """Make the past unknown: whoever watches from an old version is told 410 Gone.

        The API server answers what etcd has forgotten out of its own memory; it is restarted.
        """
        self.client.call("compact")
        self.restart("apiserver")

    def kwok_nodes(self, count: int) -> None:
        """Have at least so many nodes that kwok plays; returns once they are ready."""
        for number in range(count):
            with contextlib.suppress(ApiError):  # it is there
                self.admin.post("/api/v1/nodes", cluster.fake_node(number))
        for number in range(count):
            self.admin.until(f"/api/v1/nodes/kwok-{number}", cluster.is_ready)

    def load_image(self, tag: str, env: Mapping[str, str]) -> str:
        """Let pods have an image of podman's; returns what it is called in the cluster."""
        self._need_node()
        with _locked(self.plan.folder):
            self.client.load(tag, env)
        return tag

    @contextlib.contextmanager
    def webhook(
        self, decide: Decide, namespace: str, rules: Sequence[Mapping[str, Any]], **more: Any
    ) -> Iterator[Hook]:
        """Have an admission webhook on this machine.

        Args:
            decide: told the review's `request`, returns its `response`, without `uid`.
            namespace: the only one that it is asked about.
            rules: as a ValidatingWebhookConfiguration has them.
            more: of the webhook, such as `failurePolicy` and `timeoutSeconds`.
        """
        name = f"hook-{uuid.uuid4().hex[:8]}"
        names = f"subjectAltName=IP:{self.host_address}\nextendedKeyUsage=serverAuth"
        certificates.sign(self.plan, name, "/CN=hook", names)
        keys = self.plan.keys
        with Hook(self.host_address, keys / f"{name}.crt", keys / f"{name}.key", decide) as hook:
            path, body = hook.registration(name, namespace, rules, keys / "ca.crt", more)
            self.admin.post(path, body)
            try:
                yield hook
            finally:
                self.admin.delete(f"{path}/{name}")

    @contextlib.contextmanager
    def kueue(self, namespace: str, name: str = "queue", slots: int = 1) -> Iterator[Queue]:
        """Have a queue of Kueue, by a stand-in; its kinds stay in the cluster.

        Args:
            namespace: where the LocalQueue is.
            name: of the LocalQueue.
            slots: how many Jobs may run at once.
        """
        with _locked(self.plan.folder):
            define(self.admin, self.plan.kueue, KINDS)
        with Queue(self.admin, namespace, name, slots) as queue:
            yield queue

    @contextlib.contextmanager
    def throttled(self, user: User, namespace: str) -> Iterator[None]:
        """Have a user told 429 for whatever they ask; needs `Options(flow_control=True)`.

        A level without a share still lets one request pass at a time: another one, which a webhook
        holds up, is that one.
        """
        over, holder = threading.Event(), self._holder(namespace)

        def hold(_: dict[str, Any]) -> dict[str, Any]:
            over.wait(25)
            return {"allowed": True}

        def ask() -> None:
            while not over.wait(0.05):
                with contextlib.suppress(ApiError):
                    here = f"/api/v1/namespaces/{namespace}/configmaps"
                    holder.api.post(here, {"metadata": {"generateName": "held-"}})

        thread = threading.Thread(target=ask)
        rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}
        created = [{**rule, "operations": ["CREATE"]}]
        hooked = self.webhook(hold, namespace, created, timeoutSeconds=30)
        with hooked, self._level(f"none-{user.name}", namespace, [user, holder]):
            thread.start()
            try:
                user.api.refused(429)
                yield
            finally:
                over.set()
                thread.join()

    def _holder(self, namespace: str) -> User:
        rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}]
        return self.user(namespace, rules)

    @contextlib.contextmanager
    def _level(self, name: str, namespace: str, users: Sequence[User]) -> Iterator[None]:
        """Have a level of priority without a share, for all that some users ask."""
        place = "/apis/flowcontrol.apiserver.k8s.io/v1"
        limited = {"nominalConcurrencyShares": 0, "lendablePercent": 0,
                   "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}  # fmt: skip
        everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"],
                      "clusterScope": True, "namespaces": ["*"]}  # fmt: skip
        accounts = [{"namespace": namespace, "name": user.name} for user in users]
        rule = {
            "subjects": [{"kind": "ServiceAccount", "serviceAccount": one} for one in accounts],
            "resourceRules": [everything],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }
        spec = {"priorityLevelConfiguration": {"name": name}, "matchingPrecedence": 2}
        objects = {
            "prioritylevelconfigurations": {"type": "Limited", "limited": limited},
            "flowschemas": {**spec, "rules": [rule]},
        }
        for resource, said in objects.items():
            self.admin.post(f"{place}/{resource}", {"metadata": {"name": name}, "spec": said})
        try:
            yield
        finally:
            for resource in objects:
                self.admin.delete(f"{place}/{resource}/{name}")

    def _wait_for_api(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.admin.get("/readyz")
            except (ApiError, OSError):
                assert time.monotonic() < deadline, "the API server does not come back"
                time.sleep(0.05)
            else:
                return

    def _need_cable(self) -> None:
        if not self.plan.number:
            raise MissingError("a network of its own is made by root alone")

    def _need_node(self) -> None:
        if not self.has_node:
            raise MissingError("a node with a kubelet is made by root alone")


@contextlib.contextmanager
def lab(*, node: bool = True) -> Iterator[Cluster]:
    """Have the cluster of this test run, which every process of it shares.

    Args:
        node: whether pods have to run really.

    Raises:
        MissingError: there cannot be one here.
    """
    if foreign := os.environ.get("OUTPOST_TEST_KUBECONFIG"):
        yield _foreign(Path(foreign))
        return
    shared = _shared()
    if node and not shared.has_node:
        raise MissingError("a node with a kubelet is made by root alone")
    yield shared


@contextlib.contextmanager
def own_lab(options: Options | None = None) -> Iterator[Lab]:
    """Have a lab to do with as one likes; nothing of it is left afterwards.

    Raises:
        MissingError: there cannot be one here.
    """
    folder = Path(tempfile.mkdtemp(prefix="kl-"))
    try:
        connection = _start(folder / "lab", options or Options())
        try:
            yield Lab(connection)
        finally:
            connection.down()
    finally:
        folder.rmdir()


@functools.cache
def _shared() -> Lab:
    """Return the lab of this test run: that of another of its processes, or a new one."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or f"{os.getpid()}-{uuid.uuid4().hex}"
    folder = Path(tempfile.gettempdir()) / f"kl-{os.geteuid()}-{run[-12:]}"
    with _locked(Path(client.__file__).parent):
        connection: Client | None = None
        with contextlib.suppress(OSError):
            connection = Client(folder, hold=True)
        if connection is None:
            connection = _start(folder, Options())
    atexit.register(connection.close)
    return Lab(connection)


def _start(folder: Path, options: Options) -> Client:
    try:
        return client.start(folder, options, leased=True, programs=_tools())
    except LabError as error:
        raise MissingError(f"there is no Kubernetes lab: {error}") from error


_missing: list[LabError] = []


def _tools() -> Path:
    """Return the programs of labs; where they cannot be built, that is tried once."""
    if _missing:
        raise _missing[0]
    try:
        return client.tools()
    except LabError as error:
        _missing.append(error)
        raise


@functools.cache
def _foreign(kubeconfig: Path) -> Cluster:
    target = from_kubeconfig(kubeconfig)
    folder = Path(tempfile.mkdtemp(prefix="kl-"))
    atexit.register(_remove, folder)
    return Cluster(kubeconfig, target, target.own_address(), folder)


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Be the only one who does something with a folder."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
