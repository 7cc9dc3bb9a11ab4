"""What Outpost does at a cluster, verb by verb: the Role, and what `doctor` asks for. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, kw_only=True)
class Permission:
    """Verbs on one kind of thing of the namespace.

    Args:
        resource: plural name.
        sub: subresource.
        group: API group; "" for the core one.
        verbs: what is done.
        why: what does not work without them.
        needed: no worker can be run without them; else only less is known.
    """

    resource: str
    sub: str = ""
    group: str = ""
    verbs: tuple[str, ...]
    why: str
    needed: bool = True

    @property
    def name(self) -> str:
        """As a Role writes it: `pods/exec`."""
        return f"{self.resource}/{self.sub}" if self.sub else self.resource


#: Exec is asked for by `get` and `create`: which of them a WebSocket takes depends on the version.
PERMISSIONS: Final = (
    Permission(
        resource="jobs", group="batch", why="to start, find, stop and remove workers",
        verbs=("get", "list", "watch", "create", "patch", "delete"),
    ),
    Permission(
        resource="pods", why="to see how workers are, and to stop them",
        verbs=("get", "list", "watch", "delete"),
    ),
    Permission(
        resource="secrets", why="to hand over orders, and to remove what a crash left",
        verbs=("get", "list", "create", "patch", "delete"),
    ),
    Permission(
        resource="pods", sub="exec", verbs=("get", "create"),
        why="for repositories of this machine, nudge, peek, attach and exact logs",
    ),
    Permission(resource="pods", sub="log", verbs=("get",), why="for the logs of workers"),
    Permission(
        resource="events", verbs=("get", "list", "watch"), needed=False,
        why="to say why a worker waits",
    ),
    Permission(
        resource="persistentvolumeclaims", verbs=("get", "list"), needed=False,
        why="to say whether volumes are there",
    ),
    Permission(
        resource="resourcequotas", verbs=("get", "list"), needed=False,
        why="to say how much room there is",
    ),
    Permission(
        resource="serviceaccounts", verbs=("get",), needed=False,
        why="to say whether the pods' service account is there",
    ),
    Permission(
        resource="networkpolicies", group="networking.k8s.io", verbs=("get", "list"), needed=False,
        why="to say what workers may connect to",
    ),
    Permission(
        resource="localqueues", group="kueue.x-k8s.io", verbs=("get", "list"), needed=False,
        why="to say whether the queue is there",
    ),
    Permission(
        resource="workloads", group="kueue.x-k8s.io", verbs=("get", "list"), needed=False,
        why="to say how long a queue is",
    ),
)  # fmt: skip


def rules() -> list[dict[str, Any]]:
    """Return the rules of the Role."""
    return [
        {"apiGroups": [each.group], "resources": [each.name], "verbs": list(each.verbs)}
        for each in PERMISSIONS
    ]
