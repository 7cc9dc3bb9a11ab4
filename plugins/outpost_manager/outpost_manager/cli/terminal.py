"""Foreign output on this terminal: colours stay, everything that could take it over is shown."""

from __future__ import annotations

import codecs
import re
from typing import Final

from outpost_manager.cli.render import clean

#: what an agent may do to a terminal: colour text (SGR), and CR, LF, tab.
_ALLOWED: Final = re.compile(r"\x1b\[[0-9;:]*m|[\r\n\t]")
#: the beginning of a colour whose rest may come in the next chunk.
_OPEN: Final = re.compile(r"\x1b(\[[0-9;:]{0,32})?\Z")
#: text that needs no look.
_PLAIN: Final = re.compile(r"[\x20-\x7e\r\n\t]*\Z")


class TerminalFilter:
    """Turns chunks of a log into text that is safe to print, whatever the chunks' borders."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, chunk: bytes, *, final: bool = False) -> str:
        """Return what can be shown so far.

        Args:
            chunk: the next bytes.
            final: nothing follows; what was held back is shown too.
        """
        text = self._rest + self._decoder.decode(chunk, final)
        self._rest = ""
        if not final and (found := _OPEN.search(text)):
            text, self._rest = text[: found.start()], found.group()
        if _PLAIN.match(text):
            return text
        shown, at = [], 0
        for allowed in _ALLOWED.finditer(text):
            shown += [clean(text[at : allowed.start()]), allowed.group()]
            at = allowed.end()
        return "".join([*shown, clean(text[at:])])
