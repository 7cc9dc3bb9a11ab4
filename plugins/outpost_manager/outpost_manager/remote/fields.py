"""Fields of a document from far away: each is looked at before it counts.

A key that is missing has its default: an older server does not say it. A value of the wrong type,
or one that is too large, makes the whole answer one that is not believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from math import isfinite
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: Characters of a text, rows of a list, and the largest number.
_LONGEST: Final = 8 << 20
_MOST_ROWS: Final = 1_000_000
_LARGEST: Final = 2**63


class NotBelievedError(ValueError):
    """A document says what none of ours says."""


class Fields:
    """An object of a document.

    Args:
        where: what it is, for errors.
        data: what was read.

    Raises:
        NotBelievedError: it is no object.
    """

    def __init__(self, where: str, data: object) -> None:
        if not isinstance(data, dict):
            raise NotBelievedError(f"{where} is no object")
        self.where = where
        self.data: dict[str, Any] = data

    @classmethod
    def of_answer(cls, data: object) -> Fields:
        """Return the fields of a whole answer."""
        return cls("the answer", data)

    def _wrong(self, key: str, what: str) -> NotBelievedError:
        return NotBelievedError(f"{self.where}: {key} is no {what}")

    def text(self, key: str, default: str = "") -> str:
        """Return a text."""
        found = self.text_or(key)
        return default if found is None else found

    def text_or(self, key: str) -> str | None:
        """Return a text, or None."""
        found = self.data.get(key)
        if found is None:
            return None
        if not isinstance(found, str) or len(found) > _LONGEST:
            raise self._wrong(key, "text")
        return found

    def whole(self, key: str, default: int = 0) -> int:
        """Return a whole number."""
        found = self.whole_or(key)
        return default if found is None else found

    def whole_or(self, key: str) -> int | None:
        """Return a whole number, or None."""
        found = self.data.get(key)
        if found is None:
            return None
        if type(found) is not int or not -_LARGEST <= found < _LARGEST:
            raise self._wrong(key, "whole number")
        return found

    def real(self, key: str, default: float = 0.0) -> float:
        """Return a number."""
        found = self.real_or(key)
        return default if found is None else found

    def real_or(self, key: str) -> float | None:
        """Return a number, or None."""
        found = self.data.get(key)
        if found is None:
            return None
        if type(found) not in (int, float) or not -_LARGEST <= found < _LARGEST:
            raise self._wrong(key, "number")
        return float(found)

    def flag(self, key: str) -> bool:
        """Return whether something is so."""
        found = self.data.get(key)
        if found is not None and not isinstance(found, bool):
            raise self._wrong(key, "truth")
        return bool(found)

    def moment(self, key: str) -> float:
        """Return a moment; 0 for none."""
        return self.moment_or(key) or 0.0

    def moment_or(self, key: str) -> float | None:
        """Return a moment, or None."""
        said = self.text_or(key)
        return None if said is None else self._moment(key, said)

    def moments(self, key: str) -> tuple[float, ...]:
        """Return a list of moments."""
        return tuple(self._moment(key, said) for said in self.words(key))

    def _moment(self, key: str, said: str) -> float:
        try:
            if len(said) > 40:
                raise ValueError
            at = datetime.fromisoformat(said)
            found = at.timestamp()
        except (ValueError, OverflowError, OSError):
            raise self._wrong(key, "moment") from None
        if at.tzinfo is None or not isfinite(found):
            raise self._wrong(key, "moment")
        return found

    def words(self, key: str) -> tuple[str, ...]:
        """Return a list of texts."""
        found = self._list(key)
        if not all(isinstance(word, str) for word in found):
            raise self._wrong(key, "list of texts")
        return tuple(found)

    def each(self, key: str, make: Callable[[object], T]) -> list[T]:
        """Return what is made of each of a list."""
        return [make(one) for one in self._list(key)]

    def one(self, key: str, make: Callable[[object], T]) -> T | None:
        """Return what is made of a value, or None."""
        found = self.data.get(key)
        return None if found is None else make(found)

    def objects(self, key: str) -> Iterator[Fields]:
        """Yield the objects of a list."""
        for one in self._list(key):
            yield Fields(f"{self.where}: {key}", one)

    def within(self, key: str) -> Fields:
        """Return an object that is a value of this one."""
        return Fields(f"{self.where}: {key}", self.data.get(key))

    def mapping(self, key: str) -> dict[str, Any]:
        """Return a value that is an object, as it is; empty for none."""
        found = self.data.get(key)
        if found is not None and not isinstance(found, dict):
            raise self._wrong(key, "object")
        return found or {}

    def _list(self, key: str) -> list[Any]:
        found = self.data.get(key)
        if found is None:
            return []
        if not isinstance(found, list) or len(found) > _MOST_ROWS:
            raise self._wrong(key, "list")
        return found
