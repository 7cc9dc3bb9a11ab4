"""How something long says how far it is, to whoever waits for it, however deep it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_to: ContextVar[Callable[[str], None] | None] = ContextVar("outpost_report", default=None)


@contextmanager
def reporting(to: Callable[[str], None]) -> Iterator[None]:
    """Hand what is reported inside, also by tasks that are started there, to a function."""
    token = _to.set(to)
    try:
        yield
    finally:
        _to.reset(token)


def report(text: str) -> None:
    """Say how far it is, in a few words; nobody may be listening."""
    to = _to.get()
    if to is not None:
        to(text)
