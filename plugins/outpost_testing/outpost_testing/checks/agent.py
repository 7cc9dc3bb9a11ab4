"""Agent: what an outpost does because of what the agent says of itself while it runs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from outpost_core.types import Limits, State
from outpost_testing.checks.outcome import git, make_rig, rig_order
from outpost_testing.registry import check
from outpost_testing.trial import HOLD, LEASH, expect

if TYPE_CHECKING:
    from outpost_core.types import Order
    from outpost_testing.trial import Trial

#: Output tokens of one request, and USD for a million: 1.50 USD.
_DEAR: Final = 100_000
_PRICES: Final = {"kit-": (3.0, 0.3, 15.0)}
_BUDGET: Final = Limits(grace=1.0, max_agent_cost_usd=1.0)
#: Prints the records that are its arguments.
_SAY: Final = r"printf '%s\n' '{}'"


def _request(tokens: int) -> str:
    usage = {"input_tokens": 1000, "output_tokens": tokens}
    message = {"id": f"m{tokens}", "model": "kit-1", "usage": usage, "content": []}
    return _SAY.format(json.dumps({"type": "assistant", "message": message}))


def _success(cost: float) -> str:
    record: dict[str, Any] = {"type": "result", "subtype": "success", "result": "Made it."}
    return _SAY.format(json.dumps(record | {"total_cost_usd": cost}))


def _structured(order: Order) -> Order:
    """Return the order with an agent whose output is read."""
    agent = replace(order.agent, output="claude-stream-json", prices=_PRICES)
    return replace(order, agent=agent)


@check("agent")
async def budget_is_kept(trial: Trial) -> None:
    """An agent that has spent what it may is ended with all its processes, with the reason
    budget_reached, and the result says what it cost.
    """
    script = f"{LEASH}; setsid sh -c '{HOLD}' & {_request(100)}; {_request(_DEAR)}; {HOLD}"
    result = await trial.end(_structured(trial.sh(script, limits=_BUDGET)))
    got = (result.state, result.reason)
    expect(got == (State.FAILED, "budget_reached"), f"It is told as {got}: {result.message}")
    cost, partial = result.usage.cost_usd, result.usage.partial
    expect(cost is not None and 1.5 < cost < 1.6, f"It says that it cost {cost}.")
    expect(partial, "What was counted until it was ended is told as if it were all.")
    if trial.target.shared:
        await trial.nothing_left()


@check("agent")
async def below_its_budget(trial: Trial) -> None:
    """An agent that spends less than it may ends as ever, with the cost that it tells itself."""
    script = f"{_request(100)}; {_success(0.25)}; exit 0"
    result = await trial.end(_structured(trial.sh(script, limits=_BUDGET)))
    got = (result.state, result.reason, result.usage.cost_usd, result.usage.partial)
    expect(got == (State.DONE, "ok", 0.25, False), f"It is told as {got}: {result.message}")


@check("agent", needs=("rig", "local_rig", "checkpoint"), patience=4.0)
async def budget_keeps_the_work(trial: Trial) -> None:
    """What an agent has made until its budget was reached is kept, at the place that is named."""
    rig = make_rig(trial)
    script = f"echo half >half.txt; {_request(_DEAR)}; {HOLD}"
    result = await trial.end(_structured(rig_order(trial, rig, script, limits=_BUDGET)))
    expect(result.reason == "budget_reached", f"It is {result.reason}: {result.message}")
    ref = result.checkpoint or ""
    expect(ref.startswith("refs/"), f"The checkpoint is {result.checkpoint}.")
    expect(git("show", f"{ref}:half.txt", folder=rig) == "half", "The file is not in it.")


@check("agent", needs=("rig", "local_rig"), patience=4.0)
async def hung_after_its_end(trial: Trial) -> None:
    """An agent that has reported success and does not exit is ended after `final_grace`, and its
    work is delivered.
    """
    rig = make_rig(trial)
    limits = Limits(grace=1.0, final_grace=0.5)
    script = f"{LEASH}; echo new >new.txt; {_success(0.25)}; {HOLD}"
    order = _structured(rig_order(trial, rig, script, limits=limits))
    result = await trial.end(order)
    got = (result.state, result.reason, result.branch)
    want = (State.DONE, "ok", f"polecat/{order.issue.id}")
    expect(got == want, f"It is told as {got}: {result.message}")
    text = git("show", f"{result.commit}:new.txt", folder=rig)
    expect(text == "new", f"The file on the remote says {text!r}.")
    expect(result.usage.cost_usd == 0.25, f"It says that it cost {result.usage.cost_usd}.")
    if trial.target.shared:
        await trial.nothing_left()
