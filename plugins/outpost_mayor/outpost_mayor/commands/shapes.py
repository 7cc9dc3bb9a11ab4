"""What the commands of this package answer with `--json`, for the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from outpost_mayor.commands import batch, queue, simulate

SHAPES: Final[Mapping[str, Any]] = {
    **queue.SHAPES,
    "batch": batch.SHAPE,
    "simulate": simulate.SHAPE,
}
