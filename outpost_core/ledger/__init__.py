"""The ledger: the durable record of orders, workers, decisions, events and money.

`book` is what the rest uses; `store` holds the file and its locks, `schema` the tables, `rows`
what a row means, `reserve`, `claims` and `record` the three kinds of change.
"""

from __future__ import annotations

from outpost_core.ledger.book import Ledger, OutpostNote
from outpost_core.ledger.claims import Claim
from outpost_core.ledger.reserve import HOUR, Answer, Outcome, Reservation

__all__ = ["HOUR", "Answer", "Claim", "Ledger", "Outcome", "OutpostNote", "Reservation"]
