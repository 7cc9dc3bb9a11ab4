"""What to say to somebody who asks for a worker that is there already."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from outpost_core.types import State
from outpost_manager.cli import render

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from outpost_core.types import Worker
    from outpost_manager.placing.pending import Spawned


def where_it_is(worker: Worker, now: float | None = None) -> str:
    """Return where a worker is or how it ended: `ended 5 min ago (failed: agent_failed) at local`.

    Args:
        worker: the worker.
        now: the moment that counts as now.
    """
    now = time.time() if now is None else now
    result = worker.result
    if worker.state.terminal:
        telling = result is not None and result.reason not in ("ok", worker.state.value)
        reason = f": {result.reason}" if result is not None and telling else ""
        state = render.tint(worker.state.value)
        when = render.ago(worker.finished_at, now)
        return f"ended {when} ({state}{render.clean(reason)}) at {render.clean(worker.outpost)}"
    since = max(now - (worker.started_at or worker.created_at), 0.0)
    text = f"is {render.tint(worker.state.value)} at {render.clean(worker.outpost)}"
    text += f" since {render.lasting(since)}"
    if worker.unreachable_since is not None:
        quiet = render.lasting(max(now - worker.unreachable_since, 0.0))
        text += f", when it was last heard: the outpost has not answered for {quiet}"
    return text


def found_lines(worker: Worker, now: float | None = None) -> Iterator[str]:
    """Yield what asking again has found, and the next step."""
    text = f"{render.clean(worker.id)} {where_it_is(worker, now)}"
    result = worker.result
    if not worker.state.terminal:
        yield text
        return
    yield f"{text}; --again starts attempt {worker.attempt + 1}"
    if result is None:
        return
    if result.branch:
        yield render.clean(f"  its work is on {result.branch} {(result.commit or '')[:12]}")
        if result.pr_url:
            yield render.clean(f"  {result.pr_url}")
    if result.message and worker.state is not State.DONE:
        yield f"  {render.clean(' '.join(result.message.split()))}"
    if result.checkpoint:
        yield render.clean(f"  unpushed work is kept: {result.checkpoint}")
    if worker.state is not State.STOPPED:
        verb = "continue" if worker.state is State.DONE else "retry"
        words = ' "what else to do"' if verb == "continue" else ""
        yield render.clean(f"  → outpost {verb} {worker.issue}{words}")


def renewed_lines(spawned: Sequence[Spawned]) -> Iterator[str]:
    """Yield what was tried before under the same number, of those that are tried again."""
    for one in spawned:
        before = one.renews
        if before is not None and before.result is not None:
            why = before.result.message or before.result.reason
            yield render.clean(
                f"{before.id}: its agent never began"
                f" ({before.result.reason}: {' '.join(why.split())}); it is tried again"
            )
