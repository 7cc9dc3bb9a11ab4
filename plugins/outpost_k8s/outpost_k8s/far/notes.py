"""What the two programs of a pod tell each other: `run`, which works, and `serve`, which is asked.

::

    <root>/pod/state.json      by run: the worker, its order's digest, and what it waits for
    <root>/pod/brought.json    by serve: the repository of the machine that ordered is here
    <root>/pod/stop.json       by serve: the worker is to end, whether it is there yet or not
    <root>/pod/collected.json  by serve: its work was fetched, so nothing is waited for any more
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from outpost_shared import faults, jsonfiles, private

_FOLDER: Final = "pod"
_STATE: Final = "state.json"
_BROUGHT: Final = "brought.json"
_STOP: Final = "stop.json"
_COLLECTED: Final = "collected.json"

#: What `run` can be at.
WAITING: Final = "waiting"  # for its repository to be brought
CLAIMING: Final = "claiming"
WORKING: Final = "working"
ENDING: Final = "ending"  # the worker has ended, and that is put on record
LINGERING: Final = "lingering"  # for its work to be fetched
ENDED: Final = "ended"


class Notes:
    """The notes of one pod.

    Args:
        root: the state folder.
    """

    def __init__(self, root: Path) -> None:
        self._folder = str(root / _FOLDER)

    # --- by run ---------------------------------------------------------------------------------

    def say(self, phase: str, **about: Any) -> None:
        """Say what is done now; what was said of other things before stays.

        Raises:
            OSError: it cannot be written.
        """
        private.make(self._folder)
        said = {**self.state(), **about, "phase": phase, "since": time.time()}
        jsonfiles.store(self._folder, _STATE, said)

    def brought(self) -> str | None:
        """Return whose the repository is that was brought; None before it is here."""
        said = self._load(_BROUGHT)
        return None if said is None else str(said.get("controller", ""))

    def stop(self) -> float | None:
        """Return the grace in seconds of a stop that was asked for; None for none."""
        said = self._load(_STOP)
        if said is None:
            return None
        grace = said.get("grace")
        return max(float(grace), 0.0) if isinstance(grace, int | float) else 0.0

    def collected(self) -> bool:
        """Whether the work was fetched."""
        return self._load(_COLLECTED) is not None

    # --- by serve -------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what `run` has said last; empty before it has said anything."""
        return self._load(_STATE) or {}

    def note_brought(self, controller: str) -> None:
        """Write down that the repository is here.

        Args:
            controller: whose it is, see `Hosting.controller`.

        Raises:
            OSError: as `say`.
        """
        self._note(_BROUGHT, {"controller": controller})
        faults.point("pod.brought")

    def note_stop(self, grace: float) -> None:
        """Write down that the worker is to end. Raises as `say` does."""
        self._note(_STOP, {"grace": grace})
        faults.point("pod.stop_noted")

    def note_collected(self) -> None:
        """Write down that the work was fetched. Raises as `say` does."""
        self._note(_COLLECTED, {})
        faults.point("pod.collected")

    # --- inside ---------------------------------------------------------------------------------

    def _note(self, name: str, about: dict[str, Any]) -> None:
        private.make(self._folder)
        jsonfiles.store(self._folder, name, {**about, "at": time.time()}, sync=True)

    def _load(self, name: str) -> dict[str, Any] | None:
        try:
            return jsonfiles.load(self._folder, name)
        except OSError:  # it is looked at again
            return None
