"""A place with objects that are made once and never change: what logs are kept in."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

#: Bytes that an object may have.
MOST_OBJECT: Final = 16 << 20


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
