"""The option `pod_template`: a partial pod, merged into those of workers. Pure.

Whatever Kubernetes can say of a pod can be said there, but for what a worker stands on: that it
runs once, its program, its order, and where its work and its end are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from outpost_core.errors import UsageError
from outpost_k8s.objects import names, strategic
from outpost_k8s.objects.quantities import amount

_TOP: Final = frozenset(("apiVersion", "kind", "metadata", "spec"))
_META: Final = frozenset(("labels", "annotations"))
#: Of the container, what stays as it is.
_CONTAINER: Final = ("command", "args", "terminationMessagePath", "terminationMessagePolicy")
#: Volumes that stay as they are. The source of others (disk, tmp) may be another one.
_VOLUMES: Final = frozenset(("order", "git", "volume", "rigs"))
#: What the options say, and the price goes by.
_SIZES: Final = ("cpu", "memory", "ephemeral-storage")


def with_template(template: Mapping[str, Any], partial: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Job's pod template with a partial pod merged into it; neither is changed.

    Args:
        template: `metadata` and `spec`, as `job` makes them.
        partial: likewise, of which anything may be missing.

    Raises:
        UsageError: it is no part of a pod, or undoes what a worker stands on.
    """
    if not partial:
        return dict(template)
    for key in partial:
        if key not in _TOP:
            raise UsageError(
                f"pod_template: {key[:80]!a} is no key of a pod",
                hint=f"a pod has metadata and spec; is {key[:40]} meant below spec?",
            )
    if partial.get("kind", "Pod") != "Pod" or partial.get("apiVersion", "v1") != "v1":
        raise UsageError("pod_template is a pod (kind: Pod, apiVersion: v1), or a part of one")
    for key in _TOP & partial.keys() - {"apiVersion", "kind"}:
        if not isinstance(partial[key], Mapping):
            raise UsageError(f"pod_template: {key} is a map")
    for key in partial.get("metadata") or {}:
        if key not in _META:
            raise UsageError(
                f"pod_template: metadata.{key[:80]} cannot be said of a worker's pod",
                hint="labels and annotations can",
            )
    said = {key: partial[key] for key in ("metadata", "spec") if key in partial}
    try:
        found = strategic.merged(template, said)
    except UsageError as error:
        raise UsageError(f"pod_template: {error.message}", hint=error.hint) from None
    except (AttributeError, TypeError):
        raise UsageError("pod_template has a list where a map is, or the other way round") from None
    _keeps(template, found)
    return found


def _keeps(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Refuse what undoes something that a worker stands on."""
    old, new = before["spec"], _map(after.get("spec"), "spec")
    if new.get("restartPolicy") != "Never":
        raise _undone("restartPolicy", "a worker runs once")
    grace = amount(new.get("terminationGracePeriodSeconds"))
    if grace is None or grace < old["terminationGracePeriodSeconds"]:
        raise _undone(
            "terminationGracePeriodSeconds",
            f"a worker needs {old['terminationGracePeriodSeconds']} s to save its work",
        )
    metadata = _map(after.get("metadata"), "metadata")
    for kind in ("labels", "annotations"):
        said = _map(metadata.get(kind), f"metadata.{kind}")
        for key, value in before["metadata"][kind].items():
            if said.get(key) != value and key != names.SAFE_TO_EVICT:
                raise _undone(f"metadata.{kind}.{key}", "the worker is found by it")
        for key in said.keys() - before["metadata"][kind].keys():
            if str(key).startswith(names.OWN_PREFIXES):
                raise UsageError(f"pod_template: the {kind[:-1]} {key[:80]} is Outpost's own")
    _keeps_volumes(old, new)
    _keeps_container(_worker(old), _worker(new))


def _keeps_volumes(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    found = {volume.get("name"): volume for volume in _maps(new.get("volumes"), "volumes")}
    for volume in old["volumes"]:
        name = volume["name"]
        if name not in found or (name in _VOLUMES and found[name] != volume):
            raise _undone(f"volumes: {name}", "it belongs to the worker")
    for name, volume in found.items():
        if len(volume) > 2:
            given = ", ".join(sorted(str(key) for key in volume if key != "name"))
            raise UsageError(
                f"pod_template: the volume {str(name)[:80]} has several sources: {given[:200]}",
                hint="write the one that stays: $retainKeys: [name, …] beside it",
            )


def _keeps_container(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for key in _CONTAINER:
        if old.get(key) != new.get(key):
            raise _undone(f"{key} of the container worker", "it runs the worker's own program")
    mounts = {m.get("mountPath"): m for m in _maps(new.get("volumeMounts"), "volumeMounts")}
    for mount in old["volumeMounts"]:
        if mounts.get(mount["mountPath"]) != mount:
            raise _undone(f"volumeMounts: {mount['mountPath']}", "it belongs to the worker")
    env = {each.get("name"): each for each in _maps(new.get("env"), "env")}
    for each in old["env"]:
        if env.get(each["name"]) != each:
            raise _undone(f"env: {each['name']}", "an option of the outpost says it")
    for name in env.keys() - {each["name"] for each in old["env"]}:
        if str(name).startswith("OUTPOST_"):
            raise UsageError(f"pod_template: the variable {str(name)[:80]} is Outpost's own")
    resources = _map(new.get("resources"), "resources")
    for kind in ("requests", "limits"):
        said = _map(resources.get(kind), f"resources.{kind}")
        for key in _SIZES:
            if said.get(key) != old["resources"][kind][key]:
                raise _undone(
                    f"resources.{kind}.{key}",
                    f"the option {key.replace('-', '_')} says it, and the price goes by it",
                )


def _worker(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    for container in _maps(spec.get("containers"), "containers"):
        if container.get("name") == names.CONTAINER:
            return container
    raise _undone("containers", f"the container {names.CONTAINER} runs the worker")


def _map(value: object, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UsageError(f"pod_template: {where} is a map")
    return value


def _maps(value: object, where: str) -> list[Mapping[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise UsageError(f"pod_template: {where} is a list of maps")
    return value


def _undone(what: str, why: str) -> UsageError:
    return UsageError(
        f"pod_template changes {what[:120]}, and {why}", hint="leave it out of pod_template"
    )
