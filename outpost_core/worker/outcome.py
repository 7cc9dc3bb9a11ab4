"""What a worker's end is called: plain dicts with the keys of `types.Result`, and why.

The lean supervisor imports no dataclasses; a test keeps these keys equal to theirs.
"""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: Longest message of a result, so that it fits into the room that is kept for it.
LONGEST_MESSAGE = 1000

_ENDED = {
    "stopped": ("stopped", "it was stopped"),
    "terminated": ("stopped", "its supervisor was told to end (SIGTERM)"),
    "timeout": ("failed", "the time limit of {timeout:g} s passed"),
    "idle_timeout": ("failed", "it printed nothing for {idle_timeout:g} s"),
}


def result(state: str, reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    """Return a whole result; `more` sets further keys of it."""
    if len(message) > LONGEST_MESSAGE:
        message = message[: LONGEST_MESSAGE - 1] + "…"
    return {
        "state": state,
        "reason": reason,
        "message": message,
        "branch": None,
        "commit": None,
        "pr_url": None,
        "exit_code": None,
        "signal": None,
        "checkpoint": None,
        "session": None,
        "started_at": None,
        "finished_at": None,
        "log_bytes": None,
        "log_truncated": False,
        "cost_usd": None,
        "usage": {
            "input_tokens": None,
            "output_tokens": None,
            "cached_tokens": None,
            "cost_usd": None,
            "turns": None,
        },
        **more,
    }


def of_exit(exit_code: int | None, signal: int | None) -> tuple[str, str, str]:
    """Return state, reason and message for an agent that ended by itself."""
    if signal is not None:
        return "failed", "agent_signal", f"signal {signal} ended the agent"
    if exit_code:
        return "failed", "agent_failed", f"the agent exited with {exit_code}"
    return "done", "ok", ""


def of_ending(reason: str, limits: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return state, reason and message for an agent that was ended by its supervisor."""
    state, message = _ENDED[reason]
    values = {name: limits.get(name) or 0 for name in ("timeout", "idle_timeout")}
    return state, reason, message.format(**values)


def of_exec_error(error: OSError, program: str) -> dict[str, Any]:
    """Return the result for a command that could not be executed."""
    code = 127 if isinstance(error, FileNotFoundError) else 126
    why = error.strerror or str(error)
    if error.errno == errno.E2BIG:
        why = "its arguments are too long: use {prompt_file} in place of {prompt}"
    return result("failed", "command_not_found", f"{program}: {why}", exit_code=code)


def reason_of(error: OSError, otherwise: str) -> str:
    """Return `disk_full` when that is what the error says, else `otherwise`."""
    return "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else otherwise


def add_output(ended: dict[str, Any], said: Mapping[str, Any] | None) -> None:
    """Add what the agent's output says (`agentout.read`) to how it ended."""
    if said is None:
        return
    ended["session"] = said["session"]
    ended["usage"] = {**ended["usage"], **said["usage"]}
    if ended["reason"] in ("ok", "agent_failed") and said["message"]:
        ended["message"] = said["message"]
    if ended["reason"] == "ok" and said["ok"] is False:
        ended["state"], ended["reason"] = "failed", "agent_failed"


def add_delivery(result: dict[str, Any], answer: Mapping[str, Any], stopped: str) -> None:
    """Add what came of the delivery to a result that says done.

    Args:
        result: changed in place.
        answer: `{"answer": …}` of `deliver.deliver`, `{"error": …}`, or empty when it died.
        stopped: "" or the reason of the stop that cut it off.
    """
    done = answer.get("answer")
    if done is not None:
        for name in ("reason", "branch", "commit", "pr_url"):
            result[name] = done[name]
        result["message"] = done["message"] or result["message"]
        return
    error = answer.get("error")
    result["state"] = "failed"
    if error is not None:
        result["reason"], result["message"] = error["reason"], error["message"]
    elif stopped:
        result["state"], result["reason"] = "stopped", stopped
        result["message"] = "it was stopped while it delivered"
    else:
        result["reason"], result["message"] = "internal", "the delivery ended without an answer"


def saved(answer: Mapping[str, Any], before: str | None) -> str | None:
    """Return where the newest rescued work is: of this checkpoint, else of the one before.

    Args:
        answer: `{"answer": …}` of `checkpoint.save`, `{"error": …}` or empty.
        before: what this function returned for the checkpoint before.
    """
    done = answer.get("answer")
    if done is None or (done["nothing"] and not done["ref"]):
        return before
    where: str | None = done["ref"] if done["pushed"] or done["nothing"] else done["kept"]
    return where
