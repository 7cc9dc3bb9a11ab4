"""Asks the warm process for supervisors, and has one started where that is worth it.

Whatever goes wrong here is no error: what is not said to have been started is for the caller to
start in the plain way.
"""

from __future__ import annotations

import _socket
import os
import time

from outpost_shared.backoff import every
from outpost_worker.folder import publish
from outpost_worker.warm import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Spawn = Callable[[Sequence[str], Mapping[str, str]], object]

#: So many launches within that many seconds make a warm process worth its start.
_WORTH = 3
_LATELY = 5.0
#: Seconds that a launch waits for one that is only just starting, and between two looks.
_PAUSE = 0.01
_LOOK = 0.002
#: Seconds for an answer; and for which whoever gave none is not asked again.
_PATIENCE = 3.0
_AVOID = 10.0
#: Seconds after which another one may be started, and for which a name is taken for right.
_AGAIN = 5.0
_NAMED = 1.0
#: Workers in one packet, and bytes of an answer.
_MANY = 32
_PACKET = 16 * 1024
#: What it says of itself where people look at processes; and room for the command line of a
#: supervisor, which is longer.
_ABOUT = (
    "starts supervisors of the workers in that folder, knows nothing, and ends when nobody has"
    " asked it for one for a few seconds"
).ljust(180, ".")


class Warm:
    """The warm process of one state root, as those see it that launch workers.

    Args:
        root: the state root.
        spawn: starts a detached process, from its arguments and its whole environment.
    """

    def __init__(self, root: str, spawn: Spawn) -> None:
        self._root = os.path.abspath(root)
        self._spawn = spawn
        self._launches: list[float] = []  # moments (monotonic)
        self._env: Mapping[str, str] = {}
        self._name, self._named_at = "", 0.0
        self._spawned_at: dict[str, float] = {}
        self._avoid_until = 0.0

    def start(self, workers: Sequence[str], env: Mapping[str, str]) -> set[str]:
        """Have supervisors started for the first of these workers, which are published.

        Args:
            workers: their ids.
            env: the environment that the supervisors are to have.

        Returns:
            Those whose supervisors were started; all others are for the caller to start.
        """
        now = time.monotonic()
        self._launches = [at for at in self._launches if at > now - _LATELY]
        if len(self._launches) + len(workers) < _WORTH or now < self._avoid_until:
            self._launches.append(now)
            return set()
        try:
            caller = self._reach(env, now)
        except OSError:
            caller = None
        if caller is None:
            self._launches.append(now)
            return set()
        try:
            caller.send("\n".join(workers[:_MANY]).encode())
            answer = caller.recv(_PACKET).decode("utf-8", "replace")
        except OSError:  # it has ended, or hangs; what it has started all the same is claimed once
            self._avoid_until = time.monotonic() + _AVOID
            return set()
        finally:
            caller.close()
        started = set(answer.split("\n")) & set(workers)
        self._launches += [now] * len(started)
        return started

    def _reach(self, env: Mapping[str, str], now: float) -> _socket.socket | None:
        """Connect to the warm process; one that is missing is started, and not waited for long."""
        if now > self._named_at + _NAMED or env != self._env or not self._name:
            self._name, self._named_at = place.name(self._root, env), now
            self._env = dict(env)
        path = place.path(self._root, self._name)
        caller = _connect(path)
        if caller is not None:
            return caller
        if now > self._spawned_at.get(self._name, -_AGAIN) + _AGAIN:
            self._spawned_at = {self._name: now}
            words = [*publish.interpreter(), "warm", self._root, self._name, _ABOUT]
            self._spawn(words, env)
        for _ in every(_LOOK, within=_PAUSE).tries():
            caller = _connect(path)
            if caller is not None:
                break
        return caller


def _connect(path: str) -> _socket.socket | None:
    caller = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    caller.settimeout(_PATIENCE)
    try:
        caller.connect(path)
    except OSError:
        caller.close()
        return None
    if place.peer(caller) != os.geteuid():
        caller.close()
        return None
    return caller
