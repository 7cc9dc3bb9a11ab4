"""What a place for records has to offer: cells, and objects.

A *cell* has a value that is exchanged only from the value that was seen (compare and swap); records
are in cells. An *object* is made once and never changes; logs are in objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

#: Bytes that a value may have; what is larger is not ours.
MOST: Final = 1 << 20
#: Bytes that an object may have.
MOST_OBJECT: Final = 16 << 20


class MovedError(Exception):
    """A cell does not have the version that was expected; nothing was changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What is in a cell.

    Args:
        version: of the value; another one for each that was ever there.
        data: the value; None when it is nothing of ours (too large, of another kind).
    """

    version: str
    data: bytes | None


class Cells(Protocol):
    """Named cells. Names are of letters, digits, `.`, `_`, `-` and `/`.

    Each call raises `UnreachableError` where the place cannot be asked.
    """

    def look(self, names: Sequence[str]) -> dict[str, Cell]:
        """Return what is in those cells that are not empty."""
        ...

    def swap(self, name: str, before: str, data: bytes) -> str:
        """Put a value into a cell, once it was seen there.

        Args:
            name: the cell.
            before: the version that it has; "" for an empty one.
            data: the value; no two are ever the same.

        Returns:
            Its version.

        Raises:
            MovedError: the cell has another version.
            RecordRefusedError: the place does not take it.
        """
        ...

    def drop(self, name: str, before: str) -> None:
        """Empty a cell.

        Args:
            name: the cell.
            before: the version that it has.

        Raises:
            MovedError: the cell has another version.
            RecordRefusedError: the place does not let it go.
        """
        ...

    def where(self, name: str) -> tuple[str, str]:
        """Return what a person knows a cell by, and the command that removes it; for errors."""
        ...


class Kept(NamedTuple):
    """An object of a folder: its name there, and its size in bytes."""

    name: str
    size: int


class Objects(Protocol):
    """Objects in folders. Each call raises `UnreachableError` where the place cannot be asked."""

    def put(self, name: str, data: bytes) -> bool:
        """Make an object that is not there; whether it was made by this call.

        Raises:
            RecordRefusedError: the place does not take it.
        """
        ...

    def get(self, name: str) -> bytes | None:
        """Return what is in an object; None where there is none, or none of ours."""
        ...

    def names(self, folder: str, start: str = "") -> list[Kept]:
        """Return the objects in a folder, in order.

        Args:
            folder: without a `/` at its end.
            start: only those whose name there is this or comes after it.
        """
        ...

    def drop(self, name: str) -> None:
        """Remove an object; fine when it is not there."""
        ...
