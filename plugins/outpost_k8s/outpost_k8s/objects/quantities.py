"""Amounts as Kubernetes writes them: `500m` cores, `4Gi`."""

from __future__ import annotations

import math
import re
from typing import Final

_QUANTITY: Final = re.compile(
    r"(\+?[0-9]{1,18}(?:\.[0-9]{0,18})?)([eE][+-]?[0-9]{1,2}|[KMGTPE]i|[numkMGTPE]?)", re.ASCII
)
_UNITS: Final = {
    "": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3,
    "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    **{f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", 1)},
}  # fmt: skip


def cores(count: float) -> str:
    """Return cores as a quantity: `2`, `500m`; rounded up to a thousandth."""
    thousandths = math.ceil(round(count * 1000, 6))
    return str(thousandths // 1000) if thousandths % 1000 == 0 else f"{thousandths}m"


def size(count: int) -> str:
    """Return bytes as a quantity, exactly: `4Gi`, `512Mi`, `1000`."""
    for unit, power in (("Gi", 30), ("Mi", 20), ("Ki", 10)):
        if count and count % (1 << power) == 0:
            return f"{count >> power}{unit}"
    return str(count)


def amount(quantity: object) -> float | None:
    """Return what a quantity of the API says, in its base unit; None when it is none.

    Syntax: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    if isinstance(quantity, int | float) and not isinstance(quantity, bool):
        return float(quantity)
    match = _QUANTITY.fullmatch(quantity) if isinstance(quantity, str) else None
    if match is None:
        return None
    unit = match[2]
    return float(match[1]) * (_UNITS[unit] if unit in _UNITS else 10.0 ** int(unit[1:]))
