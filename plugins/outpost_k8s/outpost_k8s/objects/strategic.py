"""Strategic merge of a partial pod into a whole one, as the API server does it. Pure.

Maps are merged, `null` removes a key, and lists whose elements have a key of their own are merged
by it; all others are replaced. `$patch: delete` and `$patch: replace` in a map, or in an element of
such a list, and `$retainKeys` mean what they mean in a patch. The rules are those of
https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/ and the
keys those of the API's own types (`patchMergeKey` in k8s.io/api/core/v1/types.go, 1.36); a test
compares the outcome with a real API server's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from outpost_core.errors import UsageError

#: Lists that are merged, and the key of their elements; "" for lists of words.
MERGE_KEYS: Final[Mapping[str, str]] = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "resourceClaims": "name",
    "schedulingGates": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ownerReferences": "uid",
    "finalizers": "",
}
_PATCH: Final = "$patch"
_RETAIN: Final = "$retainKeys"


def merged(original: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a map with a patch merged into it; neither is changed.

    Raises:
        UsageError: the patch has an element without its key, or an unknown directive.
    """
    if _PATCH in patch:
        return _directed(patch)
    found = dict(original)
    _retain(found, patch)
    for key, value in patch.items():
        if key == _RETAIN:
            continue
        if key.startswith("$"):
            raise UsageError(
                f"{key[:80]!a} is a directive that is not supported",
                hint=f"use {_PATCH}: delete, {_PATCH}: replace or {_RETAIN}",
            )
        if value is None:
            found.pop(key, None)
            continue
        before = found.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            found[key] = merged(before, value)
        elif isinstance(before, Sequence) and isinstance(value, list) and key in MERGE_KEYS:
            found[key] = _merged_list(key, before, value)
        elif (clean := _without_directives(value)) is not None:
            found[key] = clean
        else:
            found.pop(key, None)
    return found


def _directed(patch: Mapping[str, Any]) -> dict[str, Any]:
    if patch[_PATCH] == "replace":
        return {key: value for key, value in patch.items() if key != _PATCH}
    if patch[_PATCH] == "delete":
        return {}
    raise UsageError(
        f"{_PATCH}: {str(patch[_PATCH])[:80]!a} is not known", hint="write delete or replace"
    )


def _retain(found: dict[str, Any], patch: Mapping[str, Any]) -> None:
    if _RETAIN not in patch:
        return
    kept = patch[_RETAIN]
    given = {key for key, value in patch.items() if value is not None and key != _RETAIN}
    if not isinstance(kept, list) or not given <= {str(key) for key in kept}:
        raise UsageError(
            f"{_RETAIN} is the list of all keys that stay, with those that stand beside it"
        )
    for key in found.keys() - {str(key) for key in kept}:
        del found[key]


def _merged_list(field: str, original: Sequence[Any], patch: Sequence[Any]) -> list[Any]:
    key = MERGE_KEYS[field]
    if not key:
        return list(dict.fromkeys([*original, *patch]))
    for element in patch:
        replaces = isinstance(element, Mapping) and element.get(_PATCH) == "replace"
        if not isinstance(element, Mapping) or (element.get(key) is None and not replaces):
            raise UsageError(
                f"an element of {field} has no {key}", hint=f"elements of {field} need their {key}"
            )
    if any(element.get(_PATCH) == "replace" for element in patch):
        return [_without_directives(element) for element in patch if _PATCH not in element]
    gone = {element[key] for element in patch if _PATCH in element and _directed(element) == {}}
    server = [element for element in original if element.get(key) not in gone]
    places = {element.get(key): number for number, element in enumerate(server)}
    changed: dict[Any, Any] = {}
    for element in patch:
        if _PATCH in element:
            continue
        name = element[key]
        before = changed.get(name, server[places[name]] if name in places else {})
        changed[name] = merged(before, element)
    rest = [element for element in server if element.get(key) not in changed]
    return _in_order(rest, list(changed.items()), places, key)


def _in_order(
    rest: list[Any], changed: list[tuple[Any, Any]], places: Mapping[Any, int], key: str
) -> list[Any]:
    """Return both in the server's order; what is new comes before what follows."""
    found: list[Any] = []
    while rest and changed:
        name, element = changed[0]
        if name in places and places[rest[0].get(key)] < places[name]:
            found.append(rest.pop(0))
        else:
            found.append(element)
            changed.pop(0)
    return found + rest + [element for _, element in changed]


def _without_directives(value: Any) -> Any:
    """Return what is new as it is to be: without nulls in maps, and without what has a directive.

    None where nothing is left of it.
    """
    if isinstance(value, Mapping):
        if _PATCH in value:
            return None
        inner = ((key, _without_directives(item)) for key, item in value.items() if key != _RETAIN)
        return {key: item for key, item in inner if item is not None}
    if isinstance(value, list):
        return [item for item in map(_without_directives, value) if item is not None]
    return value
