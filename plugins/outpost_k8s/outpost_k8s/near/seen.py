"""Reading objects of the API server: what is missing or of another shape reads as nothing.

The cluster's own programs write them, and so do webhooks and whoever may patch a pod.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from outpost_shared import border

#: An object as the API server tells it.
Object: TypeAlias = Mapping[str, Any]

#: Name of the container that the worker runs in.
CONTAINER: Final = "worker"
#: Longest of a cluster's messages that is shown, in characters.
_MESSAGE: Final = 300
_NOTHING: Final[Object] = {}
#: Times of the API server: RFC 3339, to the second or the microsecond.
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z", re.ASCII)


def part(thing: Object | None, *names: str) -> Object:
    """Return the object that is found by some names, one inside the other."""
    at: Any = thing
    for name in names:
        at = at.get(name) if isinstance(at, Mapping) else None
    return at if isinstance(at, Mapping) else _NOTHING


def parts(thing: Object | None, *names: str) -> list[Object]:
    """Return the objects of a list that is found by some names."""
    *above, last = names
    found = part(thing, *above).get(last)
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def text(thing: Object | None, *names: str) -> str:
    """Return the text that is found by some names."""
    *above, last = names
    found = part(thing, *above).get(last)
    return found if isinstance(found, str) else ""


def words(thing: Object | None, *names: str) -> str:
    """Return such a text for people: one bounded line without a control character."""
    return border.line(" ".join(text(thing, *names)[: 4 * _MESSAGE].split()), _MESSAGE)


def number(thing: Object | None, *names: str) -> int | None:
    """Return the whole number that is found by some names."""
    *above, last = names
    found = part(thing, *above).get(last)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def moment(thing: Object | None, *names: str) -> float | None:
    """Return the moment that is found by some names, by the cluster's clocks."""
    found = text(thing, *names)
    if not _TIME.fullmatch(found):
        return None
    try:
        return datetime.fromisoformat(found).timestamp() or None  # the epoch stands for "never"
    except ValueError:
        return None


def at(seconds: float | None) -> str:
    """Return a moment for people."""
    if seconds is None:
        return "an unknown time"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def name(thing: Object | None) -> str:
    """Return an object's name."""
    return text(thing, "metadata", "name")


def uid(thing: Object | None) -> str:
    """Return an object's uid."""
    return text(thing, "metadata", "uid")


def annotation(thing: Object | None, key: str) -> str:
    """Return what an object is annotated with; "" for nothing."""
    return text(thing, "metadata", "annotations", key)


def created(thing: Object | None) -> float | None:
    """Return when an object was created."""
    return moment(thing, "metadata", "creationTimestamp")


def is_going(thing: Object | None) -> bool:
    """Whether somebody has deleted an object that is still there."""
    return bool(text(thing, "metadata", "deletionTimestamp"))


def condition(thing: Object | None, kind: str) -> Object:
    """Return the condition of a kind when it holds; nothing when it does not."""
    found = any_condition(thing, kind)
    return found if text(found, "status") == "True" else _NOTHING


def any_condition(thing: Object | None, kind: str) -> Object:
    """Return the condition of a kind, whatever it says; nothing where there is none."""
    for found in parts(thing, "status", "conditions"):
        if text(found, "type") == kind:
            return found
    return _NOTHING


def container(pod: Object | None) -> Object:
    """Return the status of the container that the worker runs in."""
    for found in parts(pod, "status", "containerStatuses"):
        if text(found, "name") == CONTAINER:
            return found
    return _NOTHING


def terminated(pod: Object | None) -> Object:
    """Return how the worker's container ended; nothing while it has not."""
    return part(container(pod), "state", "terminated")


def has_ended(pod: Object | None) -> bool:
    """Whether nothing of a worker runs in its pod, or ever will.

    A container that has left word of how its worker ended has said all that there will be, some
    time before its pod is told to have ended.
    """
    if text(pod, "status", "phase") in ("Succeeded", "Failed"):
        return True
    return text(terminated(pod), "message").startswith('{"')


def is_running(pod: Object | None) -> bool:
    """Whether the worker's container runs, as far as the cluster knows."""
    return bool(part(container(pod), "state", "running"))


def latest(events: list[Object], *reasons: str) -> Object:
    """Return the last event that has one of some reasons."""
    found = [event for event in events if text(event, "reason") in reasons]
    return max(found, key=_when, default=_NOTHING)


def _when(event: Object) -> float:
    moments = (
        moment(event, "series", "lastObservedTime"),
        moment(event, "lastTimestamp"),
        moment(event, "eventTime"),
        created(event),
    )
    return max((one for one in moments if one is not None), default=0.0)
