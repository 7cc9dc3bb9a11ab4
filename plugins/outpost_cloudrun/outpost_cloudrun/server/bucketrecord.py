"""Records and logs in a bucket; and the command by which a supervisor asks for its claim.

    python -I -m outpost_cloudrun.server.bucketrecord PLACE CLAIM HOSTS [COMMIT:REF]

says with code 0 that a claim stands, with 3 that it does not, and with 1 that nobody can say; with
a push, it leaves word of that (`outpost_worker.record.standing`). PLACE is `gs://BUCKET…` or the
path of a volume.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Final

from outpost_cloudrun.server.bucket import Bucket, PreconditionError
from outpost_shared import faults
from outpost_worker.container import ask
from outpost_worker.record.cells import (
    MOST,
    MOST_OBJECT,
    Cell,
    Cells,
    Kept,
    MovedError,
    Objects,
)
from outpost_worker.record.kinds import Claim, Record
from outpost_worker.record.stored import StoredRecord
from outpost_worker.record.volume import VolumeCells, VolumeObjects

_GS: Final = "gs://"
#: What leads to the bucket, as far as this machine is not Google's.
_HOSTS: Final = ("STORAGE_EMULATOR_HOST", "GCE_METADATA_HOST")


class BucketCells:
    """Cells in a bucket; see `Cells`. A version is the object's generation.

    Args:
        bucket: the bucket.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def look(self, names: Sequence[str]) -> dict[str, Cell]:
        """Return what is in those cells that are not empty."""
        there = {name: self._bucket.get(name, MOST) for name in names}
        return {n: Cell(version=one[0], data=one[1]) for n, one in there.items() if one is not None}

    def swap(self, name: str, before: str, data: bytes) -> str:
        """Put a value into a cell."""
        try:
            version = self._bucket.insert(name, data, before or "0")
        except PreconditionError:
            raise MovedError(name) from None
        faults.point("record.pushed")
        return version

    def drop(self, name: str, before: str) -> None:
        """Empty a cell."""
        try:
            self._bucket.delete(name, before)
        except PreconditionError:
            raise MovedError(name) from None

    def where(self, name: str) -> tuple[str, str]:
        """Return what a cell is called, and the command that removes it."""
        address = self._bucket.where(name)
        return address, f"gcloud storage rm {address}"


class BucketObjects:
    """Objects in a bucket; see `Objects`.

    Args:
        bucket: the bucket.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def put(self, name: str, data: bytes) -> bool:
        """Make an object that is not there."""
        try:
            self._bucket.insert(name, data, "0")
        except PreconditionError:
            return False
        faults.point("record.pushed")
        return True

    def get(self, name: str) -> bytes | None:
        """Return what is in an object."""
        found = self._bucket.get(name, MOST_OBJECT)
        return found[1] if found else None

    def names(self, folder: str, start: str = "") -> list[Kept]:
        """Return the objects in a folder, in order."""
        there = self._bucket.list(f"{folder}/", f"{folder}/{start}" if start else "")
        kept = [Kept(each.name[len(folder) + 1 :], each.size) for each in there]
        return [each for each in kept if "/" not in each.name]

    def drop(self, name: str) -> None:
        """Remove an object."""
        self._bucket.delete(name)


def records(
    place: str,
    owner: str = "",
    environ: Mapping[str, str] | None = None,
    access: Callable[[bool], str] | None = None,
) -> Record:
    """Return the records at a place.

    Args:
        place: `gs://BUCKET`, perhaps with a folder, or the path of a volume.
        owner: id of the ledger that ordered the workers.
        environ: see `Bucket`.
        access: likewise.

    Raises:
        UsageError: it is no place.
    """
    return _stored(place, owner, environ, access)


def logs(
    place: str,
    environ: Mapping[str, str] | None = None,
    access: Callable[[bool], str] | None = None,
) -> Objects:
    """Return where logs are kept at a place; see `records`."""
    return (
        BucketObjects(Bucket(place, environ, access))
        if place.startswith(_GS)
        else VolumeObjects(place)
    )


def command(place: str, claim: Claim, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return `ask` of `standing.launched`: the command that says whether a claim stands.

    It runs in a folder that an agent has written, so Python looks for nothing there (`-I`).

    Args:
        place: see `records`.
        claim: the claim.
        environ: what leads to the bucket, see `Bucket`: the command has an agent's environment.
    """
    environ = os.environ if environ is None else environ
    hosts = {name: environ[name] for name in _HOSTS if environ.get(name)}
    words = [json.dumps(about, separators=(",", ":")) for about in (asdict(claim), hosts)]
    return [sys.executable, "-I", "-m", __spec__.name, place, *words]


def main(place: str, said: str, hosts: str, push: str = "") -> int:
    """Say whether a claim stands; returns the exit code, and says why on stderr.

    Args:
        place: see `records`.
        said: the claim's JSON.
        hosts: that of what leads to the bucket.
        push: the commit and the ref of a push that is about to begin; "" for none.
    """
    return ask.answer(said, push, lambda claim: _stored(place, claim.owner, json.loads(hosts)))


def _stored(
    place: str,
    owner: str,
    environ: Mapping[str, str] | None,
    access: Callable[[bool], str] | None = None,
) -> StoredRecord:
    bucket = place.startswith(_GS)
    cells: Cells = BucketCells(Bucket(place, environ, access)) if bucket else VolumeCells(place)
    return StoredRecord(cells, owner)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
