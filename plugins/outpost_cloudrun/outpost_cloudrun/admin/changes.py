"""What would change at a service, in words, and the body that changes just that. Pure.

What the options say is made so. What they do not speak of (ingress, traffic, annotations, probes,
further containers) is left as it is, and so is what others have put there.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

#: Lists and objects that are ours as a whole: what is not said of them any more goes.
_OURS: Final = frozenset(("env", "volumes", "volumeMounts", "vpcAccess", "customAudiences"))
#: Where these are in a service.
_IN_TEMPLATE: Final = ("volumes", "vpcAccess")
_IN_CONTAINER: Final = ("env", "volumeMounts")
_NOTHING: Final[tuple[Any, ...]] = (None, "", 0, False, [], {})


@dataclass(frozen=True, kw_only=True)
class Change:
    """One difference between what is there and what the options say.

    Args:
        what: the field, as the API's reference calls it: `scaling.maxInstanceCount`, `env NAME`.
        before: what is there; "" for nothing.
        after: what it will be; "" for nothing.
    """

    what: str
    before: str
    after: str

    def __str__(self) -> str:
        if not self.before:
            return f"{self.what}: {self.after}"
        return f"{self.what}: {self.before} → {self.after or 'nothing'}"


def changed(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the service as it is to be: what is there, and what the options say.

    Args:
        there: the service as Google tells it; {} for none.
        wanted: what `specs.service_body` made.
    """
    merged: dict[str, Any] = _merged(there, wanted)
    template = merged.setdefault("template", {})
    template.pop("revision", None)  # a revision's name is given once
    for name in _IN_TEMPLATE:
        if name not in wanted.get("template", {}):
            template.pop(name, None)
    ours = _container(wanted)
    container = _container(merged)
    for name in _IN_CONTAINER:
        if name not in ours:
            container.pop(name, None)
    if "customAudiences" not in wanted:
        merged.pop("customAudiences", None)
    return merged


def _merged(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(there))
    for key, value in wanted.items():
        before = merged.get(key)
        if key == "containers" and isinstance(before, list) and before:
            merged[key] = [_merged(before[0], value[0]), *before[1:]]
        elif isinstance(value, Mapping) and isinstance(before, Mapping) and key not in _OURS:
            merged[key] = _merged(before, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def differences(there: Mapping[str, Any], merged: Mapping[str, Any]) -> list[Change]:
    """Return what is different, in the order of the fields' names."""
    before, after = _flat(there), _flat(merged)
    found = []
    for what in sorted(before.keys() | after.keys()):
        was, will = before.get(what, ""), after.get(what, "")
        if was == will:
            continue
        if what.startswith("env "):
            both = was.startswith("=") and will.startswith("=")
            was, will = _without_value(was), "another value" if both else _without_value(will)
        found.append(Change(what=what, before=was, after=will))
    return found


def mask(there: Mapping[str, Any], merged: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the fields that a patch has to name."""
    fields = ("labels", "launchStage", "scaling", "template", "customAudiences", "client")
    return tuple(
        name for name in fields
        if not _same(there.get(name), merged.get(name))
    )  # fmt: skip


def _same(one: Any, other: Any) -> bool:
    return one == other or (one in _NOTHING and other in _NOTHING)


def _container(service: Mapping[str, Any]) -> dict[str, Any]:
    containers = service.get("template", {}).get("containers")
    found = containers[0] if isinstance(containers, list) and containers else {}
    return found if isinstance(found, dict) else {}


def _flat(service: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields that options can speak of, as words."""
    flat: dict[str, str] = {}
    for name in ("labels", "launchStage", "scaling", "customAudiences"):
        _put(flat, name, service.get(name))
    template = service.get("template")
    if isinstance(template, Mapping):
        for name, value in template.items():
            if name not in ("containers", "revision", "labels", "annotations"):
                _put(flat, name, value)
    for name, value in _container(service).items():
        if name == "env":
            for each in value if isinstance(value, list) else ():
                flat[f"env {each.get('name', '')}"] = _value(each)
        else:
            _put(flat, name, value)
    return flat


def _value(variable: Mapping[str, Any]) -> str:
    reference = variable.get("valueSource", {}).get("secretKeyRef")
    if isinstance(reference, Mapping):
        return f"secret {reference.get('secret', '')}:{reference.get('version', '')}"
    return f"={variable.get('value', '')}"


def _without_value(said: str) -> str:
    """Return what may be shown of a variable: its value may be anything."""
    return "a value" if said.startswith("=") else said


def _put(flat: dict[str, str], name: str, value: Any) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _put(flat, f"{name}.{key}", inner)
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        for number, each in enumerate(value):
            _put(flat, f"{name}[{number}]", each)
    elif value not in _NOTHING:
        flat[name] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
