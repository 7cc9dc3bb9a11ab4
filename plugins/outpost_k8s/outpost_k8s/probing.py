"""A pod that tries the image at the cluster: can it be had, and what is in it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError, UnreachableError
from outpost_k8s.api.errors import AbsentError
from outpost_k8s.api.paths import path
from outpost_k8s.near import reasons, seen
from outpost_k8s.objects import trial
from outpost_shared.backoff import every

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outpost_k8s.api.client import Cluster
    from outpost_k8s.near.codes import Why
    from outpost_k8s.settings import Settings

#: Seconds that the pod may take: an image of a GiB is pulled by then.
PATIENCE: Final = 150.0
#: Seconds that it may wait for a volume or a node: a cluster that makes them takes minutes, and
#: nobody waits for those here.
STUCK: Final = 30.0
_SLOW: Final = frozenset(("k8s_volume", "k8s_unschedulable", "k8s_quota", "k8s_gated"))
#: Codes of what does not get better by waiting.
_HOPELESS: Final = frozenset(
    ("k8s_image_pull", "k8s_config_missing", "k8s_start_failed", "k8s_init_failed", "k8s_admission")
)


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What the pod has shown.

    Args:
        programs: name → path; "" for a program that is not in the image. Empty: it did not run.
        why: what kept it from running.
        hint: what helps.
        waits: it may still come, such as when a node is added.
    """

    programs: Mapping[str, str] = field(default_factory=dict)
    why: str = ""
    hint: str = ""
    waits: bool = False


async def probe(cluster: Cluster, options: Settings, name: str, programs: Sequence[str]) -> Probed:
    """Run the pod, wait for its end, and remove it.

    Args:
        cluster: where; one of an earlier run that was killed is removed first.
        options: of the outpost.
        name: the outpost's.
        programs: that are looked for.

    Raises:
        OutpostError: it cannot be made or seen.
    """
    await _remove(cluster)
    made = await cluster.create(path("pods", cluster.namespace), trial.probe(options, programs))
    try:
        return await _watched(cluster, made, name)
    finally:
        await _remove(cluster)


async def _watched(cluster: Cluster, pod: seen.Object, name: str) -> Probed:
    where = path("pods", cluster.namespace, trial.PROBE)
    why: Why | None = None
    stuck = every(1.0, within=STUCK)
    async for _ in every(0.5, within=PATIENCE).rounds():
        pod = await cluster.get(where)
        ended = seen.terminated(pod)
        if ended or seen.has_ended(pod):
            if found := trial.programs_of(seen.text(ended, "message")):
                return Probed(programs=found)
            why = reasons.explain(None, pod)
            return Probed(why=why.message or why.detail, hint=_hint(why, name))
        why = reasons.explain(None, pod, await _events(cluster, pod))
        if why.reason in _HOPELESS:
            return Probed(why=why.detail, hint=_hint(why, name))
        if why.reason in _SLOW and stuck.over:
            break
    told = why.detail if why is not None and why.detail else "its pod does not begin"
    return Probed(why=told, hint=_hint(why, name), waits=True)


def _hint(why: Why | None, name: str) -> str:
    return "" if why is None else why.hint.format(outpost=name, issue="ISSUE")


async def _events(cluster: Cluster, pod: seen.Object) -> list[seen.Object]:
    fields = f"involvedObject.uid={seen.uid(pod)}"
    try:
        return [
            event async for event in cluster.items(path("events", cluster.namespace), fields=fields)
        ]
    except OutpostError:  # who may not look at events knows less
        return []


async def _remove(cluster: Cluster) -> None:
    where = path("pods", cluster.namespace, trial.PROBE)
    if not await cluster.delete(where, grace=0):
        return
    async for _ in every(0.2, within=30.0).rounds():
        if not await _is_there(cluster, where):
            return
    raise UnreachableError(f"the pod {trial.PROBE} of {cluster.namespace} does not go away")


async def _is_there(cluster: Cluster, where: str) -> bool:
    try:
        await cluster.get(where)
    except AbsentError:
        return False
    return True
