"""Follows an agent's output while it comes: its JSON lines go to the agent's reader.

Between these lines there may be the agent's standard error, anything at all, and the end may be
cut off. Nothing here raises on what is read, and memory stays bounded by `LINE_LIMIT`.
"""

from __future__ import annotations

import time

from outpost_agents.lines import LINE_LIMIT, parse
from outpost_shared.plain import open_plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from outpost_agents.account import Account

#: Seconds between two showings of what the agent has used so far, and between two looks at what
#: it writes beside its output.
SHOW_EVERY = 3.0


class Follower:
    """Cuts a stream into lines and hands those that count on.

    Args:
        account: is told of them.

    Attributes:
        defect: what went wrong with the first line that its reader could not take.
    """

    def __init__(self, account: Account) -> None:
        self.account = account
        self.defect: Exception | None = None
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if not self._skipping:
                self._line(line)
            self._skipping = False
        if len(self._rest) >= LINE_LIMIT:
            self._rest, self._skipping = b"", True

    def close(self) -> None:
        """Take what is left: a last line without an end."""
        if self._rest and not self._skipping:
            self._line(self._rest)
        self._rest = b""

    def _line(self, line: bytes) -> None:
        needles = self.account.reader.needles
        if needles is None or any(needle in line for needle in needles):
            found = parse(line)
            if found is not None:
                try:
                    self.account.see(found)
                    if self.account.final:
                        self.account.usage()  # what is told as the whole is not unsaid later
                except Exception as error:  # noqa: BLE001 - the next line may be a better one
                    self.defect = self.defect or error
                return
        if not line.startswith(b"{"):
            self.account.plain(line)


class Watch:
    """What the supervisor of an agent with a known output has to do because of what it says.

    Args:
        account: of its output.
        limits: of the order.

    Attributes:
        shown: what the agent had used at the last look; None while nothing is known.
        defect: what went wrong in reading, first; it continues all the same.
    """

    def __init__(self, account: Account, limits: Mapping[str, Any]) -> None:
        self.account = account
        self._follower = Follower(account)
        self._grace = float(limits.get("final_grace", 60.0))
        self._budget: float | None = limits.get("max_agent_cost_usd")
        self._final_at = 0.0
        self._spent = False
        self._asked = ""
        self.shown: dict[str, Any] | None = None
        self.defect: Exception | None = None
        self._show_at = time.monotonic() + SHOW_EVERY

    def feed(self, data: bytes) -> None:
        """Take what the agent printed; a defect here is no reason to end its work."""
        self._follower.feed(data)
        self.defect = self.defect or self._follower.defect
        self._safely(self._take_note)

    def news(self) -> bool:
        """Look what the agent has used so far and asks; whether that is new."""
        self._show_at = time.monotonic() + SHOW_EVERY
        before = self.shown, self._asked
        self._safely(self._look)
        self._asked = self.question
        return (self.shown, self._asked) != before

    def _look(self) -> None:
        if not self.account.final:
            self.account.look()
        self._take_note()
        self.shown = self.account.usage()

    def _safely(self, step: Callable[[], object]) -> None:
        """Do a step of reading; what goes wrong in it is noted in the end, whatever it is."""
        try:
            step()
        except Exception as error:  # noqa: BLE001
            self.defect = self.defect or error

    @property
    def final(self) -> bool:
        """Whether the agent has reported its end, as far as it has said."""
        return self.account.final

    @property
    def question(self) -> str:
        """What the agent waits for a person to answer; "" while it does not."""
        return self.account.question

    def due(self) -> list[tuple[float, str]]:
        """Return what is to be done, and at which moment."""
        due = [(self._show_at, "usage")]
        if self._final_at and self._grace:
            due.append((self._final_at + self._grace, "final"))
        if self._spent:
            due.append((0.0, "budget_reached"))
        return due

    def close(self, log: str) -> dict[str, Any]:
        """Return what the agent said, all in all; see `outpost_agents.account.Account.answer`.

        Args:
            log: path of the worker's log.
        """
        self._follower.close()
        self.defect = self.defect or self._follower.defect
        if not self.account.final:
            self._safely(self.account.look)
        self._safely(lambda: self._end(log))
        try:
            return self.account.answer()
        except Exception as error:  # noqa: BLE001
            self.defect = self.defect or error
            from outpost_agents.registry import PLAIN, account

            return account(PLAIN).answer()

    def _end(self, log: str) -> None:
        try:
            with open(open_plain(log), "rb") as file:
                self.account.end(file)
        except OSError:
            pass

    def _take_note(self) -> None:
        if not self.account.final:
            self._final_at = 0.0
            if self._budget is not None:
                cost = (self.account.usage() or {}).get("cost_usd") or 0.0
                self._spent = cost > 0 and cost >= self._budget
        elif not self._final_at:  # what is done is done, whatever it cost
            self._final_at = time.monotonic()
            self._spent = False
