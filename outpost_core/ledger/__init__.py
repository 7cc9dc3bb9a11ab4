"""The ledger: the durable record of orders, workers, decisions, events and money.

`book` is what the rest uses; `store` holds the file and its locks, `schema` the tables, `rows`
what a row means, `money` what a dollar is, `reserve`, `claims` and `record` the three kinds of
change to workers, `outbox` the mail. Names load when they are first used: describing outposts needs
few of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outpost_core.ledger.book import Ledger as Ledger
    from outpost_core.ledger.book import OutpostNote as OutpostNote
    from outpost_core.ledger.claims import Claim as Claim
    from outpost_core.ledger.outbox import Letter as Letter
    from outpost_core.ledger.outbox import Outbox as Outbox
    from outpost_core.ledger.reserve import Answer as Answer
    from outpost_core.ledger.reserve import Outcome as Outcome
    from outpost_core.ledger.reserve import Reservation as Reservation

_HOMES = {
    "Answer": "reserve",
    "Claim": "claims",
    "Ledger": "book",
    "Letter": "outbox",
    "Outbox": "outbox",
    "Outcome": "reserve",
    "OutpostNote": "book",
    "Reservation": "reserve",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"outpost_core.ledger.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'outpost_core.ledger' has no attribute {name!r}")
