"""What the API answers, for its OpenAPI: the documents of the commands, with their types.

What each field means is said once, in `jsonshapes` and `shapes`; here it gets its type. A field
without a type, or a type without a field, is an error when this is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import GenericAlias
from typing import Any, Final, Literal

from pydantic import BaseModel, Field, create_model

from outpost_core.types import State
from outpost_manager import jsonqueue, jsonshapes
from outpost_manager.jsonshapes import SHAPES
from outpost_mayor.shapes import SHAPES as MAYOR

Model = type[BaseModel]


def shaped(name: str, shape: Mapping[str, Any], /, **types: Any) -> Model:
    """Return the model of a document.

    Args:
        name: of the model.
        shape: what each field means, as `jsonshapes` says it.
        types: what each field is.

    Raises:
        TypeError: the two do not have the same fields.
    """
    if differ := shape.keys() ^ types.keys():
        raise TypeError(f"{name}: only one of shape and types has {', '.join(sorted(differ))}")
    fields: dict[str, Any] = {
        _inner(key): (kind, Field(description=_said(shape[key]), alias=_alias(key)))
        for key, kind in types.items()
    }
    return create_model(name, **fields)


def many(model: Model) -> Any:
    """Return the type of a list of documents."""
    return GenericAlias(list, (model,))


def _inner(key: str) -> str:
    """Return a name that a model can have for a field."""
    return f"{key}_" if hasattr(BaseModel, key) else key


def _alias(key: str) -> str | None:
    return key if _inner(key) != key else None


def _said(said: Any) -> str | None:
    """Return what a shape says of a field in words; None where it goes on."""
    if isinstance(said, list):
        said = said[0]
    return said if isinstance(said, str) and said else None


Moment = str | None
Count = int | None
Usd = float | None
Plain = dict[str, Any]

Error: Final = shaped(
    "Error", jsonshapes.ERROR, code=int, type=str, message=str, hint=str
)  # fmt: skip
Failure: Final = create_model("Failure", error=(Error, Field(description="what went wrong")))


class Health(BaseModel):
    """Whether the mayor works."""

    status: Literal["ok", "ending"] = Field(description="ok, or ending")


Breaker: Final = shaped(
    "Breaker", jsonshapes.BREAKER, state=str, failures=int, since=Moment, retry_at=Moment,
    probe=str | None, detail=str,
)  # fmt: skip
Outpost: Final = shaped(
    "Outpost", jsonshapes.OUTPOST, name=str, type=str, state=str, active=int, max_workers=Count,
    slots_reason=str, package=str, version=str, capabilities=list[str], detail=str, hint=str,
    since=Moment, spent_usd=float, standing_usd=float, cost_cap_hourly=Usd,
    breaker=Breaker | None,
)  # fmt: skip
Worker: Final = shaped(
    "Worker", jsonshapes.WORKER, id=str, issue=str, attempt=int, outpost=str,
    status=Literal[tuple(state.value for state in State)],
    detail=str, title=str, priority=int, rig=str | None, agent=str, branch=str | None,
    commit=str | None, pr_url=str | None, exit_code=Count, signal=Count, reason=str | None,
    message=str, checkpoint=str | None, session=str | None, retry_at=Moment, created_at=Moment,
    started_at=Moment, finished_at=Moment, updated_at=Moment, unreachable_since=Moment,
    log_bytes=Count, log_truncated=bool, cost_usd=Usd, agent_cost_usd=Usd, total_cost_usd=Usd,
    cost_estimated=bool, cost_reserved_usd=Usd, usage=Plain | None,
)  # fmt: skip
Event: Final = shaped(
    "Event", jsonshapes.EVENT, id=int, kind=str, at=Moment, worker=str, outpost=str, data=Plain
)  # fmt: skip
Entry: Final = shaped(
    "Entry", jsonqueue.ENTRY, issue=str, worker=str, state=str, outcome=str, why=str, title=str,
    priority=int, rig=str, agent=str, account=str, batch=str, share=str, labels=list[str],
    place=str | None, avoid=str, not_before=Moment, held=bool, waits_for=int, tries=int,
    retries=int, added_at=Moment, moved_at=Moment,
)  # fmt: skip

_told: Final = SHAPES["workers"]["not_told"][0]
NotTold: Final = shaped("NotTold", _told, outpost=str, message=str, hint=str)
Outposts: Final = shaped("Outposts", SHAPES["list"], outposts=many(Outpost))
Workers: Final = shaped("Workers", SHAPES["workers"], workers=many(Worker), not_told=many(NotTold))
Events: Final = shaped("Events", SHAPES["events"], events=many(Event), last=int)
Queue: Final = shaped(
    "Queue", MAYOR["queue list"], entries=many(Entry), counts=dict[str, int], switch=str
)
QueueEntry: Final = shaped("QueueEntry", MAYOR["queue show"], entry=Entry, needs=list[str])
Queued: Final = shaped("Queued", MAYOR["queue add"], queued=many(Entry), there=list[str])
