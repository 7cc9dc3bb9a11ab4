"""The command by which a supervisor asks for its claim where records are on a volume.

    python -I -m outpost_worker.container.ask PATH CLAIM [COMMIT:REF]

says with code 0 that a claim stands, with 3 that it does not, and with 1 that nobody can say; with
a push, it leaves word of that (`record.standing`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict

from outpost_core.errors import OutpostError
from outpost_worker.record import standing
from outpost_worker.record.kinds import Claim, SupersededError
from outpost_worker.record.stored import StoredRecord
from outpost_worker.record.volume import VolumeCells


def command(path: str, claim: Claim) -> list[str]:
    """Return `ask` of `standing.launched`: the command that says whether a claim stands.

    It runs in a folder that an agent has written, so Python looks for nothing there (`-I`).

    Args:
        path: of the volume, see `places.on_volume`.
        claim: the claim.
    """
    said = json.dumps(asdict(claim), separators=(",", ":"))
    return [sys.executable, "-I", "-m", __spec__.name, path, said]


def main(path: str, said: str, push: str = "") -> int:
    """Say whether a claim stands; returns the exit code, and says why on stderr.

    Args:
        path: of the volume.
        said: the claim's JSON.
        push: the commit and the ref of a push that is about to begin; "" for none.
    """
    return answer(said, push, lambda claim: StoredRecord(VolumeCells(path), claim.owner))


def answer(said: str, push: str, record_of: Callable[[Claim], StoredRecord]) -> int:
    """Say whether a claim stands, as `main` does.

    Args:
        said: as of `main`.
        push: likewise.
        record_of: returns the record of a claim.
    """
    try:
        claim = Claim(**json.loads(said))
        record = record_of(claim)
        if push:
            record.note_push(claim, push)
        else:
            record.standing(claim)
    except SupersededError as error:
        print(error.message, file=sys.stderr)
        return standing.SUPERSEDED
    except (OutpostError, TypeError, ValueError) as error:
        print(getattr(error, "message", "") or str(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
