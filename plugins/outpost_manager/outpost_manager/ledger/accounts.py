"""Accounts: which one a reservation may use, by what each has taken.

USD of an account are held like a budget's: the worst case is reserved. Nobody can foresee tokens,
so with these an account takes nothing more once its limit is reached, and what runs goes on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from outpost_manager.ledger import money, values
from outpost_manager.ledger.budgets import ENDED, OPEN, WINDOWS

if TYPE_CHECKING:
    from outpost_manager.ledger.values import Ask

#: Seconds by which a parking may have been written in the future; more was another clock's.
_SLACK: Final = 5.0
_AGENT: Final = f"max({values.counted('w.agent_reserved')}, {values.counted('w.agent_spent')})"
_TAKEN: Final = f"SELECT count(*), coalesce(sum({_AGENT}), 0) FROM {OPEN}"  # noqa: S608
_SPENT: Final = values.counted("w.agent_settled")
#: What a worker used is in its result, or was last seen.
_TOKENS: Final = (
    "coalesce(sum(iif(json_valid({0}), min(coalesce(CAST(json_extract({0}, '{1}.input_tokens') AS"
    " INTEGER), 0) + coalesce(CAST(json_extract({0}, '{1}.output_tokens') AS INTEGER), 0),"
    " 1000000000000), 0)), 0)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """An account as reservations are held to it.

    Args:
        name: what messages call it.
        max_workers: workers at a time; None for no limit.
        usd: limits of what its agents may spend, each with the window's word.
        tokens: limits of the tokens that they use, likewise.
    """

    name: str
    max_workers: int | None = None
    usd: tuple[tuple[str, float], ...] = ()
    tokens: tuple[tuple[str, int], ...] = ()

    @property
    def limited(self) -> bool:
        """Whether anything has to be counted."""
        return bool(self.max_workers is not None or self.usd or self.tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What an account has taken.

    Args:
        workers: how many use it now.
        held: nano-dollars that their agents may spend.
        spent: nano-dollars that agents spent which ended within a window, by its word.
        tokens: tokens that were used within a window, by its word; those of running agents count.
    """

    workers: int
    held: int
    spent: dict[str, int]
    tokens: dict[str, int]


def taken(ask: Ask, account: Account, now: float, besides: str = "") -> Taken:
    """Return what an account has taken, of what it has a limit for.

    Args:
        ask: asks the ledger.
        account: which one.
        now: seconds since the epoch.
        besides: a worker that does not count.
    """
    ((workers, held),) = ask(f"{_TAKEN} AND w.account = ? AND w.id <> ?", (account.name, besides))
    return Taken(
        workers=workers,
        held=held,
        spent={w: _spent(ask, account.name, now - WINDOWS[w]) for w, _ in account.usd},
        tokens={w: _used(ask, account.name, now - WINDOWS[w]) for w, _ in account.tokens},
    )


def obstacle(
    ask: Ask, account: Account, worst: int | None, now: float, besides: str = ""
) -> tuple[str, float | None]:
    """Say why an account takes no more, and until when if that is known; "" when it does.

    Args:
        ask: asks the ledger.
        account: which one.
        worst: nano-dollars that the agent spends at worst; None when nobody knows.
        now: seconds since the epoch.
        besides: a worker whose own reservation does not count.
    """
    if not account.limited:
        return "", None
    has = taken(ask, account, now, besides)
    name = f"account {account.name}"
    if account.max_workers is not None and has.workers >= account.max_workers:
        return f"{name}: {has.workers} of {account.max_workers} workers use it", None
    for window, usd in account.usd:
        if worst is None:
            return f"{name}: its limit in USD could not be kept", None
        cap, used = money.nano(usd, f"the limit of {name}"), has.held + has.spent[window]
        if used + worst > cap:
            until = (
                None
                if has.held + worst > cap
                else _leaves(ask, account.name, now, WINDOWS[window], used + worst - cap)
            )
            return (
                f"{name}: {money.show(used)} of {money.show(cap)} a {window} are reserved or"
                f" spent, and this may spend {money.show(worst)}"
            ), until
    for window, most in account.tokens:
        if has.tokens[window] >= most:
            return f"{name}: {has.tokens[window]:,} of {most:,} tokens a {window} are used", None
    return "", None


def parked(ask: Ask, account: str, model: str, now: float) -> tuple[str, float]:
    """Say until when an account takes nothing for a model, and why; "" when it is not parked."""
    found = ask(
        "SELECT until, reason FROM parked WHERE account = ? AND model IN ('', ?) AND until > ?"
        " AND since <= ? ORDER BY until DESC LIMIT 1",
        (account, model, now, now + _SLACK),
    )
    if not found:
        return "", 0.0
    until, reason = values.number(found[0][0]) or 0.0, values.text(found[0][1])
    clock = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(until))
    return f"account {account} is parked until {clock}: {reason}", until


def in_use(ask: Ask) -> dict[str, int]:
    """Return how many workers use each account now."""
    found = ask(f"SELECT w.account, count(*) FROM {OPEN} AND w.account <> '' GROUP BY 1", ())  # noqa: S608
    return {values.text(account): number for account, number in found}


def _spent(ask: Ask, name: str, since: float) -> int:
    ((spent,),) = ask(
        f"SELECT coalesce(sum({_SPENT}), 0) FROM {ENDED} AND w.account = ?",  # noqa: S608
        (since, name),
    )
    return int(spent)


def _leaves(ask: Ask, name: str, now: float, length: float, more: int) -> float | None:
    """Return when so much of what was spent has left a window."""
    for ended_at, spent in ask(
        f"SELECT w.ended_at, {_SPENT} FROM {ENDED} AND w.account = ? ORDER BY w.ended_at",  # noqa: S608
        (now - length, name),
    ):
        more -= spent
        if more <= 0:
            at = values.number(ended_at)
            return None if at is None else at + length
    return None


def _used(ask: Ask, name: str, since: float) -> int:
    ((running,),) = ask(
        f"SELECT {_TOKENS.format('w.usage', '$')} FROM {OPEN} AND w.account = ?",  # noqa: S608
        (name,),
    )
    ((ended,),) = ask(
        f"SELECT {_TOKENS.format('r.body', '$.usage')} FROM workers w"  # noqa: S608
        " JOIN results r ON r.worker = w.id WHERE w.account = ? AND w.ended_at > ?",
        (name, since),
    )
    return int(running) + int(ended)
