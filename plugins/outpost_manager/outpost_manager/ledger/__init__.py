"""The ledger: the durable record of orders, workers, decisions, events and money.

`ledger` is what the rest uses; `store` holds the file and its locks, `schema` the tables, `rows`
what a row means, `money` what a dollar is, `reserve`, `claims` and `record` the three kinds of
change to workers, `admission` what a reservation has to pass (`budgets`, `accounts`, `breakers`),
`outbox` the mail, `queue` what waits. Names load when they are first used: describing outposts
needs few of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outpost_manager.ledger.accounts import Account as Account
    from outpost_manager.ledger.admission import Outcome as Outcome
    from outpost_manager.ledger.asyncledger import AsyncLedger as AsyncLedger
    from outpost_manager.ledger.breakers import Breaker as Breaker
    from outpost_manager.ledger.budgets import Budget as Budget
    from outpost_manager.ledger.claims import Claim as Claim
    from outpost_manager.ledger.entries import Added as Added
    from outpost_manager.ledger.entries import Entry as Entry
    from outpost_manager.ledger.entries import QueueItem as QueueItem
    from outpost_manager.ledger.ledger import Ledger as Ledger
    from outpost_manager.ledger.ledger import OutpostNote as OutpostNote
    from outpost_manager.ledger.outbox import Letter as Letter
    from outpost_manager.ledger.outbox import Outbox as Outbox
    from outpost_manager.ledger.queue import Queue as Queue
    from outpost_manager.ledger.reserve import Answer as Answer
    from outpost_manager.ledger.reserve import Reservation as Reservation

_HOMES = {
    "Account": "accounts",
    "Added": "entries",
    "Answer": "reserve",
    "AsyncLedger": "asyncledger",
    "Breaker": "breakers",
    "Budget": "budgets",
    "Claim": "claims",
    "Entry": "entries",
    "Ledger": "ledger",
    "Letter": "outbox",
    "Outbox": "outbox",
    "Outcome": "admission",
    "OutpostNote": "ledger",
    "Queue": "queue",
    "QueueItem": "entries",
    "Reservation": "reserve",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"outpost_manager.ledger.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'outpost_manager.ledger' has no attribute {name!r}")
