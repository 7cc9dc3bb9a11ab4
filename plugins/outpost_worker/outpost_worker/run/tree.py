"""The process tree of an agent: seen, reaped, and ended as a whole.

The supervisor is the subreaper: whatever double-forks or calls `setsid` becomes its child when
its parent ends, so "no child is left" means that nothing of the agent is left.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not `signal`: see process.py
import os
import time

from outpost_shared import process
from outpost_worker.system.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from outpost_worker.fence.start import Fenced
    from outpost_worker.run.forked import Stage
    from outpost_worker.system.loop import Loop

#: Seconds between TERM and KILL for what an agent leaves behind.
LEFTOVER_GRACE = 2.0
#: Seconds between two KILLs, and after which a process that does not die is left to the system.
_KILL_AGAIN = 0.05
_KILL_PATIENCE = 30.0


class Tree:
    """Everything below the supervisor, but for its own helpers.

    Args:
        loop: turned while it waits for ends.

    Attributes:
        agent: pid of the agent, 0 before it runs.
        life: descriptors that no forked stage may keep.
        status: the agent's wait status, once it has ended.
        helpers: forked stages of the supervisor, with all below them no part of the tree.
        kill_at: moment (monotonic) at which KILL follows TERM; 0 when nothing is being ended.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._childless = True
        self._init = 0  # the first process of the agent's namespace, which collects for us
        self._told = -1
        self._last: int | None = None
        self.agent = 0
        self.life: tuple[int, ...] = ()
        self.status: int | None = None
        self.helpers: list[Stage] = []
        self.kill_at = 0.0

    def grown(self) -> None:
        """Know that a child was started."""
        self._childless = False

    def follow(self, fenced: Fenced) -> None:
        """Learn the agent's end from the first process of its namespace."""
        self.agent = fenced.pid
        if fenced.init:
            self._init, self._told, self.life = fenced.init, fenced.told, (fenced.life,)
            self._loop.add(self._told, READ, self._hear)

    def _hear(self) -> None:
        """Read what that one tells: the agent's wait status, and whether it was the last."""
        said = os.read(self._told, 64)
        if said:
            status, alone = said.split()
            self._last = int(status)
            if alone == b"0":  # else that process ends now, and is waited for
                self.status = self._last
        else:
            self._loop.remove(self._told)
            os.close(self._told)
            self._told = -1

    def reap(self) -> None:
        """Collect the children that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._childless = True
                return
            if pid == 0:
                return
            if pid == self._init:
                if self._told >= 0:
                    self._hear()
                # without a word it was killed, and the agent with it
                self.status = status if self._last is None else self._last
            elif pid == self.agent:
                self.status = status
            for stage in self.helpers:
                if stage.pid == pid:
                    stage.status = status

    def living(self) -> list[process.Proc]:
        """Return all living processes of the tree."""
        if self._childless:
            return []
        helpers = [stage.pid for stage in self.helpers]
        return process.below([os.getpid()], process.everyone(), helpers)

    def terminate(self, grace: float) -> None:
        """Ask the whole tree to end; KILL is due after `grace` seconds."""
        _terminate(self.living())
        self.kill_at = time.monotonic() + grace

    def hurry(self, grace: float) -> None:
        """Let KILL be due after `grace` seconds at the latest, when TERM was sent."""
        if self.kill_at:
            self.kill_at = min(self.kill_at, time.monotonic() + grace)

    def kill_when_due(self) -> None:
        """Kill the whole tree when its time has come, again and again until it is gone."""
        now = time.monotonic()
        if now >= self.kill_at:
            process.send_all(self.living(), _signal.SIGKILL)
            self.kill_at = now + _KILL_AGAIN

    def end(self, grace: float) -> None:
        """End all that is left, and wait for it.

        Args:
            grace: seconds between TERM and KILL, unless KILL is due already.
        """
        asked: set[tuple[int, int]] = set()
        give_up = None
        while procs := self.living():
            now = time.monotonic()
            self.kill_at = self.kill_at or now + grace
            # again and again, since some may have been forked while we looked
            _terminate([proc for proc in procs if (proc.pid, proc.start) not in asked])
            asked.update((proc.pid, proc.start) for proc in procs)
            if now >= self.kill_at:
                give_up = give_up or now + _KILL_PATIENCE
                if now > give_up:
                    return  # not even KILL ends a process that waits for a dead disk
            self.kill_when_due()
            self._loop.turn(_KILL_AGAIN)
            self.reap()
        self.kill_at = 0.0


def _terminate(procs: list[process.Proc]) -> None:
    process.send_all(procs, _signal.SIGTERM)
    process.send_all(procs, _signal.SIGCONT)  # a stopped process hears nothing
