"""A token, and for how long it can be used."""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from dataclasses import dataclass, field
from typing import Final

from outpost_core.errors import UnreachableError

#: Seconds before its end from which on a token is renewed: what google-auth takes
#: (`google.auth._helpers.REFRESH_THRESHOLD`), and the longest that Google's clocks and ours differ.
MARGIN: Final = 225.0
#: Seconds that a token lives whose life nobody tells: Google gives an hour.
USUAL: Final = 3600.0
#: A token is put into a header: printable, without spaces, and not endless.
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]{8,16384}")
#: Seconds that a clock may be wrong before it is taken for wrong.
_TOLERANCE: Final = 300.0
#: No clock shows that (2100), and no token lives as long.
_LATEST: Final = 4_102_444_800


@dataclass(frozen=True)
class Token:
    """What is shown to a server. Its value is in no repr.

    Args:
        value: the token.
        end: on this machine's monotonic clock, when it is no longer valid.
        got: on the same clock, when it was asked for.
    """

    value: str = field(repr=False)
    end: float
    got: float

    def lives(self, margin: float = MARGIN) -> bool:
        """Whether it is valid for more than `margin` seconds."""
        return time.monotonic() + margin < self.end


def access(value: str, life: float, *, whose: str) -> Token:
    """Return an access token that lives `life` seconds.

    Raises:
        UnreachableError: it is none.
    """
    now = time.monotonic()
    return Token(_checked(value, whose), now + max(0.0, min(life, 86_400.0)), now)


def identity(value: str, *, skew: float | None, whose: str) -> Token:
    """Return an ID token (a JWT, OpenID Connect Core 1.0, section 2), whose life it says itself.

    Args:
        value: the token.
        skew: seconds that the clock of who gave it is ahead of ours, if that is known.
        whose: who gave it, for messages.

    Raises:
        UnreachableError: it is none.
    """
    now = time.monotonic()
    claims = read_claims(_checked(value, whose))
    issued, ends = number(claims.get("iat")), number(claims.get("exp"))
    if issued is None or ends is None:
        return Token(value, now + USUAL, now)
    here = time.time() + (skew or 0.0)
    life = ends - here
    if skew is None and not issued - _TOLERANCE <= here < ends:
        # Our clock is wrong, so nothing can be told but how long it lives altogether.
        life = ends - issued
    return Token(value, now + max(0.0, min(life, 86_400.0)), now)


def number(said: object) -> float | None:
    """Return a number of seconds that can be; None for anything else."""
    return float(said) if isinstance(said, int | float) and 0 <= said < _LATEST else None


def read_claims(value: str) -> dict[str, object]:
    """Return what a JWT says, unverified; {} for anything else."""
    parts = value.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _checked(value: str, whose: str) -> str:
    if not _PRINTABLE.fullmatch(value):
        raise UnreachableError(f"{whose} gave something that is not a token", sent=False)
    return value
