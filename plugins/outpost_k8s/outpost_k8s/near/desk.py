"""What the parts of one outpost share: the cluster and what is kept here."""

from __future__ import annotations

import getpass
import os
import socket
import time
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError
from outpost_k8s.near import seen
from outpost_k8s.near.kept import Keeping
from outpost_shared import border
from outpost_worker.container.witness import Witness

if TYPE_CHECKING:
    from outpost_core.backend import BuildContext
    from outpost_k8s.api.client import Cluster
    from outpost_k8s.options import K8sOptions

#: Seconds for which the difference of the cluster's clock to ours counts as known.
_CLOCK: Final = 600.0
#: Most characters of who asks for a stop.
_ASKS: Final = 100


class Desk:
    """See the module.

    Args:
        name: the outpost's name.
        options: its options.
        context: where what belongs to this side is kept.
    """

    def __init__(self, name: str, options: K8sOptions, context: BuildContext) -> None:
        self.name = name
        self.options = options
        self.context = context
        self.keeping = Keeping(context.state_dir)
        self.witness = Witness(context.state_dir / "records")
        self.closed = False
        self._cluster: Cluster | None = None
        self._clock: tuple[float, float] | None = None

    def cluster(self) -> Cluster:
        """Return the cluster; opens nothing.

        Raises:
            UsageError: there is no such kubeconfig or context.
        """
        if self._cluster is None:
            from outpost_k8s.api.client import Cluster

            self._cluster = Cluster.of(self.options, self.name)
        return self._cluster

    def address(self) -> str:
        """Return which cluster and namespace this outpost is."""
        cluster = self.cluster()
        return f"{cluster.server} {cluster.namespace}"

    def path(self, resource: str, name: str = "", sub: str = "") -> str:
        """Return the address of something in the outpost's namespace."""
        from outpost_k8s.api.paths import path

        return path(resource, self.cluster().namespace, name, sub)

    async def cluster_now(self) -> float | None:
        """Return what time it is by the API server's clock; None where it does not say.

        What would be created then, and is not, says it.
        """
        now = time.monotonic()
        if self._clock is None or now - self._clock[0] > _CLOCK:
            body = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"generateName": "outpost-clock-"},
            }
            try:
                made = await self.cluster().create(self.path("secrets"), body, dry_run=True)
            except OutpostError:
                return None
            moment = seen.created(made)
            if moment is None:
                return None
            self._clock = (time.monotonic(), moment)
        at, moment = self._clock
        return moment + time.monotonic() - at

    async def aclose(self) -> None:
        """Close all connections."""
        self.closed = True
        self.witness.close()
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            await cluster.aclose()


def who_asks() -> str:
    """Return who this is, for people at other machines: user and host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        user = str(os.getuid())
    return border.line(f"{user}@{socket.gethostname()}", _ASKS)
