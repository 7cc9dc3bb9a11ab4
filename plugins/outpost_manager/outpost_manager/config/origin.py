"""Where a value of the configuration was written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a value was written.

    Args:
        file: the file as the user knows it; "" for what is built in.
        line: 1-based; 0 for what is built in.
        column: 1-based; 0 for what is built in.
    """

    file: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.file else "built in"


BUILT_IN: Final = Origin()
