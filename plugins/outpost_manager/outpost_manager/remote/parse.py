"""Documents of a server as what commands show: the other way round of `jsonviews`.

`jsonviews` says less than the ledger knows; what it does not say has its default here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from outpost_core.errors import OutpostError, UsageError
from outpost_core.types import (
    Cleaned,
    Event,
    Explanation,
    Health,
    Order,
    Result,
    State,
    Usage,
    Verdict,
    Worker,
    split_worker_id,
)
from outpost_core.wire import from_json
from outpost_manager.fleet.overview import OutpostView
from outpost_manager.ledger.breakers import Breaker
from outpost_manager.ledger.entries import Decided, Entry
from outpost_manager.ledger.parking import Parked
from outpost_manager.managing import Glimpse, Shown
from outpost_manager.placing.accountviews import AccountView, Allowance
from outpost_manager.placing.pending import NotPlacedError, Spawned
from outpost_manager.remote import answers
from outpost_manager.remote.fields import Fields, NotBelievedError

if TYPE_CHECKING:
    from outpost_core.types import Json


def worker(data: object) -> Worker:
    """Return a worker.

    Raises:
        NotBelievedError: it is none.
    """
    said = Fields("a worker", data)
    name = said.text("id")
    try:
        issue, attempt = split_worker_id(name)
        state = State(said.text("status"))
    except (UsageError, ValueError):
        raise NotBelievedError("a worker has no id or status that one can have") from None
    usage = said.one("usage", _usage)
    return Worker(
        id=name,
        issue=issue,
        attempt=attempt,
        outpost=said.text("outpost"),
        digest="",
        state=state,
        detail=said.text("detail"),
        title=said.text("title"),
        priority=said.whole("priority", 2),
        rig=said.text_or("rig"),
        agent=said.text("agent"),
        created_at=said.moment("created_at"),
        started_at=said.moment_or("started_at"),
        updated_at=said.moment_or("updated_at"),
        finished_at=said.moment_or("finished_at"),
        unreachable_since=said.moment_or("unreachable_since"),
        cost_settled=said.real_or("cost_usd"),
        # of what is held nobody says which part is whose
        agent_reserved=None if state.terminal else said.real("cost_reserved_usd"),
        agent_cost=said.real_or("agent_cost_usd"),
        usage=usage,
        result=_result(said, state, usage),
    )


def _result(said: Fields, state: State, usage: Usage | None) -> Result | None:
    reason = said.text_or("reason")
    if reason is None:
        return None
    return Result(
        state=state,
        reason=reason,
        message=said.text("message"),
        branch=said.text_or("branch"),
        commit=said.text_or("commit"),
        pr_url=said.text_or("pr_url"),
        exit_code=said.whole_or("exit_code"),
        signal=said.whole_or("signal"),
        checkpoint=said.text_or("checkpoint"),
        session=said.text_or("session"),
        log_bytes=said.whole_or("log_bytes"),
        log_truncated=said.flag("log_truncated"),
        retry_at=said.moment_or("retry_at"),
        usage=usage or Usage(),
    )


def _usage(data: object) -> Usage:
    said = Fields("a usage", data)
    return Usage(
        input_tokens=said.whole_or("input_tokens"),
        output_tokens=said.whole_or("output_tokens"),
        cached_tokens=said.whole_or("cached_tokens"),
        cost_usd=said.real_or("cost_usd"),
        turns=said.whole_or("turns"),
        partial=said.flag("partial"),
        estimated=said.flag("estimated"),
        model=said.text_or("model"),
    )


def event(data: object) -> Event:
    """Return an event; raises as `worker` does."""
    said = Fields("an event", data)
    return Event(
        id=said.whole("id"),
        kind=said.text("kind"),
        at=said.moment("at"),
        worker=said.text("worker"),
        outpost=said.text("outpost"),
        data=said.mapping("data"),
    )


def outpost(data: object) -> OutpostView:
    """Return an outpost; raises as `worker` does."""
    said = Fields("an outpost", data)
    name = said.text("name")
    return OutpostView(
        name=name,
        type=said.text("type"),
        package=said.text("package"),
        version=said.text("version"),
        state=said.text("state"),
        detail=said.text("detail"),
        hint=said.text("hint"),
        active=said.whole("active"),
        max_workers=said.whole_or("max_workers"),
        slots_reason=said.text("slots_reason"),
        capabilities=frozenset(said.words("capabilities")),
        since=said.moment_or("since"),
        spent=said.real("spent_usd"),
        standing=said.real("standing_usd"),
        cost_cap_hourly=said.real_or("cost_cap_hourly"),
        breaker=said.one("breaker", lambda one: _breaker(one, "outpost", name)),
    )


def _breaker(data: object, kind: str, name: str) -> Breaker:
    said = Fields("a breaker", data)
    return Breaker(
        kind=kind,
        name=name,
        state=said.text("state"),
        failures=said.whole("failures"),
        since=said.moment("since"),
        retry_at=said.moment("retry_at"),
        probe=said.text("probe"),
        detail=said.text("detail"),
    )


def account(data: object) -> AccountView:
    """Return an account; raises as `worker` does."""
    said = Fields("an account", data)
    name = said.text("name")
    return AccountView(
        name=name,
        agent=said.text("agent"),
        configured=said.flag("configured"),
        running=said.whole("running"),
        max_workers=said.whole_or("max_workers"),
        allowances=[
            Allowance(
                unit=one.text("unit"),
                window=one.text("window"),
                used=one.real("used"),
                most=one.real("most"),
            )
            for one in said.objects("limits")
        ],
        parked=[_parked(one, name) for one in said.objects("parked")],
        breaker=said.one("breaker", lambda one: _breaker(one, "account", name)),
    )


def _parked(said: Fields, account: str) -> Parked:
    return Parked(
        account=account,
        model=said.text("model"),
        until=said.moment("until"),
        since=0.0,
        reason=said.text("reason"),
        worker="",
        claims=0,
    )


def explanation(data: object) -> Explanation:
    """Return why an order goes where it goes; raises as `worker` does."""
    said = Fields("an explanation", data)
    return Explanation(
        rule=said.text("rule"),
        verdicts=tuple(
            Verdict(
                outpost=one.text("outpost"),
                rank=one.whole_or("rank"),
                eligible=one.flag("eligible"),
                reason=one.text("reason"),
                machine_cost=one.real_or("machine_cost"),
                agent_cost=one.real_or("agent_cost"),
            )
            for one in said.objects("verdicts")
        ),
        attempts=tuple(
            (one.text("outpost"), one.text("error")) for one in said.objects("attempts")
        ),
        notes=said.words("notes"),
    )


def order(data: object) -> Order:
    """Return an order; raises as `worker` does."""
    try:
        return from_json(Order, cast("Json", data))
    except (OutpostError, ValueError, TypeError) as error:
        raise NotBelievedError(f"an order: {error}") from None


def shown(data: object) -> Shown:
    """Return everything about a worker but its entry of the queue; raises as `worker` does."""
    said = Fields("what is known of a worker", data)
    accounts = Fields("accounts", said.data.get("accounts") or {})
    return Shown(
        worker=worker(said.data.get("worker")),
        glimpse=Glimpse(
            tree=said.text("tree"),
            fence=said.text("fence"),
            text=said.text("last_line"),
            usage=said.one("live_usage", _usage),
        ),
        order=said.one("order", order),
        explanation=said.one("explanation", explanation),
        attempts=said.each("attempts", worker),
        events=said.each("events", event),
        decisions=[
            Decided(
                at=one.moment("at"),
                worker=one.text("worker"),
                data={key: one.text(key) for key in ("what", "why", "next", "account")},
            )
            for one in said.objects("decisions")
        ],
        entry=None,
        accounts={name: accounts.text(name) for name in accounts.data},
    )


def spawned(data: object) -> Spawned:
    """Return what became of an order; raises as `worker` does."""
    said = Fields("what became of an order", data)
    return Spawned(
        worker=worker(said.data.get("worker")),
        adopted=said.flag("adopted"),
        explanation=explanation(said.data.get("explanation")),
    )


def refused(data: object) -> tuple[str, OutpostError]:
    """Return an issue whose order was not taken, and why; raises as `worker` does."""
    said = Fields("a refusal", data)
    why = error(said.data.get("error"))
    if said.flag("crowded"):
        why = NotPlacedError(why.message, hint=why.hint, crowded=True)
    return said.text("issue"), why


def explained(data: object) -> tuple[str, str, Explanation]:
    """Return issue, worker, and where it would go; raises as `worker` does."""
    said = Fields("an explanation", data)
    return said.text("issue"), said.text("worker"), explanation(data)


def entry(data: object) -> Entry:
    """Return an entry of the queue; raises as `worker` does."""
    said = Fields("an entry of the queue", data)
    return Entry(
        issue=said.text("issue"),
        seq=0,
        state=said.text("state"),
        worker=said.text("worker"),
        digest="",
        kind="",
        place=said.text_or("place"),
        avoid=said.text("avoid"),
        title=said.text("title"),
        priority=said.whole("priority", 2),
        turn=0.0,
        rig=said.text("rig"),
        agent=said.text("agent"),
        account=said.text("account"),
        model="",
        share=said.text("share"),
        labels=said.words("labels"),
        batch=said.text("batch"),
        not_before=said.moment("not_before"),
        held=said.flag("held"),
        waits_for=said.whole("waits_for"),
        tries=said.whole("tries"),
        why=said.text("why"),
        added_at=said.moment("added_at"),
        moved_at=said.moment("moved_at"),
        outcome=said.text("outcome"),
        retries=said.whole("retries"),
    )


def cleaned(data: object) -> Cleaned | OutpostError:
    """Return what removing a worker's files did; raises as `worker` does."""
    said = Fields("what cleaning did", data)
    if said.data.get("error") is not None:
        return error(said.data["error"])
    return Cleaned(
        removed=said.flag("removed"), rescued=said.text_or("rescued"), detail=said.text("detail")
    )


def ping(data: object) -> Health | OutpostError:
    """Return what an outpost answered to ping, or why it did not; raises as `worker` does."""
    said = Fields("an answer to ping", data)
    if said.data.get("error") is not None:
        return error(said.data["error"])
    return Health(
        ok=said.flag("ok"),
        detail=said.text("detail"),
        hint=said.text("hint"),
        latency=said.real_or("latency"),
        free_memory=said.whole_or("free_memory"),
    )


def error(data: object) -> OutpostError:
    """Return an error that stands in a document; raises as `worker` does."""
    said = Fields("an error", data)
    code = said.whole("code", 1)
    return answers.error_of(
        said.text("type"), code if 0 < code < 10 else 1, said.text("message"), said.text("hint")
    )
