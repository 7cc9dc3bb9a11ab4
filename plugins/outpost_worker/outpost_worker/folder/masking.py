"""Takes the values of secrets out of a stream of bytes, also where they cross its pieces."""

from __future__ import annotations

from outpost_shared.leanjson import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: What stands in the log in place of a secret.
MASK = b"***"
#: Shorter values would blot out ordinary text and are not masked.
SHORTEST = 4
#: Lines of a longer secret (a private key) are masked one by one from this length on.
SHORTEST_LINE = 8


def patterns(values: Iterable[str]) -> list[bytes]:
    """Return what to look for: each value as it is, inside a JSON string, and line by line."""
    found: set[bytes] = set()
    for value in values:
        forms = {value, dumps(value)[1:-1]}
        lines = value.splitlines()
        if len(lines) > 1:
            forms.update(line.strip() for line in lines if len(line.strip()) >= SHORTEST_LINE)
        found.update(form.encode("utf-8", "surrogateescape") for form in forms)
    return sorted((form for form in found if len(form) >= SHORTEST), key=len, reverse=True)


class Masker:
    """Masks a stream: the same output however the stream is cut into pieces.

    At each place the longest pattern that fits is taken, from left to right. Bytes that may be
    the beginning of a secret are held back until it is clear.

    Args:
        values: the secrets.
    """

    def __init__(self, values: Iterable[str]) -> None:
        self._patterns = patterns(values)
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Return what can be shown after `data` came in."""
        if not self._patterns:
            return data
        data = self._held + data
        out, place = self._replace(data, len(data) - self._open_end(data))
        self._held = data[place:]
        return out

    def close(self) -> bytes:
        """Return what was held back; nothing more comes."""
        out, place = self._replace(self._held, len(self._held))
        out += self._held[place:]
        self._held = b""
        return out

    def mask(self, text: str) -> str:
        """Return a whole text without secrets."""
        data = text.encode("utf-8", "surrogateescape")
        out, place = self._replace(data, len(data))
        return (out + data[place:]).decode("utf-8", "surrogateescape")

    def _open_end(self, data: bytes) -> int:
        """Return the length of the longest end of `data` that a pattern begins with."""
        longest = min(len(data), max(map(len, self._patterns)) - 1)
        for length in range(longest, 0, -1):
            end = data[-length:]
            if any(len(p) > length and p.startswith(end) for p in self._patterns):
                return length
        return 0

    def _replace(self, data: bytes, limit: int) -> tuple[bytes, int]:
        """Mask what begins before `limit`; return it and where the rest begins."""
        out = []
        place = 0
        found = {pattern: data.find(pattern) for pattern in self._patterns}
        while True:
            best = -1
            hit = b""
            for pattern, at in found.items():  # longest first, so the first at a place wins
                if 0 <= at < place:
                    at = found[pattern] = data.find(pattern, place)  # noqa: PLW2901
                if at >= 0 and (best < 0 or at < best):
                    best, hit = at, pattern
            if best < 0 or best >= limit:
                break
            out += [data[place:best], MASK]
            place = best + len(hit)
        end = max(place, limit)
        out.append(data[place:end])
        return b"".join(out), end
