"""The command line of each part of a lab, and the files that it reads."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from kubelab.plan import KIND, NODE, SERVICES, Plan

PAUSE: Final = "localhost/kubelab/pause:1"
_CONTROLLERS: Final = (
    "clusterrole-aggregation-controller", "deployment-controller", "disruption-controller",
    "garbage-collector-controller", "job-controller", "namespace-controller",
    "node-lifecycle-controller", "persistentvolume-binder-controller",
    "persistentvolumeclaim-protection-controller", "pod-garbage-collector-controller",
    "replicaset-controller", "resourcequota-controller", "root-ca-certificate-publisher-controller",
    "serviceaccount-controller", "statefulset-controller", "taint-eviction-controller",
    "ttl-after-finished-controller",
)  # fmt: skip


def argv(plan: Plan, part: str) -> list[str]:
    """Write what a part reads, and return its command line."""
    return _PARTS[part](plan)


def environ(plan: Plan) -> dict[str, str]:
    """Return the environment of all parts."""
    debian = f"{plan.debian}/usr/bin:{plan.debian}/usr/sbin"
    return {
        "PATH": f"{debian}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(plan.folder),
        "TMPDIR": str(plan.folder),
        # a quarter of what they compute would be to look for memory; an API server has 0.7 GB so
        "GOGC": "400",
    }


def _etcd(plan: Plan) -> list[str]:
    client, peer = (f"http://127.0.0.1:{plan.ports[name]}" for name in ("etcd", "etcd_peer"))
    return [
        plan.program, "etcd", f"--data-dir={plan.folder}/etcd", "--unsafe-no-fsync",
        f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}", "--log-level=warn",
    ]  # fmt: skip


def _apiserver(plan: Plan) -> list[str]:
    keys, options = plan.keys, plan.options
    limits = () if options.flow_control else (
        "--enable-priority-and-fairness=false",
        "--max-requests-inflight=0", "--max-mutating-requests-inflight=0",
    )  # fmt: skip
    return [
        plan.program, "kube-apiserver",
        f"--etcd-servers=http://127.0.0.1:{plan.ports['etcd']}",
        # In namespaces of its own it has all addresses there, those for clients in pods, too.
        f"--bind-address={'0.0.0.0' if plan.number else '127.0.0.1'}",
        f"--advertise-address={plan.address}", f"--secure-port={plan.ports['apiserver']}",
        "--endpoint-reconciler-type=none", f"--service-cluster-ip-range={SERVICES}.0/24",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys}/accounts.key",
        f"--service-account-signing-key-file={keys}/accounts.key",
        f"--client-ca-file={keys}/ca.crt",
        f"--tls-cert-file={keys}/apiserver.crt", f"--tls-private-key-file={keys}/apiserver.key",
        f"--kubelet-client-certificate={keys}/kubelet-client.crt",
        f"--kubelet-client-key={keys}/kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={keys}/ca.crt",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={keys}/front-proxy.crt",
        f"--proxy-client-key-file={keys}/front-proxy.key",
        "--authorization-mode=Node,RBAC", "--allow-privileged=true", "--profiling=false",
        f"--default-not-ready-toleration-seconds={options.evict_after}",
        f"--default-unreachable-toleration-seconds={options.evict_after}",
        *limits, *options.api_arguments,
    ]  # fmt: skip


def _manager(plan: Plan) -> list[str]:
    grace = plan.options.node_grace
    return [
        plan.program, "kube-controller-manager", f"--kubeconfig={plan.kubeconfig}",
        f"--service-account-private-key-file={plan.keys}/accounts.key",
        f"--root-ca-file={plan.keys}/ca.crt", "--leader-elect=false",
        f"--controllers={','.join(_CONTROLLERS)}",
        "--kube-api-qps=500", "--kube-api-burst=1000", "--concurrent-job-syncs=10",
        "--bind-address=127.0.0.1", f"--secure-port={plan.ports['manager']}", "--profiling=false",
        f"--node-monitor-grace-period={grace}s", f"--node-monitor-period={min(5, grace / 8)}s",
    ]  # fmt: skip


def _scheduler(plan: Plan) -> list[str]:
    config = _write(plan, "scheduler.yaml", f"""apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {{leaderElect: false}}
clientConnection: {{kubeconfig: {plan.kubeconfig}, qps: 500, burst: 1000}}
""")  # fmt: skip
    return [
        plan.program, "kube-scheduler", f"--config={config}",
        "--bind-address=127.0.0.1", f"--secure-port={plan.ports['scheduler']}",
    ]  # fmt: skip


def _kwok(plan: Plan) -> list[str]:
    port = plan.ports["kwok"]
    return [
        plan.program, "kwok", f"--kubeconfig={plan.kubeconfig}",
        f"--config={Path(__file__).with_name('stages.yaml')}", "--manage-all-nodes=false",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake", "--cidr=10.99.0.0/16",
        f"--node-ip={plan.address}", f"--node-lease-duration-seconds={plan.options.node_grace}",
        f"--server-address={'0.0.0.0' if plan.number else '127.0.0.1'}:{port}",
        f"--node-port={port}",
    ]  # fmt: skip


def _containerd(plan: Plan) -> list[str]:
    folder, debian = plan.folder, plan.debian
    (folder / "cni").mkdir(exist_ok=True)
    _write(plan, "cni/10-kubelab.conflist", f"""{{"cniVersion": "0.4.0", "name": "kubelab",
"plugins": [{{"type": "ptp", "ipMasq": false, "ipam": {{"type": "host-local",
"dataDir": "{folder}/addresses", "ranges": [[{{"subnet": "{plan.pods}"}}]],
"routes": [{{"dst": "0.0.0.0/0"}}]}}}}]}}
""")  # fmt: skip
    others = ", ".join(
        f'"io.containerd.{name}"'
        for name in (
            *(f"snapshotter.v1.{one}" for one in ("btrfs", "zfs", "aufs", "devmapper")),
            "internal.v1.opt",
        )
    )
    # restrict_oom_score_adj: root of a container may lack the right to lower the score, and runc
    # then fails with "can't get final child's PID from pipe"
    config = _write(plan, "containerd.toml", f"""version = 2
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"
disabled_plugins = [{others}]
[grpc]
  address = "{plan.containerd}"
[ttrpc]
  address = "{plan.containerd}.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  stream_server_address = "127.0.0.1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{debian}/usr/lib/cni"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "runc"
        SystemdCgroup = false
""")  # fmt: skip
    return [f"{debian}/usr/bin/containerd", "-c", str(config)]


def _kubelet(plan: Plan) -> list[str]:
    keys, folder = plan.keys, plan.folder
    # there is no name server; a test may be one
    resolv = _write(plan, "resolv.conf", f"nameserver {plan.host_address}\n")
    config = _write(plan, "kubelet.yaml", f"""apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {plan.address}
port: {plan.ports["kubelet"]}
healthzBindAddress: 127.0.0.1
healthzPort: 10248
readOnlyPort: 0
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {keys}/ca.crt}}
authorization: {{mode: Webhook}}
tlsCertFile: {keys}/kubelet.crt
tlsPrivateKeyFile: {keys}/kubelet.key
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /{plan.group}
cgroupsPerQOS: true
enforceNodeAllocatable: []
protectKernelDefaults: true
failSwapOn: false
containerRuntimeEndpoint: unix://{plan.containerd}
podLogsDir: {folder}/podlogs
volumePluginDir: {folder}/volumeplugins
enableControllerAttachDetach: false
evictionHard:
  memory.available: 50Mi
  nodefs.available: 1%
  nodefs.inodesFree: 1%
  imagefs.available: 1%
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
nodeStatusUpdateFrequency: {min(10, plan.options.node_grace / 4)}s
nodeLeaseDurationSeconds: {min(40, plan.options.node_grace)}
syncFrequency: 10s
serializeImagePulls: false
maxPods: 100
resolvConf: {resolv}
{plan.options.kubelet}
""")  # fmt: skip
    return [
        plan.program, "kubelet", f"--config={config}", f"--kubeconfig={keys}/kubelet.kubeconfig",
        f"--hostname-override={NODE}", f"--node-ip={plan.address}",
        f"--root-dir={folder}/kubelet", f"--cert-dir={folder}/kubelet-certificates",
        f"--node-labels={KIND}=real",
    ]  # fmt: skip


def _kueue(plan: Plan) -> list[str]:
    config = _write(plan, "kueue.yaml", f"""apiVersion: config.kueue.x-k8s.io/v1beta2
kind: Configuration
namespace: kueue-system
health: {{healthProbeBindAddress: "127.0.0.1:{plan.ports["kueue_health"]}"}}
metrics: {{bindAddress: "0"}}
webhook: {{host: 127.0.0.1, port: {plan.ports["kueue"]}, certDir: keys/kueue}}
visibilityServer: {{bindAddress: 127.0.0.1}}
leaderElection: {{leaderElect: false}}
internalCertManagement: {{enable: false}}
clientConnection: {{qps: 500, burst: 1000}}
integrations: {{frameworks: [batch/job]}}
""")  # fmt: skip
    return [
        "env", f"--chdir={plan.folder}", f"{plan.tools}/kueue", f"--config={config}",
        f"--kubeconfig={plan.kubeconfig}",
        f"--visibility-server-port={plan.ports['kueue_places']}",
    ]  # fmt: skip


def _write(plan: Plan, name: str, text: str) -> Path:
    path = plan.folder / name
    path.write_text(text)
    return path


_PARTS: Final[dict[str, Callable[[Plan], list[str]]]] = {
    "etcd": _etcd, "apiserver": _apiserver, "manager": _manager, "scheduler": _scheduler,
    "kwok": _kwok, "kueue": _kueue, "containerd": _containerd, "kubelet": _kubelet,
}  # fmt: skip
