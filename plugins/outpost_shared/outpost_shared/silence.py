"""When the other side of a channel is taken for dead: one rule, and the numbers that belong to it.

A line that was cut somewhere in between ends without a word. So the rule is: **whoever owes a word
and was not heard of for so long is gone.** A server owes the answers that were asked for, once they
are due; a client owes a sign of life, when its hello promised one. Who owes nothing may be silent
for ever. Any byte counts: on a slow line a long answer is a sign of life as well.

A worker never depends on this (law 2): what is dead is a channel, and the next question opens
another.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

#: Seconds after which a server is gone that owes an answer, for a call that is given up anyway. TCP
#: sends a lost packet again after 0.2, 0.6, 1.4 and 3 s (RFC 6298, with Linux's smallest timeout),
#: so that a line that lost a few has spoken again until then.
ANSWER: Final = 5.0
#: Seconds after which a client is gone that promised signs of life. Long: a laptop that slept for
#: a moment comes back to the same server, and a server that waits costs nothing.
CLIENT: Final = 300.0
#: Signs of life that a client gives in that time: some may be late or lost.
SIGNS: Final = 5
#: So many times SSH itself asks in vain whether a host is there (`ServerAliveCountMax` of OpenSSH)
#: before its connection is dropped: that notices a dead host while nobody asks for anything.
UNANSWERED: Final = 3


class Silence:
    """How long a side that owes a word was not heard of.

    Args:
        heard: tells when the last byte came (`time.monotonic`).
        due: seconds from now on until the word is owed: a request that waits for something may be
            unanswered for as long.
    """

    def __init__(self, heard: Callable[[], float], due: float = 0.0) -> None:
        self._heard = heard
        self._since = time.monotonic() + due

    @property
    def seconds(self) -> float:
        """Seconds of silence until now; negative before a word is owed."""
        return time.monotonic() - max(self._since, self._heard())

    def restart(self) -> None:
        """Count from now on: we did not listen ourselves until now."""
        self._since = time.monotonic()
