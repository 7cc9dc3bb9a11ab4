"""`outpost bootstrap` of a Kubernetes outpost: what a namespace needs around workers.

Everything is applied by the server itself (server-side apply, as the field manager `outpost`), so
that what others have set stays, and a repeated or killed run leaves the same. What would change is
asked of the server, shown, changed, and read back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from outpost_agents.presets import PRESETS
from outpost_core.errors import OutpostError
from outpost_core.types import Step
from outpost_k8s import checking, probing
from outpost_k8s.api.client import Cluster
from outpost_k8s.api.errors import AbsentError, ApiError, ChangedError, DeniedError
from outpost_k8s.api.paths import path
from outpost_k8s.near import seen
from outpost_k8s.objects import around, difference, names, trial
from outpost_shared import faults
from outpost_shared.backoff import every

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from outpost_k8s.options import K8sOptions

#: Seconds until an applied object must show what was sent.
_SHOWN: Final = 20.0
#: Changes of one object that are shown.
_MOST: Final = 6
KUEUE: Final = "kueue.x-k8s.io"


async def bootstrap(
    name: str, options: K8sOptions, agents: Sequence[str], *, dry_run: bool
) -> AsyncIterator[Step]:
    """Yield the steps of setting a namespace up.

    Args:
        name: the outpost's name.
        options: its options, their paths whole.
        agents: names of presets that the image has to have the programs of.
        dry_run: change nothing; yield what would be done.
    """
    yield Step(name="cluster", state="doing")
    try:
        cluster = Cluster.of(options, name)
    except OutpostError as error:
        yield _failed("cluster", error)
        return
    try:
        try:
            version = await cluster.version()
        except OutpostError as error:
            yield _failed("cluster", error)
            return
        yield Step(name="cluster", state="ok", detail=f"{version} at {cluster.server}")
        setup = _Setup(name, options, cluster, dry_run=dry_run)
        async for step in setup.steps():
            yield step
        if setup.new or setup.broken:
            return
        async for step in _tried(name, options, cluster, agents, dry_run=dry_run):
            yield step
    finally:
        await cluster.aclose()


class _Setup:
    """Makes a namespace as it is to be."""

    def __init__(self, name: str, options: K8sOptions, cluster: Cluster, *, dry_run: bool) -> None:
        self._name = name
        self._options = options
        self._cluster = cluster
        self._dry_run = dry_run
        self.new = False  # a dry run, and there is no namespace that anything could be asked of
        self.broken = False  # no more can be done

    async def steps(self) -> AsyncIterator[Step]:
        options, namespace = self._options, self._cluster.namespace
        async for step in self._namespace():
            yield step
        if self.broken:
            return
        for what, resource, body in (
            ("service account", "serviceaccounts", around.account(options)),
            ("role", "roles", around.role(options)),
            ("role binding", "rolebindings", around.binding(options, namespace)),
        ):
            async for step in self._applied(what, resource, body):
                yield step
        for claim in around.claims(options):
            async for step in self._claim(claim):
                yield step
        if options.network_policy:
            async for step in self._applied(
                "network policy", "networkpolicies", around.policy(options)
            ):
                yield step
        if options.queue:
            async for step in self._queue():
                yield step

    async def _namespace(self) -> AsyncIterator[Step]:
        """Make the namespace, or leave one alone that others have made."""
        options, name = self._options, self._cluster.namespace
        where = path("namespaces", name=name)
        yield Step(name="namespace", state="doing")
        loose = checking.loosened(options)
        wanted = around.namespace(options, name, restricted=not loose)
        try:
            found = await self._cluster.get(where)
        except DeniedError:
            yield Step(
                name="namespace", state="ok",
                detail=f"{name}; whether it is there, you may not see",
            )  # fmt: skip
            return
        except AbsentError:
            self.new = self._dry_run
            if self._dry_run:
                yield Step(name="namespace", state="would", detail=f"create {name}")
                return
        except OutpostError as error:
            self.broken = True
            yield _failed("namespace", error)
            return
        else:
            if seen.is_going(found):
                self.broken = True
                yield Step(
                    name="namespace", state="failed", detail=f"{name} is being deleted",
                    hint="wait until it is gone, or take another one",
                )  # fmt: skip
                return
            if seen.part(found, "metadata", "labels").get(names.MANAGED_BY) != names.MANAGER:
                yield Step(
                    name="namespace", state="ok",
                    detail=f"{name} is there, and is left as others have made it"
                    f" ({_level(found)})",
                )  # fmt: skip
                return
        async for step in self._applied("namespace", "namespaces", wanted, begun=True):
            yield step
            self.broken = self.broken or step.state in ("failed", "skipped")

    async def _applied(
        self, what: str, resource: str, body: dict[str, Any], *, begun: bool = False
    ) -> AsyncIterator[Step]:
        """Apply one object, unless it is as it is to be already."""
        if not begun:
            yield Step(name=what, state="doing")
        called = body["metadata"]["name"]
        if self.new:
            yield Step(name=what, state="would", detail=f"create {called}")
            return
        namespace = "" if resource == "namespaces" else self._cluster.namespace
        where = path(resource, namespace, called, group=body["apiVersion"])
        try:
            before = await self._there(where)
            after = await self._cluster.patch(where, body, kind="apply", dry_run=True)
            left = difference.changes(before, after) if before is not None else []
            if before is not None and not left:
                yield Step(name=what, state="ok", detail=f"{called} is as configured")
                return
            if self._dry_run:
                for detail in _told(called, left):
                    yield Step(name=what, state="would", detail=detail)
                return
            await self._cluster.patch(where, body, kind="apply")
            faults.point("k8s.applied")
            await self._shows(where, body)
        except DeniedError as error:
            yield _skipped(what, error)
        except ChangedError as error:
            yield Step(
                name=what, state="failed", detail=error.message,
                hint="somebody else has set these; if yours is right: kubectl delete"
                f" {resource} {called}, and outpost bootstrap {self._name} again",
            )  # fmt: skip
        except OutpostError as error:
            yield _failed(what, error)
        else:
            detail = f"create {called}" if before is None else "; ".join(_told(called, left))
            yield Step(name=what, state="done", detail=detail)

    async def _there(self, where: str) -> dict[str, Any] | None:
        try:
            return await self._cluster.get(where)
        except AbsentError:
            return None

    async def _shows(self, where: str, body: dict[str, Any]) -> None:
        """Read an object back until it is as it was sent.

        Raises:
            ApiError: it does not become so.
        """
        left: list[str] = []
        async for _ in every(0.3, within=_SHOWN).rounds():
            left = difference.missing(body, await self._cluster.get(where))
            if not left:
                return
        raise ApiError(
            f"it was applied, and {left[0]}", hint="something at the cluster changes it back"
        )

    async def _claim(self, name: str) -> AsyncIterator[Step]:
        """Make the claim of a volume where there is none: nobody changes one that is there."""
        yield Step(name="volume", state="doing")
        where = path("persistentvolumeclaims", self._cluster.namespace, name)
        if not self.new:
            try:
                found = await self._there(where)
            except OutpostError as error:
                yield _skipped("volume", error)
                return
            if found is not None:
                phase = seen.words(found, "status", "phase") or "no phase"
                yield Step(name="volume", state="ok", detail=f"{name} is there: {phase}")
                return
        body = around.claim(self._options, name)
        async for step in self._applied("volume", "persistentvolumeclaims", body, begun=True):
            yield step

    async def _queue(self) -> AsyncIterator[Step]:
        """Make the LocalQueue where Kueue is, and there is none."""
        queue, cluster = self._options.queue, self._cluster
        yield Step(name="queue", state="doing")
        try:
            version = await cluster.serves(KUEUE)
            if not version:
                yield Step(
                    name="queue", state="failed",
                    detail=f"there is no Kueue at the cluster, and Jobs would wait in {queue} for"
                    " ever",
                    hint="install it (https://kueue.sigs.k8s.io/docs/installation/), or take out"
                    " `queue`",
                )  # fmt: skip
                return
            where = path("localqueues", cluster.namespace, queue, group=version)
            if not self.new and await self._there(where) is not None:
                yield Step(name="queue", state="ok", detail=f"{queue} is there")
                return
            above = [
                seen.name(each)
                async for each in cluster.items(path("clusterqueues", group=version))
            ]
        except DeniedError as error:
            yield _skipped("queue", error)
            return
        except OutpostError as error:
            yield _failed("queue", error)
            return
        chosen = queue if queue in above else above[0] if len(above) == 1 else ""
        if not chosen:
            told = ", ".join(above[:5]) or "none"
            yield Step(
                name="queue", state="failed",
                detail=f"{queue} is to be a part of a ClusterQueue, and which one nobody says"
                f" ({told})",
                hint=f"create the LocalQueue {queue}: deploy/k8s/kueue shows how",
            )  # fmt: skip
            return
        async for step in self._applied(
            "queue", "localqueues", around.queue(self._options, chosen, version), begun=True
        ):
            yield step


async def _tried(
    name: str, options: K8sOptions, cluster: Cluster, agents: Sequence[str], *, dry_run: bool
) -> AsyncIterator[Step]:
    """See whether the cluster would take a worker, and whether the image can be had."""
    yield Step(name="worker", state="doing")
    try:
        await admit(options, cluster)
    except DeniedError as error:
        yield _skipped("worker", error)
        return
    except OutpostError as error:
        yield _failed("worker", error)
        return
    yield Step(name="worker", state="ok", detail="the cluster would take one")
    yield Step(name="image", state="doing")
    if dry_run:
        yield Step(name="image", state="would", detail=f"run a pod that tries {options.image}")
        return
    programs = {agent: _program(agent) for agent in agents}
    try:
        said = await probing.probe(cluster, options, name, ["git", "tmux", *programs.values()])
    except DeniedError as error:
        yield _skipped("image", error)
        return
    except OutpostError as error:
        yield _failed("image", error)
        return
    if not said.programs:
        state = "skipped" if said.waits else "failed"
        yield Step(name="image", state=state, detail=said.why, hint=said.hint)
        return
    version = said.programs.get("outpost")
    if not version:
        yield Step(
            name="image", state="failed", detail=f"{options.image} has no outpost-k8s in it",
            hint="outpost image build, and push it under that name",
        )  # fmt: skip
        return
    yield Step(name="image", state="ok", detail=f"{options.image} has Outpost {version}")
    for agent, program in programs.items():
        if where := said.programs.get(program):
            yield Step(name=agent, state="ok", detail=where)
        else:
            yield Step(
                name=agent, state="failed", detail="is not in the image",
                hint=f"outpost image build --agent {agent}, and push it",
            )  # fmt: skip


async def admit(options: K8sOptions, cluster: Cluster) -> None:
    """Ask the cluster whether it would take a worker's Job and pod; nothing is made.

    Raises:
        OutpostError: it would not; the message says why.
    """
    namespace = cluster.namespace
    await cluster.create(path("jobs", namespace), trial.trial_job(options), dry_run=True)
    if await cluster.may("create", "pods"):  # admission looks at pods, and takes every Job
        await cluster.create(path("pods", namespace), trial.trial_pod(options), dry_run=True)


def _level(namespace: dict[str, Any]) -> str:
    labels = seen.part(namespace, "metadata", "labels")
    said = seen.text({"labels": labels}, "labels", around.ENFORCE)
    return f"Pod Security {said[:20]}" if said else "no Pod Security level"


def _told(called: str, changes: list[str]) -> list[str]:
    if not changes:
        return [f"create {called}"]
    more = len(changes) - _MOST
    return [f"{called}: {change}" for change in changes[:_MOST]] + (
        [f"{called}: and {more} more"] if more > 0 else []
    )


def _program(agent: str) -> str:
    preset = PRESETS.get(agent)
    return preset.headless[0] if preset is not None and preset.headless else agent


def _failed(name: str, error: OutpostError) -> Step:
    return Step(name=name, state="failed", detail=error.message, hint=error.hint)


def _skipped(name: str, error: OutpostError) -> Step:
    """Say that whoever runs this may not do it; somebody else may, or has."""
    return Step(
        name=name, state="skipped", detail=error.message,
        hint="whoever administers the cluster can do it: kubectl apply -k deploy/k8s",
    )  # fmt: skip
