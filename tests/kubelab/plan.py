"""What one lab is: its addresses, ports, folders and options, as its processes hand it on."""

import dataclasses
import json
import os
import socket
from pathlib import Path
from typing import Any, Final, Self

#: Networks of labs, out of the block that RFC 2544 keeps for tests, which no real network has.
CABLE: Final = "198.18.{}"
PODS: Final = "198.19.{}"
#: The address that the cluster's own clients are told; the API server really has it.
SERVICES: Final = "10.96.0"
NODE: Final = "node-1"
#: What pods select to run on the real kubelet; nodes of kwok have `kwok`, and a taint.
KIND: Final = "kubelab/node"
#: Where parts write whatever they are told; a lab has its own view of these.
COVERED: Final = ("/run", "/var/lib", "/var/log")
#: The parts that together are a cluster's control plane, in the order in which they start.
CONTROL_PLANE: Final = ("etcd", "apiserver", "manager", "scheduler")
#: What is started when a test asks for it.
ON_DEMAND: Final = ("kueue",)
_PORTS: Final = (
    *("etcd", "etcd_peer", "apiserver", "manager", "scheduler", "kwok"),
    *("kueue", "kueue_health", "kueue_places"),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What can be chosen of a lab.

    Attributes:
        fake_nodes: how many nodes kwok plays from the start.
        apart: whether it has namespaces of its own; never without root.
        real_node: whether there is a real kubelet; never without namespaces.
        flow_control: whether priority and fairness is on, with the API server's own limits.
        node_grace: seconds without a word from a node until it counts as lost.
        evict_after: seconds until pods of a lost node are deleted, where they do not say.
        api_arguments: more arguments of the API server.
        kubelet: more lines of the kubelet's configuration.
    """

    fake_nodes: int = 2
    apart: bool = True
    real_node: bool = True
    flow_control: bool = False
    node_grace: int = 40
    evict_after: int = 300
    api_arguments: tuple[str, ...] = ()
    kubelet: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """One lab.

    Attributes:
        folder: all of its files.
        tools: the folder with its programs, as `.ci/kubelab` says.
        options: what was chosen.
        leased: whether it ends with the last process that holds it.
        number: which of this machine's labs it is, where it has namespaces; else 0.
        ports: where each part listens.
    """

    folder: Path
    tools: Path
    options: Options = Options()
    leased: bool = False
    number: int = 0
    ports: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def address(self) -> str:
        """Where the API server listens, and the node's address."""
        return f"{CABLE.format(self.number)}.2" if self.number else "127.0.0.1"

    @property
    def host_address(self) -> str:
        """This machine's own address, as pods and the API server reach it."""
        return f"{CABLE.format(self.number)}.1" if self.number else "127.0.0.1"

    @property
    def pods(self) -> str:
        """The network of the pods of the real node."""
        return f"{PODS.format(self.number)}.0/24"

    @property
    def server(self) -> str:
        """The URL of the API server."""
        return f"https://{self.address}:{self.ports['apiserver']}"

    @property
    def group(self) -> str:
        """The name of the control group that pods are in."""
        return f"outpost-kubelab-{self.number}"

    @property
    def card(self) -> str:
        """The name of this machine's end of the cable."""
        return f"kubelab{self.number}"

    @property
    def program(self) -> str:
        """The program that is all parts in one."""
        return str(self.tools / "kubelab")

    @property
    def kueue(self) -> Path:
        """The definitions of Kueue's kinds, and its webhooks, as it ships them."""
        return self.tools / "kueue.d"

    @property
    def debian(self) -> Path:
        """What was unpacked of Debian's packages."""
        return self.tools / "debian"

    @property
    def keys(self) -> Path:
        """The folder with keys, certificates and kubeconfigs."""
        return self.folder / "keys"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.keys / "admin.kubeconfig"

    @property
    def control(self) -> Path:
        """The socket of the keeper."""
        return self.folder / "control"

    @property
    def containerd(self) -> Path:
        """The socket of containerd."""
        return self.folder / "containerd.sock"

    @property
    def has_node(self) -> bool:
        """Whether there is a real kubelet."""
        return self.options.real_node and self.number > 0

    @property
    def parts(self) -> tuple[str, ...]:
        """All parts that a lab begins with, in the order in which they start."""
        return (*CONTROL_PLANE, "kwok", *(("containerd", "kubelet") if self.has_node else ()))

    def numbered(self, number: int) -> "Plan":
        """Return the plan for namespaces of their own, or, with 0, for none.

        In namespaces the ports are always the same: 443 is where clients in pods look.
        """
        if number:
            ports = {name: 2379 + index for index, name in enumerate(_PORTS)}
            ports |= {"apiserver": 443, "kubelet": 10250}
        else:
            ports = _free_ports()
        return dataclasses.replace(self, number=number, ports=ports)

    def save(self) -> None:
        """Write it into its folder, for the processes that follow."""
        aside = self.folder / "plan.json.new"
        aside.write_text(json.dumps(dataclasses.asdict(self), default=str))
        aside.replace(self.folder / "plan.json")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        read: dict[str, Any] = json.loads((folder / "plan.json").read_text())
        options = read.pop("options")
        options["api_arguments"] = tuple(options["api_arguments"])
        places = {name: Path(read.pop(name)) for name in ("folder", "tools")}
        return cls(**places, options=Options(**options), **read)


def is_root() -> bool:
    """Whether a lab gets namespaces, and so a real node."""
    return os.geteuid() == 0


def _free_ports() -> dict[str, int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in _PORTS]
    ports = {name: one.getsockname()[1] for name, one in zip(_PORTS, sockets, strict=True)}
    for one in sockets:
        one.close()
    return ports
