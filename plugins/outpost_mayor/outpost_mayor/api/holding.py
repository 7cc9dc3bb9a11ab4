"""How much of the API one caller may hold at once, so that others have theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from outpost_core.errors import OutpostError

#: Requests of one token that are answered at once. A client of ours asks a hundred at most, so
#: that a wait for many workers is none too many.
REQUESTS: Final = 128
#: Bytes of bodies that one token may have the mayor keep at once.
BYTES: Final = 16 << 20


class TooManyError(OutpostError):
    """A caller holds as much as he may."""

    exit_code = 3


@dataclass
class _Mine:
    requests: int = 0
    bytes: int = 0


class Holding:
    """What each caller holds."""

    def __init__(self) -> None:
        self._of: dict[str, _Mine] = {}

    @contextmanager
    def request(self, caller: str) -> Iterator[Callable[[int], None]]:
        """Count a request of a caller while the block is entered.

        Args:
            caller: name of his token.

        Yields:
            What counts so many more bytes of its body; raises as this does.

        Raises:
            TooManyError: he holds as much as he may.
        """
        mine = self._of.setdefault(caller, _Mine())
        if mine.requests >= REQUESTS:
            raise TooManyError(
                f"{REQUESTS} requests of this token are answered already", hint="try again later"
            )
        mine.requests += 1
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if mine.bytes + size > BYTES:
                raise TooManyError(
                    f"requests of this token bring more than {BYTES >> 20} MiB at once",
                    hint="try again later",
                )
            mine.bytes += size
            taken += size

        try:
            yield take
        finally:
            mine.requests -= 1
            mine.bytes -= taken
            if not mine.requests:
                self._of.pop(caller, None)
