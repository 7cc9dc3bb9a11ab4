"""What may be believed of a worker's files once nobody is there who wrote them.

Signatures and seals (`seal.py`) say who wrote a file. Workers of versions that made none have only
this: that what is said can be. Used by whoever acts on it, such as a recovery; not by the lean
supervisor, which keeps what it knows in memory.
"""

from __future__ import annotations

from typing import Any

from outpost_core import wire
from outpost_core.errors import UsageError
from outpost_core.names import check_branch, check_rig
from outpost_core.types import Order, Result
from outpost_shared import plausible
from outpost_worker.folder import files


def result(name: str, data: dict[str, Any]) -> Result:
    """Return the result that a file says, where all of it can be.

    Raises:
        Broken: it says what cannot be.
    """
    try:
        said = wire.from_json(Result, data)
    except (UsageError, RecursionError) as error:
        raise files.Broken(name, f"cannot be read: {error}") from None
    if odd := plausible.odd_result(said):
        raise files.Broken(name, f"says what cannot be as its {odd}")
    return said


def truth(folder: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the order as it is to be worked on, and `launch.json`, as they were published.

    Raises:
        Broken: they are not, or hold what no order can.
        OSError: nobody can say, since this process or its disk is in trouble.
    """
    order, launched, own = files.truth(folder)
    if own is not None:
        return order, launched
    try:
        shape = wire.to_json(wire.from_json(Order, order))
        assert isinstance(shape, dict)
        if shape["rig"] is not None:
            check_rig(str(shape["rig"]))
            check_branch(shape["delivery"]["branch"])  # type: ignore[index, call-overload, arg-type]
    except (UsageError, RecursionError) as error:
        raise files.Broken(files.ORDER, f"cannot be read: {error}") from None
    if not (_is_env(launched.get("env", {})) and _is_env(shape["env"])):
        raise files.Broken(files.LAUNCH, "holds what is no environment")
    return {**order, **shape}, launched


def _is_env(env: Any) -> bool:
    return isinstance(env, dict) and all(
        isinstance(value, str) and name and "\0" not in name + value and "=" not in name
        for name, value in env.items()
    )


def workspace(folder: str, order: dict[str, Any]) -> dict[str, Any] | None:
    """Return what is known of the working tree; None where none was made.

    Args:
        folder: the worker's folder.
        order: see `truth`.

    Raises:
        Broken: it was not written by the supervisor, or says what cannot be.
        OSError: nobody can say, since this process or its disk is in trouble.
    """
    space = files.believed(folder, files.WORKSPACE)
    if space is None:
        return None
    commits = [space.get(name) for name in ("base_commit", "start_commit", "remote_tip")]
    texts = [space.get(name) for name in ("base_branch", "rig")]
    branch, lacking = space.get("branch"), space.get("lacking", [])
    if not (
        order.get("rig") is not None
        and isinstance(branch, str)
        and plausible.branch(branch)
        and all(one is None or isinstance(one, str) for one in (*commits, *texts))
        and all(plausible.commit(one) for one in commits)
        and all(plausible.line(one) for one in texts)
        and isinstance(lacking, list)
        and all(isinstance(name, str) for name in lacking)
    ):
        raise files.Broken(files.WORKSPACE, "says what cannot be")
    return {"base_commit": None, "base_branch": None, "start_commit": None, **space}


def ended(folder: str) -> dict[str, Any] | None:
    """Return how the agent ended; None where its supervisor has not said that.

    Raises:
        OSError: nobody can say, since this process or its disk is in trouble.
    """
    try:
        said = files.believed(folder, files.AGENT)
        if said is None:
            return None
        whole = wire.to_json(result(files.AGENT, said))
    except files.Broken:  # whoever has written that
        return None
    assert isinstance(whole, dict)
    words = {name: said[name] for name in ("denied", "note") if isinstance(said.get(name), str)}
    return {**whole, **words}
