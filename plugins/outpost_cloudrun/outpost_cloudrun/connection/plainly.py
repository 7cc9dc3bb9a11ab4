"""Why a connection failed, in words, and without the numbers of the operating system."""

from __future__ import annotations

import os
import re
import ssl
from typing import Final

#: asyncio puts several failures into one text: each has its number.
_NUMBER: Final = re.compile(r"\[Errno (\d+)\]")


def plainly(error: BaseException) -> str:
    """Return why a connection failed.

    Args:
        error: what the operating system or asyncio raised.
    """
    said = str(error) or type(error).__name__
    if not isinstance(error, OSError) or isinstance(error, ssl.SSLError):
        return said
    found = [error.errno] if error.errno else [int(one) for one in _NUMBER.findall(said)]
    words = dict.fromkeys(os.strerror(number) for number in found if number > 0)
    return ", ".join(words) or error.strerror or said  # a name that is not found has its own words
