"""What the commands of this package answer with `--json`, for the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from outpost_mayor import shapes
from outpost_mayor.commands import simulate

SHAPES: Final[Mapping[str, Any]] = {**shapes.SHAPES, "simulate": simulate.SHAPE}
