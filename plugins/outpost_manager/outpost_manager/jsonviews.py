"""The JSON that every command answers with `--json`.

`jsonshapes` documents them, one for each command; the functions make them. Moments are RFC 3339 in
UTC (`2026-01-31T12:00:00.250Z`), durations seconds, money USD, sizes bytes; what is not known is
null. Keys may be added, none changes its meaning. Errors are made by `errorview`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from outpost_core.errors import OutpostError
from outpost_manager.errorview import error_shape
from outpost_manager.ledger.money import dollars
from outpost_manager.ledger.spend import summed
from outpost_manager.plugins.advice import first_hint, hint_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from outpost_core.discovery import PluginReport
    from outpost_core.types import (
        Cleaned,
        Event,
        Explanation,
        Finding,
        Health,
        Message,
        Step,
        Worker,
    )
    from outpost_manager.config.trusted import Record
    from outpost_manager.fleet.overview import OutpostView
    from outpost_manager.ledger import Breaker, Budget, Letter
    from outpost_manager.ledger.budgets import Use
    from outpost_manager.ledger.spend import Total
    from outpost_manager.placing.accountviews import AccountView
    from outpost_manager.placing.forecast import Forecast, Sum
    from outpost_manager.placing.pending import Spawned
    from outpost_manager.plugins.failures import KeptFailure
    from outpost_manager.plugins.provided import Provided

Shape = dict[str, Any]


def moment(at: float | None) -> str | None:
    """Return a moment as RFC 3339 in UTC with milliseconds; None for none, and for what is none."""
    if at is None:
        return None
    try:
        milliseconds = round(at * 1000)
        whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    except (OverflowError, ValueError, OSError):
        return None
    return f"{whole}.{milliseconds % 1000:03d}Z"


def trusted(record: Record, standing: str) -> Shape:
    """Return the shape of a file that is or was trusted."""
    return {
        "file": str(record.path),
        "standing": standing,
        "sha256": record.sha256,
        "trusted_at": moment(record.at),
    }


def worker(worker: Worker) -> Shape:
    """Return the shape of a worker."""
    result = worker.result
    return {
        "id": worker.id,
        "issue": worker.issue,
        "attempt": worker.attempt,
        "outpost": worker.outpost,
        "status": worker.state.value,
        "detail": worker.detail,
        "title": worker.title,
        "priority": worker.priority,
        "rig": worker.rig,
        "agent": worker.agent,
        "branch": result and result.branch,
        "commit": result and result.commit,
        "pr_url": result and result.pr_url,
        "exit_code": result.exit_code if result else None,
        "signal": result.signal if result else None,
        "reason": result.reason if result else None,
        "message": result.message if result else "",
        "checkpoint": result and result.checkpoint,
        "session": result and result.session,
        "retry_at": moment(result.retry_at) if result else None,
        "created_at": moment(worker.created_at),
        "started_at": moment(worker.started_at),
        "finished_at": moment(worker.finished_at),
        "updated_at": moment(worker.updated_at),
        "unreachable_since": moment(worker.unreachable_since),
        "log_bytes": result.log_bytes if result else None,
        "log_truncated": result.log_truncated if result else False,
        "cost_usd": worker.cost_settled,
        "agent_cost_usd": worker.agent_cost,
        "total_cost_usd": worker.cost,
        "cost_estimated": worker.cost_estimated,
        "cost_reserved_usd": worker.cost_held,
        "usage": _plain(worker.usage) if worker.usage else None,
    }


def workers(
    found: Sequence[Worker], silent: Mapping[str, OutpostError], outpost: str | None = None
) -> Shape:
    """Return the shape of a list of workers.

    Args:
        found: the workers.
        silent: why each outpost told nothing that told nothing.
        outpost: the one that alone was asked for.
    """
    return {
        "workers": [*map(worker, found)],
        "not_told": [
            {"outpost": name, "message": error.message, "hint": error.hint}
            for name, error in silent.items()
            if outpost in (None, name)
        ],
    }


def total(total: Total) -> Shape:
    """Return the shape of what some workers cost."""
    return {
        "key": total.key,
        "workers": total.workers,
        "running": total.running,
        "unknown": total.unknown,
        "total_usd": total.total,
        "machine_usd": total.machine,
        "agent_usd": total.agent,
        "estimated": total.estimated,
        "input_tokens": total.input_tokens,
        "cached_tokens": total.cached_tokens,
        "output_tokens": total.output_tokens,
    }


def cost(
    by: str,
    since: float,
    totals: Sequence[Total],
    standing: Mapping[str, float],
    budgets: Sequence[tuple[Budget, Use]],
    outlook: Forecast | None,
) -> Shape:
    """Return the shape of what was spent.

    Args:
        by: what the totals are of.
        since: when they begin; 0 for all there ever was.
        totals: one for each.
        standing: outpost → USD an hour that it costs without a worker.
        budgets: each with what its window holds.
        outlook: what waits will cost; None where nobody asked.
    """
    return {
        "by": by,
        "since": moment(since) if since else None,
        "totals": [*map(total, totals)],
        "total": total(summed(totals)),
        "standing": [{"outpost": name, "usd_hourly": usd} for name, usd in standing.items()],
        "budgets": [budget(one, use) for one, use in budgets],
        "forecast": forecast(outlook) if outlook is not None else None,
    }


def outpost(view: OutpostView) -> Shape:
    """Return the shape of a configured outpost."""
    return {
        "name": view.name,
        "type": view.type,
        "state": view.state,
        "active": view.active,
        "max_workers": view.max_workers,
        "slots_reason": view.slots_reason,
        "package": view.package,
        "version": view.version,
        "capabilities": sorted(view.capabilities),
        "detail": view.detail,
        "hint": view.hint,
        "since": moment(view.since),
        "spent_usd": view.spent,
        "standing_usd": view.standing,
        "cost_cap_hourly": view.cost_cap_hourly,
        "breaker": breaker(view.breaker),
    }


def breaker(one: Breaker | None) -> Shape | None:
    """Return the shape of a circuit breaker; None while nothing has failed."""
    if one is None:
        return None
    return {
        "state": one.state,
        "failures": one.failures,
        "since": moment(one.since),
        "retry_at": moment(one.retry_at or None),
        "probe": one.probe or None,
        "detail": one.detail,
    }


def budget(one: Budget, use: Use) -> Shape:
    """Return the shape of a budget and of what its window holds."""
    return {
        "name": one.name,
        "window": one.window,
        "usd": one.usd,
        "used_usd": dollars(use.used),
        "reserved_usd": dollars(use.reserved),
        "spent_usd": dollars(use.spent),
        "standing_usd": dollars(use.standing),
        "left_usd": dollars(use.left),
        "counts": {
            "outpost": [*one.outpost],
            "rig": [*one.rig],
            "label": [*one.label],
            "account": [*one.account],
        },
    }


def forecast(found: Forecast) -> Shape:
    """Return the shape of what the waiting orders will cost."""
    return {
        **_sum(found.sum),
        "budgets": [
            {
                "name": one.budget.name,
                **_sum(one.sum),
                "left_usd": dollars(one.use.left),
                "fit_at_worst": one.fit_at_worst,
                "fit_usually": one.fit_usually,
                "used_up_at": moment(one.used_up_at),
            }
            for one in found.outlooks
        ],
    }


def _sum(found: Sum) -> Shape:
    return {
        "waiting": found.waiting,
        "worst_usd": dollars(found.worst),
        "usual_usd": dollars(found.usual),
        "unlimited": found.unlimited,
        "unknown": found.unknown,
    }


def account(view: AccountView) -> Shape:
    """Return the shape of an account."""
    return {
        "name": view.name,
        "agent": view.agent,
        "configured": view.configured,
        "running": view.running,
        "max_workers": view.max_workers,
        "limits": [
            {"unit": one.unit, "window": one.window, "used": one.used, "most": one.most}
            for one in view.allowances
        ],
        "parked": [
            {"model": one.model or None, "until": moment(one.until), "reason": one.reason}
            for one in view.parked
        ],
        "breaker": breaker(view.breaker),
    }


def ping(name: str, answer: Health | OutpostError) -> Shape:
    """Return the shape of one outpost's answer to ping."""
    if isinstance(answer, OutpostError):
        return {
            "name": name, "ok": False, "detail": answer.message, "hint": answer.hint,
            "latency": None, "free_memory": None, "error": error_shape(answer),
        }  # fmt: skip
    return {"name": name, **_plain(answer), "error": None}


def backend(report: PluginReport, types: list[Shape]) -> Shape:
    """Return the shape of an installed package."""
    return {
        "entry_point": report.entry_point,
        "package": report.package,
        "version": report.version,
        "ok": report.ok,
        "reason": report.reason,
        "hint": first_hint(report),
        "types": types,
    }


def plugin(report: PluginReport, provided: Provided, kept: Sequence[KeptFailure]) -> Shape:
    """Return the shape of a plugin."""
    return {
        "plugin": report.entry_point,
        "package": report.package,
        "version": report.version,
        "module": report.value,
        "ok": report.ok,
        "hooks": list(report.hooks),
        "types": list(provided.types),
        "agents": list(provided.agents),
        "commands": list(provided.commands),
        "roles": list(provided.roles),
        "problems": [
            {
                "where": problem.where,
                "reason": problem.reason,
                "hint": hint_for(report, problem),
                "traceback": problem.traceback,
            }
            for problem in report.problems
        ],
        "errors": [
            {
                "hook": one.hook,
                "outpost": one.outpost,
                "reason": one.reason,
                "at": moment(one.at),
                "count": one.count,
                "traceback": one.traceback,
            }
            for one in kept
        ],
    }


def explanation(explanation: Explanation) -> Shape:
    """Return the shape of a placement decision."""
    return {
        "rule": explanation.rule,
        "verdicts": [_plain(verdict) for verdict in explanation.verdicts],
        "attempts": [{"outpost": name, "error": error} for name, error in explanation.attempts],
        "notes": list(explanation.notes),
    }


def spawned(spawned: Spawned) -> Shape:
    """Return the shape of a spawned worker."""
    return {
        "worker": worker(spawned.worker),
        "adopted": spawned.adopted,
        "explanation": explanation(spawned.explanation),
    }


def refused(issue: str, error: OutpostError) -> Shape:
    """Return the shape of an order that was not taken."""
    crowded = bool(getattr(error, "crowded", False))
    return {"issue": issue, "error": error_shape(error), "crowded": crowded}


def cleaned(worker: str, answer: Cleaned | OutpostError) -> Shape:
    """Return the shape of a cleaned worker."""
    if isinstance(answer, OutpostError):
        return {
            "worker": worker, "removed": False, "rescued": None, "detail": answer.message,
            "error": error_shape(answer),
        }  # fmt: skip
    return {"worker": worker, **_plain(answer), "error": None}


def step(step: Step, seconds: float) -> Shape:
    """Return the shape of a step of bootstrap."""
    return {**_plain(step), "seconds": round(seconds, 3)}


def finding(scope: str, finding: Finding) -> Shape:
    """Return the shape of a line of `doctor`."""
    return {"scope": scope, **_plain(finding)}


def letter(letter: Letter) -> Shape:
    """Return the shape of a letter in the outbox."""
    message = letter.message
    waits = letter.state == "waiting"
    return {
        "id": message.id,
        "outpost": letter.outpost,
        "to": message.to,
        "from": message.sender,
        "subject": message.subject,
        "body": message.body,
        "priority": message.priority,
        "state": letter.state,
        "tries": letter.tries,
        "error": letter.error,
        "written_at": moment(message.sent_at),
        "tried_at": moment(letter.tried_at),
        "next_try_at": moment(letter.next_try) if waits and letter.next_try else None,
        "delivered_at": moment(letter.delivered_at),
        "failed_at": moment(letter.failed_at),
    }


def inbox(name: str, answer: Sequence[Message] | OutpostError) -> Shape:
    """Return the shape of one outpost's mail."""
    if isinstance(answer, OutpostError):
        return {"outpost": name, "messages": [], "error": error_shape(answer)}
    messages = [
        {
            "id": one.id, "to": one.to, "from": one.sender, "via": one.via or None,
            "subject": one.subject, "body": one.body, "priority": one.priority,
            "sent_at": moment(one.sent_at),
            "read": one.read,
        }
        for one in answer
    ]  # fmt: skip
    return {"outpost": name, "messages": messages, "error": None}


def event(event: Event) -> Shape:
    """Return the shape of an event."""
    return {
        "id": event.id, "kind": event.kind, "at": moment(event.at), "worker": event.worker,
        "outpost": event.outpost, "data": dict(event.data),
    }  # fmt: skip


def _plain(value: object) -> Shape:
    """Return a dataclass whose fields are already what JSON shows."""
    from outpost_core.wire import to_json

    shape = to_json(value)
    assert isinstance(shape, dict)
    return shape
