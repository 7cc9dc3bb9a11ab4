"""What this instance knows of each worker that runs by a claim, for its own next start.

One file a worker, `<root>/claims/<worker>.json`. It is there before anything is claimed, so that
a program that is killed right after its claim asks with the same one again, and never takes
itself for another instance.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from outpost_core import wire
from outpost_core.errors import UsageError
from outpost_core.types import Result, split_worker_id
from outpost_shared import faults, jsonfiles, private
from outpost_worker.folder import files
from outpost_worker.record.kinds import Claim

#: Below the state folder.
CLAIMS: Final = "claims"


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a worker that runs by a claim.

    Args:
        claim: the claim.
        base: bytes of its log that were printed before it was on this instance.
        result: how it ended, once its record says so.
    """

    claim: Claim
    base: int = 0
    result: Result | None = None


class Claims:
    """The files of one state folder.

    Args:
        root: the state folder.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / CLAIMS

    def write(self, known: Known) -> None:
        """Write down what is known of a worker.

        Raises:
            OSError: it could not be written.
        """
        private.make(str(self._folder))
        about: dict[str, Any] = {"claim": dataclasses.asdict(known.claim), "base": known.base}
        if known.result is not None:
            about["result"] = wire.to_json(known.result)
        jsonfiles.store(str(self._folder), f"{known.claim.worker}.json", about, sync=True)
        faults.point("server.settled" if known.result is not None else "server.noted")

    def read(self, worker: str) -> Known | None:
        """Return what is known of a worker; None for nothing."""
        about = jsonfiles.load(str(self._folder), f"{worker}.json")
        if about is None:
            return None
        try:
            said = about.get("result")
            return Known(
                claim=Claim(**about["claim"]),
                base=int(about["base"]),
                result=None if said is None else wire.from_json(Result, said),
            )
        except (KeyError, TypeError, ValueError, UsageError):
            return None

    def keep_login(self, worker: str, text: str) -> str:
        """Keep the logins of a rig's URLs for asking its record; return the path, as `Git` has it.

        Args:
            worker: whose.
            text: URLs with user and password, as git's credential store has them.
        """
        private.make(str(self._folder))
        files.write(str(self._folder / f"{worker}.login"), f"{text}\n".encode())
        return str(self._folder / f"{worker}.login")

    def login(self, worker: str) -> str:
        """Return the path of a login that is kept; "" for none."""
        path = self._folder / f"{worker}.login"
        return str(path) if path.exists() else ""

    def forget(self, worker: str) -> None:
        """Know nothing of a worker any more."""
        for kind in ("json", "login"):
            (self._folder / f"{worker}.{kind}").unlink(missing_ok=True)

    def workers(self) -> list[str]:
        """Return the workers of which something is known."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for entry in self._folder.iterdir():
                if entry.suffix == ".json":
                    with contextlib.suppress(UsageError):
                        split_worker_id(entry.stem)
                        found.append(entry.stem)
        return found
