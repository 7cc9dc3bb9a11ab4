"""Words with `*` and `?` that name outposts, repositories, labels and accounts.

The same pattern is looked for in Python and in SQL (GLOB), which have to agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache


def of_rig(word: str) -> tuple[str, ...]:
    """Return the patterns of a repository: a word without `/` and `:` is its last name."""
    if "/" in word or ":" in word:
        return (word,)
    return (word, *(f"*{before}{word}{end}" for before in "/:" for end in ("", ".git")))


def fits(value: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns names a value; case counts."""
    return any(_compiled(pattern).fullmatch(value) is not None for pattern in patterns)


def sql(column: str, patterns: Iterable[str]) -> tuple[str, list[str]]:
    """Return the SQL of `fits` for a column, and its arguments."""
    words, args = [], []
    for pattern in patterns:
        if "*" in pattern or "?" in pattern:
            words.append(f"{column} GLOB ?")
            args.append(pattern.replace("[", "[[]"))
        else:
            words.append(f"{column} = ?")
            args.append(pattern)
    return f"({' OR '.join(words)})", args


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    special = {"*": ".*", "?": "."}
    return re.compile("".join(special.get(char) or re.escape(char) for char in pattern), re.DOTALL)
