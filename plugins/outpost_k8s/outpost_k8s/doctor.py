"""`outpost doctor` of a Kubernetes outpost: what is missing, each with its mend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from outpost_core.errors import OutpostError
from outpost_core.types import Finding
from outpost_k8s import checking, findings
from outpost_k8s.api.client import Cluster
from outpost_k8s.api.errors import AbsentError, DeniedError
from outpost_k8s.api.paths import path
from outpost_k8s.bootstrap import KUEUE, admit
from outpost_k8s.near import seen
from outpost_k8s.objects import around, difference, permissions, room, trial
from outpost_k8s.objects.job import secret_key
from outpost_shared import border

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from outpost_k8s.options import K8sOptions

#: Nodes that are looked at.
_MOST_NODES: Final = 1000


async def examine(name: str, options: K8sOptions, rig: str | None) -> list[Finding]:
    """Return what was found; nothing is changed.

    Args:
        name: the outpost's name.
        options: its options, their paths whole.
        rig: a repository; whether a pod may push there, only a worker finds out.
    """
    try:
        cluster = Cluster.of(options, name)
    except OutpostError as error:
        return [findings.failed("cluster", error)]
    try:
        try:
            version = await cluster.version()
        except OutpostError as error:
            return [findings.failed("cluster", error)]
        found = [
            findings.of_version(version, cluster),
            *findings.of_line(cluster),
            *findings.of_clock(cluster.skew),
        ]
        doctor = _Doctor(name, options, cluster)
        for check, ask in doctor.checks():
            found += await _asked(check, ask)
    finally:
        await cluster.aclose()
    if rig is not None:
        found.append(findings.of_rig(options, rig))
    return found


async def _asked(check: str, ask: Callable[[], Awaitable[list[Finding]]]) -> list[Finding]:
    try:
        return await ask()
    except DeniedError as error:
        return [Finding(check=check, ok=None, detail=f"cannot be seen: {error.message}")]
    except OutpostError as error:
        return [findings.failed(check, error)]


class _Doctor:
    """Looks at one namespace."""

    def __init__(self, name: str, options: K8sOptions, cluster: Cluster) -> None:
        self._name = name
        self._options = options
        self._cluster = cluster
        self._bootstrap = f"outpost bootstrap {name}"
        self._pod: dict[str, Any] = trial.trial_pod(options)["spec"]

    def checks(self) -> Sequence[tuple[str, Callable[[], Awaitable[list[Finding]]]]]:
        """Return what is looked at, in its order."""
        return (
            ("namespace", self._namespace),
            ("permissions", self._permissions),
            ("secrets", self._secrets),
            ("service account", self._account),
            ("classes", self._classes),
            ("volumes", self._volumes),
            ("quota", self._quota),
            ("nodes", self._nodes),
            ("queue", self._queue),
            ("network policy", self._policy),
            ("worker", self._worker),
        )

    async def _there(self, resource: str, name: str, group: str = "") -> dict[str, Any] | None:
        namespaced = resource not in (
            "namespaces", "runtimeclasses", "priorityclasses", "storageclasses", "clusterqueues",
        )  # fmt: skip
        where = path(resource, self._cluster.namespace if namespaced else "", name, group=group)
        try:
            return await self._cluster.get(where)
        except AbsentError:
            return None

    async def _namespace(self) -> list[Finding]:
        name = self._cluster.namespace
        found = await self._there("namespaces", name)
        if found is None:
            detail = f"there is no {name}"
            return [Finding(check="namespace", ok=False, detail=detail, hint=self._bootstrap)]
        if seen.is_going(found):
            return [
                Finding(
                    check="namespace", ok=False, detail=f"{name} is being deleted",
                    hint="wait until it is gone, or take another one",
                )
            ]  # fmt: skip
        said = seen.part(found, "metadata", "labels").get(around.ENFORCE)
        level = border.line(said, 20) if isinstance(said, str) else ""
        detail = f"{name}; Pod Security {level or 'is not set'}"
        loose = bool(checking.loosened(self._options))
        if level == around.RESTRICTED or loose:
            return [Finding(check="namespace", ok=True, detail=detail)]
        return [
            Finding(
                check="namespace", ok=None,
                detail=f"{detail}: workers keep to `restricted`, other pods there need not",
                hint=f"kubectl label namespace {name} {around.ENFORCE}={around.RESTRICTED}",
            )
        ]  # fmt: skip

    async def _permissions(self) -> list[Finding]:
        """Ask verb by verb."""
        found = []
        for each in permissions.PERMISSIONS:
            if each.group == KUEUE and not self._options.queue:
                continue
            lacking = [
                verb
                for verb in each.verbs
                if not await self._cluster.may(verb, each.resource, each.sub, each.group)
            ]
            allowed = " ".join(verb for verb in each.verbs if verb not in lacking) or "nothing"
            found.append(
                Finding(
                    check=f"may {each.name}",
                    ok=True if not lacking else False if each.needed else None,
                    detail=allowed if not lacking
                    else f"{allowed}, and not {' '.join(lacking)}, {each.why}",
                    hint="" if not lacking else
                    f"kubectl -n {self._cluster.namespace} create rolebinding outpost-you"
                    f" --role {around.ACCOUNT} --user YOU, once {self._bootstrap} made the Role",
                )
            )  # fmt: skip
        return found

    async def _secrets(self) -> list[Finding]:
        """See that each Secret is there, with the keys that are taken from it; not the values."""
        options = self._options
        wanted: dict[str, set[str]] = {}
        for variable, said in options.secrets.items():
            name, key = secret_key(said, variable)
            wanted.setdefault(name, set()).add(key)
        if options.git_secret:
            name, key = secret_key(options.git_secret)
            wanted.setdefault(name, set()).add(key)
        for name in options.image_pull_secrets:
            wanted.setdefault(name, set()).add(".dockerconfigjson")
        found = []
        for name, keys in sorted(wanted.items()):
            check = f"secret {name}"
            secret = await self._there("secrets", name)
            lacking = sorted(keys - seen.part(secret, "data").keys())
            if secret is not None and not lacking:
                found.append(Finding(check=check, ok=True, detail=", ".join(sorted(keys))))
                continue
            detail = "is not there" if secret is None else f"has no {', '.join(lacking)}"
            found.append(
                Finding(
                    check=check, ok=False, detail=detail,
                    hint=findings.create_secret(self._cluster.namespace, name, sorted(keys)),
                )
            )  # fmt: skip
        return found

    async def _account(self) -> list[Finding]:
        name = self._options.service_account
        if not name:
            return []
        there = await self._there("serviceaccounts", name) is not None
        return [
            Finding(
                check="service account", ok=there,
                detail=name if there else f"there is no {name}",
                hint=""
                if there
                else f"kubectl -n {self._cluster.namespace} create serviceaccount {name}",
            )
        ]  # fmt: skip

    async def _classes(self) -> list[Finding]:
        options = self._options
        said = options.priority_class
        priorities = [*said.values()] if isinstance(said, dict) else [said]
        wanted = [("runtime class", "runtimeclasses", options.runtime_class)]
        wanted += [("priority class", "priorityclasses", str(each)) for each in priorities]
        if around.claims(options):
            wanted.append(("storage class", "storageclasses", options.storage_class))
        found = []
        for what, resource, name in dict.fromkeys(wanted):
            if name:
                found += await _asked(what, lambda w=what, r=resource, n=name: self._class(w, r, n))  # type: ignore[misc]
        return found

    async def _class(self, what: str, resource: str, name: str) -> list[Finding]:
        there = await self._there(resource, name) is not None
        hint = "" if there else f"kubectl get {resource} shows those that there are"
        detail = name if there else f"there is no {name}"
        return [Finding(check=what, ok=there, detail=detail, hint=hint)]

    async def _volumes(self) -> list[Finding]:
        found = []
        for name in around.claims(self._options):
            claim = await self._there("persistentvolumeclaims", name)
            phase = seen.words(claim, "status", "phase")
            ok: bool | None = False
            if claim is None:
                detail, hint = "is not there", self._bootstrap
            elif phase == "Bound":
                detail, ok, hint = "bound", True, ""
            else:
                detail = f"{phase or 'no phase'}: no volume is bound to it"
                ok = None if phase == "Pending" else ok
                hint = (
                    "some storage classes make one for the first pod; kubectl -n"
                    f" {self._cluster.namespace} describe pvc {name} says more, and `storage_class`"
                    " and `volume_access` choose another"
                )
            found.append(Finding(check=f"volume {name}", ok=ok, detail=detail, hint=hint))
        return found

    async def _quota(self) -> list[Finding]:
        where = path("resourcequotas", self._cluster.namespace)
        quotas = [quota async for quota in self._cluster.items(where)]
        left = room.workers_left(quotas, self._pod)
        if left is None:
            return [Finding(check="quota", ok=True, detail="none for workers")]
        count, what = left
        most = self._options.max_workers
        detail = f"room for {count} more workers ({border.line(what, 60)})"
        hint = "raise it, ask for less (`cpu`, `memory`, `ephemeral_storage`), or set max_workers"
        ok = False if count == 0 else None if most is None or count < most else True
        return [Finding(check="quota", ok=ok, detail=detail, hint="" if ok else hint)]

    async def _nodes(self) -> list[Finding]:
        fits, images, reasons, count = 0, 0, dict[str, int](), 0
        async for node in self._cluster.items(path("nodes"), page=100):
            count += 1
            why = room.why_not(node, self._pod)
            fits += not why
            if why:
                reasons[why] = reasons.get(why, 0) + 1
            elif self._has_image(node):
                images += 1
            if count >= _MOST_NODES:
                break
        told = ", ".join(
            f"{many} {border.line(why, 90)}"
            for why, many in sorted(reasons.items(), key=lambda each: -each[1])[:4]
        )
        detail = f"{fits} of {count} can take a worker" + (f"; not: {told}" if told else "")
        found = [
            Finding(
                check="nodes", ok=True if fits else None if not count else False, detail=detail,
                hint="" if fits else "ask for less (`cpu`, `memory`, `ephemeral_storage`), allow"
                " more (`node_selector`, `tolerations`), or let the cluster add nodes",
            )
        ]  # fmt: skip
        image = self._options.image
        if images:
            detail = f"{images} of these nodes have {image}"
            found.append(Finding(check="image", ok=True, detail=detail))
        else:
            detail = f"no node has pulled {image} yet; whether it can be had, a pod finds out"
            hint = f"{self._bootstrap} runs one"
            found.append(Finding(check="image", ok=None, detail=detail, hint=hint))
        return found

    def _has_image(self, node: dict[str, Any]) -> bool:
        image = self._options.image
        last = image.rpartition("/")[2]
        tagged = image if ":" in last or "@" in last else f"{image}:latest"
        usual = {tagged, f"docker.io/{tagged}", f"docker.io/library/{tagged}"}
        return any(
            isinstance(names, list) and usual & {str(each) for each in names}
            for names in (each.get("names") for each in seen.parts(node, "status", "images"))
        )

    async def _queue(self) -> list[Finding]:
        name = self._options.queue
        if not name:
            return []
        version = await self._cluster.serves(KUEUE)
        if not version:
            return [
                Finding(
                    check="queue", ok=False,
                    detail=f"there is no Kueue, and Jobs would wait in {name} for ever",
                    hint="https://kueue.sigs.k8s.io/docs/installation/, or take out `queue`",
                )
            ]  # fmt: skip
        queue = await self._there("localqueues", name, version)
        if queue is None:
            detail = f"there is no LocalQueue {name}"
            return [Finding(check="queue", ok=False, detail=detail, hint=self._bootstrap)]
        active = seen.any_condition(queue, "Active")
        said = seen.words(active, "message")
        above = seen.words(queue, "spec", "clusterQueue")
        if seen.text(active, "status") == "False":
            return [
                Finding(
                    check="queue", ok=False, detail=f"{name} is not active: {said}",
                    hint=f"kubectl describe clusterqueue {above}",
                )
            ]  # fmt: skip
        return [Finding(check="queue", ok=True, detail=f"{name}, a part of {above} ({version})")]

    async def _policy(self) -> list[Finding]:
        if not self._options.network_policy:
            return [
                Finding(
                    check="network policy", ok=None,
                    detail="network_policy is false: workers connect to whatever they can reach",
                )
            ]  # fmt: skip
        found = await self._there("networkpolicies", around.POLICY)
        wanted = around.policy(self._options)
        left = difference.missing(wanted, found) if found is not None else []
        if found is not None and not left:
            detail = "as configured; that the cluster's network heeds it, nobody can say from here"
            return [Finding(check="network policy", ok=True, detail=detail)]
        detail = f"{left[0]}" if left else "is not there: workers connect to whatever they reach"
        return [Finding(check="network policy", ok=None, detail=detail, hint=self._bootstrap)]

    async def _worker(self) -> list[Finding]:
        """Have the server say what admission would say of a worker."""
        await admit(self._options, self._cluster)
        return [Finding(check="worker", ok=True, detail="the cluster would take one")]
