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
from outpost_mayor.shapes import API
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
    "Queue",
    MAYOR["queue list"],
    entries=many(Entry),
    counts=dict[str, int],
    more=int,
    switch=str,
)
QueueEntry: Final = shaped("QueueEntry", MAYOR["queue show"], entry=Entry, needs=list[str])
Queued: Final = shaped("Queued", MAYOR["queue add"], queued=many(Entry), there=list[str])

Verdict: Final = shaped(
    "Verdict", jsonshapes.EXPLANATION["verdicts"][0], outpost=str, rank=Count, eligible=bool,
    reason=str, machine_cost=Usd, agent_cost=Usd,
)  # fmt: skip
Tried: Final = shaped("Tried", jsonshapes.EXPLANATION["attempts"][0], outpost=str, error=str)
_explanation: Final[dict[str, Any]] = {
    "rule": str, "verdicts": many(Verdict), "attempts": many(Tried), "notes": list[str],
}  # fmt: skip
Explanation: Final = shaped("Explanation", jsonshapes.EXPLANATION, **_explanation)
_one: Final = SHAPES["explain"]["explanations"][0]
Explained: Final = shaped(
    "Explained", SHAPES["explain"],
    explanations=many(shaped("Explained1", _one, issue=str, worker=str, **_explanation)),
)  # fmt: skip
_started: Final = SHAPES["spawn"]
Started: Final = shaped(
    "Started", _started["spawned"][0], worker=Worker, adopted=bool, explanation=Explanation
)
Refused: Final = shaped("Refused", _started["refused"][0], issue=str, error=Error, crowded=bool)
Spawned: Final = shaped(
    "Spawned", _started, spawned=many(Started), refused=many(Refused), hints=list[str]
)
Decision: Final = shaped(
    "Decision", SHAPES["show"]["decisions"][0], worker=str, at=Moment, what=str, why=str,
    next=str | None, account=str | None,
)  # fmt: skip
Shown: Final = shaped(
    "Shown", SHAPES["show"], worker=Worker, order=Plain | None, explanation=Explanation | None,
    attempts=many(Worker), accounts=dict[str, str], decisions=many(Decision),
    events=many(Event), tree=str | None, fence=str | None, last_line=str | None,
    live_usage=Plain | None,
)  # fmt: skip
Waited: Final = shaped("Waited", SHAPES["wait"], workers=many(Worker))
Text: Final = shaped("Text", SHAPES["peek"], worker=str, text=str)
_kept: Final = SHAPES["stop"]["refused"][0]
Stopped: Final = shaped(
    "Stopped", SHAPES["stop"], stopped=list[str],
    refused=many(shaped("NotStopped", _kept, worker=str, error=Error)),
)  # fmt: skip
_clean: Final = SHAPES["clean"]["cleaned"][0]
Cleaned: Final = shaped(
    "Cleaned", SHAPES["clean"],
    cleaned=many(
        shaped("Clean1", _clean, worker=str, removed=bool, rescued=str | None, detail=str,
               error=Error | None)
    ),
)  # fmt: skip
_ping: Final = SHAPES["ping"]["outposts"][0]
Pinged: Final = shaped(
    "Pinged", SHAPES["ping"],
    outposts=many(
        shaped("Ping", _ping, name=str, ok=bool, detail=str, hint=str, latency=Usd,
               free_memory=Count, error=Error | None)
    ),
)  # fmt: skip

Switched: Final = shaped("Switched", MAYOR["queue pause"], held=list[str], switch=str)
Removed: Final = shaped("Removed", MAYOR["queue remove"], removed=many(Entry))
Moved: Final = shaped("Moved", MAYOR["queue move"], entry=Entry)
Batch: Final = shaped(
    "Batch", MAYOR["batch"], batch=str, entries=many(Entry), counts=dict[str, int], cost=Usd,
    stopped=list[str], again=list[str],
)  # fmt: skip
Batches: Final = shaped(
    "Batches", API["batches"],
    batches=many(
        shaped("Batch1", API["batches"]["batches"][0], batch=str, counts=dict[str, int],
               added_at=Moment)
    ),
)  # fmt: skip
Schedules: Final = shaped(
    "Schedules", MAYOR["schedule list"],
    schedules=many(
        shaped("Schedule", MAYOR["schedule list"]["schedules"][0], name=str, cron=str,
               timezone=str, enabled=bool, catch_up=str, last=Moment, next=list[Moment],
               error=str | None)
    ),
)  # fmt: skip
Fired: Final = shaped("Fired", MAYOR["schedule run"], issue=str)
_letter: Final = shaped(
    "Letter", jsonshapes.LETTER, id=str, outpost=str, to=str, subject=str, body=str, priority=int,
    state=str, tries=int, error=str, written_at=Moment, tried_at=Moment, next_try_at=Moment,
    delivered_at=Moment, failed_at=Moment, **{"from": str},
)  # fmt: skip
Sent: Final = shaped("Sent", SHAPES["mail send"], letter=_letter)
Letters: Final = shaped("Letters", SHAPES["mail outbox"], letters=many(_letter))
_inbox: Final = SHAPES["mail inbox"]["outposts"][0]
Inboxes: Final = shaped(
    "Inboxes", SHAPES["mail inbox"],
    outposts=many(
        shaped("Inbox", _inbox, outpost=str, error=Error | None, messages=many(
            shaped("Message", _inbox["messages"][0], id=str, to=str, via=str | None, subject=str,
                   body=str, priority=int, sent_at=Moment, read=bool, **{"from": str})
        ))
    ),
)  # fmt: skip
_scale: Final = MAYOR["scale"]
Scaling: Final = shaped(
    "Scaling", _scale, errors=dict[str, str],
    outposts=many(
        shaped("Scaled", _scale["outposts"][0], outpost=str, phase=str, running=int, desired=int,
               most=int, active=int, since=Moment, decision=str, reason=str, error=str, price=Usd,
               retry_at=Moment, next=str)
    ),
    decisions=many(
        shaped("Scaling1", _scale["decisions"][0], outpost=str, to=int, more=bool, why=str,
               price=Usd)
    ),
)  # fmt: skip
Mayor: Final = shaped(
    "Mayor", MAYOR["serve"], running=bool, pid=Count, host=str | None, since=Moment,
    services=many(
        shaped("Service", MAYOR["serve"]["services"][0], name=str, plugin=str, state=str,
               failures=int, error=str, since=Moment)
    ),
)  # fmt: skip

_cost: Final = SHAPES["cost"]
Total: Final = shaped(
    "Total", jsonshapes.TOTAL, key=str, workers=int, running=int, unknown=int, total_usd=float,
    machine_usd=float, agent_usd=float, estimated=bool, input_tokens=int, cached_tokens=int,
    output_tokens=int,
)  # fmt: skip
Standing: Final = shaped("Standing", _cost["standing"][0], outpost=str, usd_hourly=float)
Counts: Final = shaped(
    "Counts", _cost["budgets"][0]["counts"], outpost=list[str], rig=list[str], label=list[str],
    account=list[str],
)  # fmt: skip
Budget: Final = shaped(
    "Budget", _cost["budgets"][0], name=str, window=str, usd=float, used_usd=float,
    reserved_usd=float, spent_usd=float, standing_usd=float, left_usd=float, counts=Counts,
)  # fmt: skip
Forecast: Final = create_model(
    "Forecast", waiting=(int, Field(description="how many orders")),
    worst_usd=(float, ...), usual_usd=(float, ...), unlimited=(int, ...), unknown=(int, ...),
    budgets=(list[Plain], ...),
)  # fmt: skip
Cost: Final = shaped(
    "Cost", _cost, by=str, since=Moment, totals=many(Total), total=Total,
    standing=many(Standing), budgets=many(Budget), forecast=Forecast | None,
)  # fmt: skip
_account: Final = SHAPES["accounts"]["accounts"][0]
Accounts: Final = shaped(
    "Accounts", SHAPES["accounts"],
    accounts=many(
        shaped(
            "Account", _account, name=str, agent=str, configured=bool, running=int,
            max_workers=Count, limits=many(shaped(
                "Allowance", _account["limits"][0], unit=str, window=str, used=float, most=float
            )),
            parked=many(shaped(
                "Parked", _account["parked"][0], model=str | None, until=Moment, reason=str
            )),
            breaker=Breaker | None,
        )
    ),
)  # fmt: skip
