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

_FULL = (errno.ENOSPC, errno.EDQUOT)
#: SIGKILL, which is what the system sends where memory is wanting.
_KILLED = 9
_ENDED = {
    "stopped": ("stopped", "it was stopped"),
    "terminated": ("stopped", "its supervisor was told to end (SIGTERM)"),
    "timeout": ("failed", "the time limit of {timeout:g} s passed"),
    "idle_timeout": ("failed", "it printed nothing for {idle_timeout:g} s"),
    "budget_reached": ("failed", "it has spent the ${max_agent_cost_usd:g} that it may"),
}
#: How an agent ended whose last record said so, and which continued all the same.
_HUNG = "it reported its end, did not end, and was ended"


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
            "partial": False,
            "estimated": False,
            "model": None,
        },
        "agent_began": None,
        "fence": "",
        "retry_at": None,
        **more,
    }


def of_exit(exit_code: int | None, signal: int | None, log_error: int) -> tuple[str, str, str]:
    """Return state, reason and message for an agent that ended by itself.

    Args:
        exit_code: None when a signal ended it.
        signal: the number of that signal.
        log_error: errno of what ended the writing of the log, else 0.
    """
    if signal is not None:
        state, reason, message = "failed", "agent_signal", f"signal {signal} ended the agent"
    elif exit_code:
        state, reason, message = "failed", "agent_failed", f"the agent exited with {exit_code}"
    else:
        return "done", "ok", ""
    if log_error in _FULL:
        return state, "disk_full", f"{message} on a full disk"
    return state, reason, message


def of_memory(exit_code: int | None, signal: int | None, limit: int | None) -> str:
    """Return what is added to the message of an agent that failed where memory was wanting.

    Args:
        exit_code: None when a signal ended it.
        signal: the number of that signal.
        limit: bytes that there are here, when that is known.
    """
    size = f" ({limit / (1 << 20):.0f} MiB)" if limit else ""
    if signal == _KILLED or exit_code == 128 + _KILLED:  # as a shell tells it
        return f": the memory here{size} was used up"
    return f"; meanwhile the memory here{size} was used up, and the system killed a process"


def of_ending(reason: str, limits: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return state, reason and message for an agent that was ended by its supervisor.

    Args:
        reason: why; `final` when it had reported its end: then what it reported counts.
        limits: of the order.
    """
    if reason == "final":
        return "done", "ok", ""
    state, message = _ENDED[reason]
    names = ("timeout", "idle_timeout", "max_agent_cost_usd")
    values = {name: limits.get(name) or 0 for name in names}
    return state, reason, message.format(**values)


def before_it_ran(reason: str) -> dict[str, Any]:
    """Return the result of a worker that was stopped (see `of_ending`) before its agent ran."""
    state, reason, message = of_ending(reason, {})
    return result(state, reason, f"{message} before the agent ran", agent_began=False)


def of_error(answer: Mapping[str, Any], reason: str, message: str) -> dict[str, Any]:
    """Return the result of a worker whose preparation failed.

    Args:
        answer: `{"error": …}`, or empty when it died.
        reason: what to say when it died.
        message: likewise.
    """
    error = answer.get("error") or {"reason": reason, "message": message}
    return result("failed", error["reason"], error["message"], agent_began=False)


def of_exec_error(error: OSError, program: str) -> dict[str, Any]:
    """Return the result for a command that could not be executed."""
    code = 127 if isinstance(error, FileNotFoundError) else 126
    why = error.strerror or str(error)
    if error.errno == errno.E2BIG:
        why = "its arguments are too long: use {prompt_file} in place of {prompt}"
    message = f"{program}: {why}"
    return result("failed", "command_not_found", message, exit_code=code, agent_began=False)


def of_wrapper_error(error: OSError) -> dict[str, Any]:
    """Return the result where the command before the agent's could not be executed."""
    message = f"{error.filename}: {error.strerror or error}"
    return result("failed", "wrapper_not_found", message, agent_began=False)


def add_lookup(ended: dict[str, Any], program: str, wrapper: str) -> None:
    """Say that the agent's command is not there, where its wrapper looked for it and says so.

    Args:
        ended: changed in place; 126 and 127 of such a wrapper mean what they mean to a shell. The
            agent may have exited with them itself, so it counts as one that ran.
        program: the agent's.
        wrapper: the program of what stands before it.
    """
    code = ended["exit_code"]
    if ended["reason"] == "agent_failed" and code in (126, 127):
        why = "there is no such command" if code == 127 else "it cannot be executed"
        ended["reason"] = "command_not_found"
        ended["message"] = f"{program}: {why} where {wrapper} looks for it (exit code {code})"


def reason_of(error: OSError, otherwise: str) -> str:
    """Return `disk_full` when that is what the error says, else `otherwise`."""
    return "disk_full" if error.errno in _FULL else otherwise


def add_output(ended: dict[str, Any], said: Mapping[str, Any], ending: str) -> None:
    """Add what the agent's output says to how it ended.

    Args:
        ended: changed in place. What counts only together with the delivery is kept under
            `denied` and `note`, see `conclude`.
        said: what `Account.answer` of the agent's output returned.
        ending: why the supervisor ended it; "" when it ended by itself.
    """
    ended["session"] = said["session"]
    ended["usage"] = {**ended["usage"], **said["usage"]}
    if ended["reason"] in ("ok", "agent_failed"):
        reported = said["ok"] is not None or ended["reason"] == "ok"
        if said["message"] and reported:
            ended["message"] = said["message"]
        elif ended["message"] and (last := said["last"] or said["message"]):
            ended["message"] += f": {last}"
    if ended["reason"] == "ok" and said["ok"] is False:
        ended["state"], ended["reason"] = "failed", "agent_failed"
    if ended["reason"] == "agent_failed" and said["ok"] is not True:
        ended["reason"] = said["reason"] or "agent_failed"
        ended["retry_at"] = said["retry_at"]
    ended["denied"] = said["denied"]
    ended["note"] = _HUNG if ending == "final" else ""


def conclude(result: dict[str, Any]) -> None:
    """Say in a result what counts only now that it is known what became of the work."""
    denied, note = result.pop("denied", ""), result.pop("note", "")
    if denied and result["reason"] == "nothing_to_commit":
        result["state"], result["reason"] = "failed", "permission_denied"
        result["message"] = f"it was denied {denied}, and changed nothing"
    if note:
        result["message"] = f"{result['message']} ({note})" if result["message"] else note


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
        result["checkpoint"] = done.get("checkpoint")
        if done["reason"] not in ("ok", "nothing_to_commit"):
            result["state"] = "failed"  # what could be delivered is on the rig all the same
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


def add_rescue(result: dict[str, Any], answer: Mapping[str, Any], where: str | None) -> None:
    """Add to a result where the unpushed work is, and why it is not if that failed.

    Args:
        result: changed in place.
        answer: of the last `checkpoint.save`: `{"answer": …}`, `{"error": …}`, or empty when it
            died.
        where: the place of the last checkpoint that there is, or None.
    """
    saved = answer.get("answer") or {}
    result["checkpoint"] = where or saved.get("unfiltered")
    archive = saved.get("archive")
    if archive and archive not in result["message"]:
        result["message"] += f" (also kept: {archive})" if archive != where else ""
    for path, why in list((saved.get("unreadable") or {}).items())[:3]:
        result["message"] += f" ({path} could not be saved: {why})"
    if "answer" not in answer:
        why = answer.get("error", {}).get("message", "it took too long")
        if why not in result["message"]:  # the delivery may have said it
            result["message"] += f" (the last work is only in the working tree: {why})"
