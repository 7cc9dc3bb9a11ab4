"""Security: agents that say what they like. What is told of it is plain, and can be true."""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from outpost_core.errors import OutpostError, UsageError
from outpost_core.types import State
from outpost_testing.registry import check
from outpost_testing.trial import HOLD, expect

if TYPE_CHECKING:
    from outpost_core.types import Order, Usage
    from outpost_testing.trial import Trial

#: Title, clipboard, hyperlink, what tmux passes on, colours, the cursor, and their short forms.
_SEQUENCES: Final = (
    "\x1b]0;canary\x07", "\x1b]52;c;Y2FuYXJ5\x07", "\x1b]8;;http://canary.example\x1b\\x\x1b]8;;\x07",
    "\x1bPtmux;\x1b\x1b]0;canary\x07\x1b\\", "\x1b[31m", "\x1b[2J", "\x9b31m", "\x9d0;canary\x9c",
    "\x1bc", "\x08\x08\x08", "\x7f", "\u202egnp.exe", "\r",
)  # fmt: skip
#: What has a meaning for a terminal, besides the end of a line.
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _says(trial: Trial, *records: dict[str, Any] | str, code: int = 0) -> Order:
    """Return an order whose agent prints records and exits."""
    lines = [one if isinstance(one, str) else json.dumps(one) for one in records]
    order = trial.sh(f"printf '%s\\n' \"$@\"; exit {code}", *lines)
    return replace(order, agent=replace(order.agent, output="claude-stream-json"))


def _plain(what: str, text: str | None) -> None:
    found = _CONTROL.search(text or "")
    expect(not found, f"Its {what} is told with {ascii(text)[:200]}.")


@check("security")
async def words_of_an_agent_are_plain(trial: Trial) -> None:
    """Whatever an agent prints or says of itself, no status, result or screen of it has a control
    character in it.
    """
    hostile = "".join(_SEQUENCES)
    record = {
        "type": "result", "subtype": "error", "is_error": True, "result": f"no {hostile} no",
        "session_id": f"x{hostile}", "error": hostile,
    }  # fmt: skip
    quoted = "".join(f"\\{ord(c):03o}" for c in "\x1b]0;canary\x07\x1b[31m last words")
    orders = [
        _says(trial, {"type": "system", "subtype": "init", "session_id": hostile}, record, code=1),
        _says(trial, {**record, "subtype": "success", "is_error": False}),
        trial.sh(f"printf '{quoted}'; printf '{quoted}' >&2; exit 3"),
        trial.order(f"/nonexistent/{_SEQUENCES[0]}"),
    ]
    for order in orders:
        await trial.spawn(order)
    results = await trial.ended(*orders)
    for order, result in zip(orders, results, strict=True):
        status = await trial.status(order)
        _plain("detail", status.detail)
        for name in ("message", "reason", "session", "branch", "pr_url", "checkpoint"):
            _plain(name, getattr(result, name))
        _plain("model", result.usage.model if result.usage else None)
    if "interactive" in trial.target.capabilities and "peek" in trial.target.capabilities:
        await _screen_is_plain(trial, quoted)


async def _screen_is_plain(trial: Trial, quoted: str) -> None:
    order = trial.sh(f"printf '{quoted}\\n'; echo up; {HOLD}", interactive=True)
    await trial.spawn(order)

    async def shown() -> str | None:
        with suppress(OutpostError):
            text: str = await trial.outpost.outpost_peek(worker=order.worker, lines=20)
            return text if "up" in text else None
        return None

    _plain("screen", await trial.until(shown, "its screen does not show what it prints"))
    trial.release()
    if not trial.target.shared:  # nothing of the kit's is seen there
        await trial.outpost.outpost_stop(worker=order.worker, grace=1.0)
    await trial.ended(order)
    with suppress(UsageError):  # of a machine that is gone with its worker there is no screen
        _plain("last screen", await trial.outpost.outpost_peek(worker=order.worker, lines=20))


@check("security")
async def claims_of_an_agent_can_be_true(trial: Trial) -> None:
    """An agent that claims a negative, an endless or an absurd use is told with none that cannot
    be, and its worker ends as it did.
    """
    usage = {"input_tokens": -5, "output_tokens": 10**40, "cache_read_input_tokens": "x"}
    done: dict[str, Any] = {"type": "result", "subtype": "success", "result": "ok"}
    costs = ("-1e9", "NaN", "Infinity", "-Infinity", "1e400", '"free"', "true", "[]", "1e300", "{}")
    odd = [
        json.dumps({**done, "usage": usage, "num_turns": -1, "total_cost_usd": 0}).replace(
            '"total_cost_usd": 0', f'"total_cost_usd": {cost}'
        )
        for cost in costs
    ]
    message = {"id": "m1", "model": 7, "usage": usage, "content": "x"}
    odd.append(json.dumps({"type": "assistant", "message": message}))
    odd += [
        "[" * 50_000, '{"type": [], "message": []}', '{"type": "result", "usage": [1]}',
        '{"type": "assistant", "message": {"usage": {"input_tokens": 1e999}}}', "\x00", "{}",
        json.dumps({**done, "session_id": {"a": 1}, "result": [1], "modelUsage": "x"}),
    ]  # fmt: skip
    orders = [_says(trial, text) for text in odd if "\0" not in text] + [_says(trial, *odd[:9])]
    for order in orders:
        await trial.spawn(order)
    for order, result in zip(orders, await trial.ended(*orders), strict=True):
        said = order.agent.argv[-1][:80]
        expect(result.state in (State.DONE, State.FAILED), f"{said!a}: it is {result.state}.")
        _can_be(said, "cost_usd", result.cost_usd)
        _usage_can_be(said, result.usage)


def _usage_can_be(said: str, usage: Usage | None) -> None:
    for name in ("input_tokens", "output_tokens", "cached_tokens", "cost_usd", "turns"):
        _can_be(said, name, getattr(usage, name, None))


def _can_be(said: str, name: str, value: float | None) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    good = value is None or (number and math.isfinite(value) and 0 <= value < 10**18)
    expect(good, f"An agent that says {said!a} is told with {name}={value!r}.")
