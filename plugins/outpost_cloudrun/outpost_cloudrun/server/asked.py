"""The body of `POST /work`: another program wrote it, so it is looked at before it counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from outpost_cloudrun.server.seedorder import seed_order
from outpost_cloudrun.server.settings import Settings
from outpost_core import wire
from outpost_core.errors import SpawnRefusedError, UnsupportedError, UsageError
from outpost_core.names import check_branch, check_rig
from outpost_core.types import Json, Order, Secrets, check_env_name
from outpost_shared.protocol import FrameError, decode
from outpost_worker.serving.request import Params, flag, number, secrets_of, word

#: How deep lists and objects may be in each other.
MOST_DEPTH: Final = 40
#: The largest number of a line and offset into a log that can be meant.
_LARGEST: Final = 2**53
#: Seconds that a worker may have left, at most: 400 days.
_MOST_LEFT: Final = 400 * 86400.0
#: Longest id of a claim.
_MOST_CLAIM: Final = 200
#: Legs of one worker.
_MOST_LEGS: Final = 10_000


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a caller wants worked on.

    Args:
        order: the order, with the values of its secrets.
        git_credentials: what git logs in with; "" for nothing.
        after: the number of the last line that the caller has.
        offset: bytes of the log that the caller has.
        leg: which of the worker's legs this is to be, from 1.
        take_over: the id of a claim whose owner was silent for too long; "" for none.
        seen: the sign of life that the caller has seen last of that owner; "" for any.
        attach: nothing is to be started, only to be found.
        timeout_left: seconds that the agent may still run; None: as the order says.
    """

    order: Order
    git_credentials: str = field(default="", repr=False)
    after: int = 0
    offset: int = 0
    leg: int = 1
    take_over: str = ""
    seen: str = ""
    attach: bool = False
    timeout_left: float | None = None


def parse(body: bytes, settings: Settings) -> Asked:
    """Return what a body asks for.

    Raises:
        UsageError: it is not what can be asked.
        SpawnRefusedError: the order is understood differently here and there.
    """
    params = json_object(body)
    try:
        return _parse(params, settings)
    except RecursionError:
        raise UsageError("the request is nested too deep") from None


def json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body.

    Raises:
        UsageError: it is none, or one that no program of ours could hold.
    """
    try:
        params = decode(body)
    except FrameError as error:
        raise UsageError(f"the request cannot be read: {error}") from None
    _check_text(params)
    return params


def _parse(params: Params, settings: Settings) -> Asked:
    issue, rig = word(params, "issue_id"), _maybe(params, "rig_url")
    beads, context = _maybe(params, "beads_url"), params.get("context") or {}
    if not isinstance(context, dict):
        raise UsageError("`context` of the request is no object")
    attach = flag(params, "attach")
    if "order" in params:
        order = _whole_order(params, attach=attach)
        _check_agreement(order, issue, rig, context)
    else:
        order = seed_order(settings, issue, rig, beads, context)
    check(order)
    left = params.get("timeout_left")
    return Asked(
        order=order,
        git_credentials=_maybe(params, "git_credentials"),
        after=_whole(params, "after"),
        offset=_whole(params, "offset"),
        leg=max(_whole(params, "leg", 1, _MOST_LEGS), 1),
        take_over=_short(params, "take_over"),
        seen=_short(params, "seen"),
        attach=attach,
        timeout_left=None if left is None else number(params, "timeout_left", _MOST_LEFT),
    )


def _whole_order(params: Params, *, attach: bool) -> Order:
    secrets = secrets_of(params)
    order = wire.from_json(Order, params["order"])
    if not attach:  # who only looks for it need not know their values any more
        if set(order.secrets) != set(secrets):
            raise UsageError("the names of `secrets` are not those of the order")
        order = dataclasses.replace(order, secrets=Secrets(secrets))
    said = params.get("digest")
    if said is not None and said != wire.digest(order):
        raise SpawnRefusedError(
            f"the order of {order.worker} is understood differently here and there; nothing was"
            " started",
            hint="let the container's image and your Outpost be of the same version",
        )
    return order


def _check_agreement(order: Order, issue: str, rig: str, context: Mapping[str, Json]) -> None:
    """Refuse an order that is not the one that the four words beside it tell of."""
    for name, agrees in (
        ("issue_id", issue == order.issue.id),
        ("rig_url", rig == (order.rig or "")),
        ("context", not context or context == dict(order.context)),
    ):
        if not agrees:
            raise UsageError(f"`{name}` of the request is not what its `order` says")


def check(order: Order) -> None:
    """Refuse an order that no worker of a container could take.

    Raises:
        UsageError: something in it is wrong.
        UnsupportedError: it needs what a container has not.
    """
    if order.agent.interactive:
        raise UnsupportedError(
            f"{order.worker} wants a terminal, and there is none in a container",
            hint="run it headless, or at an outpost of type local or ssh",
        )
    if not order.agent.argv or not order.agent.argv[0]:
        raise UsageError("the agent's command is empty")
    if not 1 <= order.attempt < 1_000_000:
        raise UsageError(f"attempt {order.attempt} is not a number from 1 to 999999")
    if (order.rig is None) != (order.delivery is None):
        raise UsageError("an order has a `rig` and a `delivery`, or neither")
    if order.rig is not None and order.delivery is not None:
        check_rig(order.rig)
        check_branch(order.delivery.branch)
        if order.delivery.push_url:
            check_rig(order.delivery.push_url)
    for name in (*order.env, *order.agent.env, *order.secrets):
        check_env_name(name)
    limits = order.limits
    amounts: tuple[float | None, ...] = (
        *(limits.timeout, limits.idle_timeout, limits.log_bytes, limits.grace),
        *(limits.checkpoint_every, limits.final_grace, limits.max_agent_cost_usd),
    )
    if any(amount is not None and not 0 <= amount <= _LARGEST for amount in amounts):
        raise UsageError("a limit of the order is not a number from 0 on")
    if order.depth is not None and order.depth < 1:
        raise UsageError(f"depth {order.depth} is not a number from 1 on")


def _check_text(value: Json) -> None:
    """Refuse text that no file, argument or variable could hold, and what is nested too deep.

    Raises:
        UsageError: there is some.
    """
    waiting: list[tuple[Json, int]] = [(value, 1)]
    while waiting:
        one, depth = waiting.pop()
        if isinstance(one, str):
            _check_one(one)
        elif isinstance(one, dict | list):
            if depth > MOST_DEPTH:
                raise UsageError(f"the request is nested deeper than {MOST_DEPTH} levels")
            inner = [*one, *one.values()] if isinstance(one, dict) else one
            waiting += [(each, depth + 1) for each in inner]
        elif isinstance(one, int) and abs(one) > _LARGEST:
            raise UsageError("a number of the request is too large")


def _check_one(text: str) -> None:
    if "\0" in text:
        raise UsageError("the request holds a NUL character")
    if not text.isascii():
        try:
            text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise UsageError("the request holds half of a character") from None


def _maybe(params: Params, name: str) -> str:
    """Return a text; "" where it is missing or null."""
    return "" if params.get(name) is None else word(params, name)


def _short(params: Params, name: str) -> str:
    value = _maybe(params, name)
    if len(value) > _MOST_CLAIM or not value.isprintable():
        raise UsageError(f"`{name}` of the request is no short word")
    return value


def _whole(params: Params, name: str, default: int = 0, most: int = _LARGEST) -> int:
    value = number(params, name, most, default)
    if value != int(value):
        raise UsageError(f"`{name}` of the request is no whole number")
    return int(value)
