"""What to say of a word that is not one of the allowed ones."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed word that `word` was most likely meant to be, or None."""
    from difflib import get_close_matches

    by_folded = {choice.casefold().replace("-", "_"): choice for choice in allowed}
    found = get_close_matches(word[:100].casefold().replace("-", "_"), by_folded, n=1, cutoff=0.6)
    return by_folded[found[0]] if found else None


def suggest(word: str, allowed: Iterable[str]) -> str:
    """Return the next step after `word`: the nearest allowed word, else all of them."""
    choices = list(allowed)
    near = nearest(word, choices)
    if near is not None:
        return f"did you mean {near!r}?"
    shown = ", ".join(choices[:30]) + (", …" if len(choices) > 30 else "")
    return f"allowed: {shown}" if choices else ""
