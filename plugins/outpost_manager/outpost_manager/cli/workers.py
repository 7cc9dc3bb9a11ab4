"""Looking at workers and their ends: `workers`, `show`, `wait`, `clean`."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING, Any

import click

from outpost_agents.registry import PLAIN, usable
from outpost_core.errors import OutpostError
from outpost_core.types import State
from outpost_manager import jsonviews
from outpost_manager.cli import complete, output, render, story
from outpost_manager.cli.cost import approximate
from outpost_manager.cli.session import Session, command
from outpost_manager.cli.table import cost, worker_lines
from outpost_manager.placing import references

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from outpost_core.agents import AgentPreset
    from outpost_core.types import Cleaned, Explanation, Order, Usage, Verdict, Worker
    from outpost_manager.managing import Glimpse, Managing, Shown


#: of the last line of a worker's output, so much is shown.
_LONGEST_LINE = 500


@command("workers", anywhere=True)
@click.option("--all", "all_", is_flag=True, help="Those that have ended, too.")
@click.option(
    "--on", "--outpost", metavar="OUTPOST", shell_complete=complete.outposts, help="Only there."
)
@click.option(
    "--issue", metavar="ISSUE", shell_complete=complete.issues, help="Only attempts at this issue."
)
@click.option(
    "--status",
    "states",
    multiple=True,
    metavar="STATE",
    type=click.Choice([state.value for state in State]),
    help="Only those in this state, also when it is an end; may be repeated.",
)
@click.option(
    "--since", metavar="DURATION", help="Only those that ran since then, also ended ones: 2h, 1d."
)
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="N",
              help="Only the newest N.")  # fmt: skip
def workers(
    session: Session,
    all_: bool,
    on: str | None,
    issue: str | None,
    states: tuple[str, ...],
    since: str | None,
    limit: int | None,
) -> None:
    """List the workers that have not ended, or all.

    Not those whose files were cleaned; `outpost show` still knows them.

    \b
    Examples:
      outpost workers --all --json
      outpost workers --status failed --since 1d
    """
    from outpost_manager.cli.values import duration
    from outpost_manager.placing.selecting import selected

    seconds = duration(since, "--since")
    ends = any(State(state).terminal for state in states)

    silent: dict[str, OutpostError] = {}

    async def work(manager: Managing) -> list[Worker]:
        oldest = None if seconds is None else time.time() - seconds
        silent.update(await manager.look())
        everything = all_ or ends or oldest is not None
        return selected(
            await manager.workers(all=everything, refresh=False),
            outpost=on, issue=issue, states=[State(state) for state in states], oldest=oldest,
            limit=limit,
        )  # fmt: skip

    found = session.anywhere(work)
    session.answer(
        lambda: jsonviews.workers(found, silent, on),
        lambda: worker_lines(found),
    )
    for name, error in silent.items():
        if on in (None, name):
            session.note(render.clean(_not_told(name, error)))
    if not found and not (all_ or on or issue or states or since):
        session.note("  → outpost workers --all shows those that have ended")


def _not_told(name: str, error: OutpostError) -> str:
    """Return that an outpost did not tell of its workers, and why, in one line."""
    hint = f"; {error.hint}" if error.hint else f"; outpost doctor {name} says more"
    return f"  · {name} did not tell of its workers: {' '.join(error.message.split())}{hint}"


def end_line(worker: Worker, presets: Mapping[str, AgentPreset] | None = None) -> str:
    """Return how a worker ended (or where it is) in one line, and what there is to know.

    Args:
        worker: the worker.
        presets: given, of one that failed the next step is named too.
    """
    parts = [render.clean(worker.id), render.tint(worker.state.value)]
    told = [f"at {worker.outpost}"]
    result = worker.result
    telling = result is not None and result.reason not in ("ok", worker.state.value)
    if result is None:
        told += [f"({worker.detail})"] * bool(worker.detail)
    else:
        told += [f"({result.reason})"] * telling
        told += [f"→ {result.branch} {(result.commit or '')[:12]}"] * bool(result.branch)
        told += [result.pr_url] if result.pr_url else []
    line = " ".join([*parts, *map(render.clean, told)])
    if result is None:
        return line
    if result.message and telling:
        line += f"\n  {_message(worker)}"
    if result.checkpoint:
        line += f"\n  unpushed work is kept: {render.clean(result.checkpoint)}"
    if presets is not None:
        from outpost_manager.hints import next_step

        if step := next_step(worker, presets):
            line += f"\n  → {render.clean(step)}"
    return line


def _message(worker: Worker) -> str:
    """Return the result's message in one line."""
    message = worker.result.message if worker.result else ""
    return render.clean(" ".join(message.split()))


# --- show --------------------------------------------------------------------------------------


@command("show", anywhere=True)
@click.argument("worker", shell_complete=complete.workers)
def show(session: Session, worker: str) -> None:
    """Show everything about a worker.

    WORKER is its id, or an issue's id for its newest attempt.

    \b
    Example:
      outpost show gt-abc123.1
    """

    found = session.anywhere(lambda manager: manager.shown(worker))
    session.answer(lambda: shown_shape(found), lambda: _show_lines(found, session.presets()))


def shown_shape(found: Shown) -> dict[str, Any]:
    """Return what `show --json` says of a worker."""
    from outpost_core.wire import to_json

    glimpse, order, why = found.glimpse, found.order, found.explanation
    return {
        "worker": jsonviews.worker(found.worker),
        "order": to_json(order) if order else None,
        "explanation": jsonviews.explanation(why) if why else None,
        "attempts": [*map(jsonviews.worker, found.attempts)],
        "accounts": dict(found.accounts),
        "decisions": story.as_json(found.decisions),
        "events": [*map(jsonviews.event, found.events)],
        "tree": glimpse.tree or None,
        "fence": _fence(found.worker, glimpse) or None,
        "last_line": _last_line(glimpse, order) or None,
        "live_usage": to_json(glimpse.usage) if glimpse.usage else None,
    }


def _show_lines(found: Shown, presets: Mapping[str, AgentPreset]) -> Iterator[str]:
    worker = found.worker
    account = found.accounts.get(worker.id, "")
    yield from render.pairs(_rows(worker, found.glimpse, found.order, account))
    if step := _next_step(found, presets):
        yield f"  → {render.clean(step)}"
    if found.explanation is not None:
        yield ""
        yield from explanation_lines(found.explanation)
    if found.decisions or found.entry:
        yield ""
        yield output.style("what came of it", bold=True)
        yield from story.lines(found.attempts, found.decisions, found.entry, found.accounts)
    elif others := [other for other in found.attempts if other.id != worker.id]:
        yield ""
        yield output.style("other attempts", bold=True)
        yield from worker_lines(others)
    if found.events:
        yield ""
        yield output.style("events", bold=True)
        yield from map(render.event_line, found.events)


def _next_step(found: Shown, presets: Mapping[str, AgentPreset]) -> str:
    """Return what a person can do about a bad end; "" where a later attempt or the queue does."""
    last = max((one.attempt for one in found.attempts), default=0) <= found.worker.attempt
    if not last or (found.entry is not None and found.entry.state != "ended"):
        return ""
    from outpost_manager.hints import next_step

    return next_step(found.worker, presets)


def _by_hand(worker: Worker, order: Order | None) -> str:
    """Return the command that brings kept work into a clone; "" when there is none."""
    from outpost_core.names import checkpoint_ref, owner_of

    kept = worker.result.checkpoint if worker.result is not None else None
    if owner_of(kept, worker.id) is not None:
        return shlex.join(["git", "fetch", worker.rig or "origin", kept or ""])
    if kept and kept.endswith(".bundle"):
        ref = checkpoint_ref(worker.id, order.owner if order is not None else "")
        return f"{shlex.join(['git', 'fetch', kept, ref])} (at {worker.outpost})"
    return ""


def _rows(
    worker: Worker, glimpse: Glimpse, order: Order | None, account: str
) -> Iterator[tuple[str, str]]:
    def said(value: object) -> str:
        return "" if value is None else render.clean(str(value))

    result, unreachable = worker.result, worker.unreachable_since
    yield "worker", said(worker.id)
    yield "title", said(worker.title)
    yield (
        "status",
        render.tint(worker.state.value)
        + (
            output.style(f" (outpost unreachable for {render.age(unreachable)})", fg="red")
            if unreachable
            else ""
        ),
    )
    yield "detail", "" if result else said(worker.detail)
    yield "outpost", said(worker.outpost)
    yield "priority", f"P{worker.priority}"
    yield "rig", said(worker.rig)
    yield "agent", said(worker.agent)
    yield "account", "" if account == worker.agent else said(account)
    if order is not None:
        yield "command", said(shlex.join(order.agent.argv))
        yield "base", said(order.base)
        yield "resumes", said(order.resume)
        yield "labels", said(", ".join(order.issue.labels))
        yield "secrets", said(", ".join(sorted(order.secrets)))
    if result is not None:
        yield "reason", said(result.reason)
        yield "message", _message(worker)
        yield "branch", said(result.branch)
        yield "commit", said(result.commit)
        yield "pull request", said(result.pr_url)
        yield "exit code", said(result.exit_code)
        yield "signal", said(result.signal)
        yield "checkpoint", said(result.checkpoint)
        yield "to use it", said(_by_hand(worker, order))
        yield "session", said(result.session)
        yield "log", _log_size(worker)
        yield "usage", _usage(result.usage)
    elif glimpse.usage is not None:
        yield "usage so far", _usage(glimpse.usage)
    yield "working tree", said(glimpse.tree)
    yield "fence", said(_fence(worker, glimpse))
    yield "last line", said(_last_line(glimpse, order))
    yield "cost", cost(worker)
    yield "created", _when(worker.created_at)
    yield "started", _when(worker.started_at)
    yield "finished", _when(worker.finished_at) + _took(worker)


def _last_line(glimpse: Glimpse, order: Order | None) -> str:
    """Return the last line of a worker's output that says something, as `logs` would show it."""
    text = glimpse.text
    kind = order.agent.output if order is not None else PLAIN
    if text and usable(kind):
        from outpost_manager.cli.readable import Readable

        text = Readable(kind).feed(f"{text}\n".encode("utf-8", "replace"), final=True)
        text = click.unstyle(text)
    lines = text.splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return last[:_LONGEST_LINE]


def _when(moment: float | None) -> str:
    return "" if moment is None else f"{jsonviews.moment(moment)} ({render.ago(moment)})"


def _took(worker: Worker) -> str:
    if worker.started_at is None or worker.finished_at is None:
        return ""
    return f" after {render.span(max(0.0, worker.finished_at - worker.started_at))}"


def _log_size(worker: Worker) -> str:
    result = worker.result
    if result is None or result.log_bytes is None:
        return ""
    from outpost_core.units import format_bytes

    return format_bytes(result.log_bytes) + (" (cut at its cap)" if result.log_truncated else "")


def _fence(worker: Worker, glimpse: Glimpse) -> str:
    """Return what keeps or kept a worker's agent to its work; "" when nobody knows."""
    return (worker.result.fence if worker.result else "") or glimpse.fence


def _usage(usage: Usage) -> str:
    parts = []
    if usage.input_tokens is not None:
        parts.append(render.count(usage.input_tokens, "token") + " in")
    if usage.output_tokens is not None:
        parts.append(render.count(usage.output_tokens, "token") + " out")
    if usage.cached_tokens is not None:
        parts.append(f"{usage.cached_tokens:,} cached")
    if usage.turns is not None:
        parts.append(render.count(usage.turns, "turn"))
    spent = approximate(usage.cost_usd, usage.estimated or usage.partial)
    return ", ".join([*parts, *filter(None, [spent])])


def _worst(verdict: Verdict) -> str:
    """Return what an order may cost at an outpost, machine and agent."""
    if verdict.machine_cost is None:
        return "-"
    agent = "?" if verdict.agent_cost is None else render.money(verdict.agent_cost)
    if not verdict.machine_cost:
        return agent
    return f"{render.money(verdict.machine_cost)} + agent {agent}"


def explanation_lines(explanation: Explanation) -> Iterator[str]:
    """Yield why an order goes where it goes."""
    yield f"{output.style('rule', bold=True)}: {render.clean(explanation.rule)}"
    yield from render.table(
        ("rank", "outpost", "eligible", "costs at most", "why"),
        [
            (
                "-" if verdict.rank is None else str(verdict.rank),
                verdict.outpost,
                "yes" if verdict.eligible else "no",
                _worst(verdict),
                verdict.reason,
            )
            for verdict in explanation.verdicts
        ],
        keep=("outpost",),
        colour=("eligible",),
        wrap=True,
    )
    for outpost, error in explanation.attempts:
        yield f"  tried {render.clean(outpost)}: {render.clean(error)}"
    for note in explanation.notes:
        yield f"  note: {render.clean(note)}"


# --- wait and clean ----------------------------------------------------------------------------


@command("wait", anywhere=True)
@click.argument("workers", nargs=-1, required=True, metavar="WORKER...",
                shell_complete=complete.active_workers)  # fmt: skip
@click.option("--timeout", metavar="DURATION", help="Give up waiting after so long: 90s, 2h.")
def wait(session: Session, workers: tuple[str, ...], timeout: str | None) -> None:
    """Wait until workers have ended.

    Exit code 0 when the work of all is done, 1 when one failed or did not end in time.

    \b
    Example:
      outpost wait gt-abc123.1 --timeout 2h
    """
    from outpost_manager.cli.progress import Progress
    from outpost_manager.cli.values import duration

    seconds = duration(timeout, "--timeout")
    progress = Progress.of(session)

    async def work(manager: Managing) -> list[Worker]:
        ids = [(await manager.worker(worker)).id for worker in workers]
        session.going_on = keeps_running(ids)
        return await manager.wait(
            [*map(references.exact, ids)], timeout=seconds, on_change=progress.worker
        )

    found = session.anywhere(work)
    progress.close()
    session.answer(
        lambda: {"workers": [*map(jsonviews.worker, found)]},
        lambda: [end_line(worker, session.presets()) for worker in found],
    )
    if late := [worker.id for worker in found if not worker.state.terminal]:
        session.note(f"{' '.join(late)} not ended within {timeout}")
    click.get_current_context().exit(exit_code(found))


def keeps_running(ids: Sequence[str]) -> str:
    """Return what to say to somebody who presses Ctrl-C while workers run."""
    shown = " ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
    first = ids[0] if ids else ""
    verb = "keeps" if len(ids) == 1 else "keep"
    return f"{shown} {verb} running.\n  → outpost logs -f {first} · wait {first} · stop {first}"


def exit_code(workers: Sequence[Worker]) -> int:
    """Return 0 when the work of all workers is done, else 1."""
    return 0 if all(worker.state is State.DONE for worker in workers) else 1


@command("clean", anywhere=True)
@click.argument("workers", nargs=-1, metavar="[WORKER]...", shell_complete=complete.workers)
@click.option("--all", "all_", is_flag=True,
              help="All that have ended, also failed and stopped ones.")  # fmt: skip
@click.option("--force", is_flag=True, help="Also where unpushed work could not be rescued.")
@click.option("--older-than", metavar="DURATION", help="Only those that ended so long ago: 3d.")
@click.option("--purge", is_flag=True, help="Also their logs, which are kept here otherwise.")
@click.option("--dry-run", is_flag=True, help="Remove nothing; say what would be.")
def clean(
    session: Session,
    workers: tuple[str, ...],
    all_: bool,
    force: bool,
    older_than: str | None,
    purge: bool,
    dry_run: bool,
) -> None:
    """Remove the files of workers whose work is delivered.

    Without WORKER: all that are done and were ordered here; what another machine ordered is left
    to it. Unpushed work is rescued first, or nothing is removed. What `logs` and `show` tell is
    kept here. `defaults.clean_after` in the configuration does it by itself.

    \b
    Example:
      outpost clean --all --older-than 3d --dry-run
    """
    if all_ and workers:
        raise click.UsageError("--all and WORKER exclude each other")
    if force and not workers:
        raise click.UsageError("--force needs the ids of the workers that may lose work")

    from outpost_manager.cli.values import duration
    from outpost_manager.placing import keptlogs

    others: list[str] = []
    age = duration(older_than, "--older-than")

    async def work(manager: Managing) -> dict[str, Cleaned | OutpostError]:
        ids: Sequence[str] = workers
        if not ids:
            ended = [State.DONE] if not all_ else [state for state in State if state.terminal]
            found = [w.id for w in await manager.workers(all=True) if w.state in ended]
            # whoever ordered the others may not have seen their end: to it they would be lost
            ours = await manager.ordered_here(found)
            ids = [references.exact(worker) for worker in found if worker in ours]
            others.extend(worker for worker in found if worker not in ours)
        if age is not None:
            known = [await manager.worker(name) for name in ids]
            ids = [references.exact(worker.id) for worker in keptlogs.old(known, age)]
        if dry_run:
            would.extend([await manager.worker(name) for name in ids])
            return {}
        return await manager.clean_many(ids, force=force, purge=purge)

    would: list[Worker] = []
    answers = session.anywhere(work)
    if dry_run:
        session.answer(
            lambda: {"would_clean": [jsonviews.worker(worker) for worker in would]},
            lambda: _would_lines(would),
        )
        return
    session.answer(
        lambda: {"cleaned": [jsonviews.cleaned(w, answer) for w, answer in answers.items()]},
        lambda: _clean_lines(answers),
    )
    if others:
        session.note(f"left to who ordered them: {render.clean(' '.join(others))}")
        session.note(f"  → outpost clean {render.clean(others[0])} removes one all the same")
    errors = [answer for answer in answers.values() if isinstance(answer, OutpostError)]
    kept = any(not isinstance(a, OutpostError) and not a.removed for a in answers.values())
    click.get_current_context().exit(errors[0].exit_code if errors else int(kept))


def _would_lines(workers: Sequence[Worker]) -> Iterator[str]:
    if not workers:
        yield "nothing to clean"
    for worker in workers:
        line = f"{worker.id}: would be cleaned at {worker.outpost} ({worker.state.value})"
        if not worker.state.terminal:
            line = f"{worker.id}: would be kept: it has not ended ({worker.state.value})"
        yield render.clean(line)


def _clean_lines(answers: dict[str, Cleaned | OutpostError]) -> Iterator[str]:
    if not answers:
        yield "nothing to clean"
    for worker, answer in answers.items():
        if isinstance(answer, OutpostError):
            yield f"{render.clean(worker)}: {render.clean_lines(str(answer))}"
            continue
        words = "cleaned" if answer.removed else f"kept: {answer.detail}"
        rescued = f"; unpushed work was rescued to {answer.rescued}" if answer.rescued else ""
        more = f"; {answer.detail}" if answer.removed and answer.detail else ""
        yield render.clean(f"{worker}: {words}{rescued}{more}")
