"""What Outpost calls things at Google: the same for the same work, within Google's limits.

Names of services and instances have at most 49 characters, labels at most 63 of
`a-z 0-9 _ -` (https://cloud.google.com/run/docs/configuring/services/labels); a job's name and its
`startExecutionToken` together fewer than 63.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

#: Longest name of a service, an instance, and of a job of ours.
LONGEST: Final = 49
#: Every job of ours has one execution, which is named by this.
TOKEN: Final = "w1"  # noqa: S105 - a suffix, and no secret
#: Labels of everything that runs a worker.
WORKER: Final = "outpost-worker"
OWNER: Final = "outpost-owner"
DIGEST: Final = "outpost-digest"
#: Characters of a digest or hash that a label shows: 160 bits.
_SHOWN: Final = 40
_LABEL: Final = 63
_HASH: Final = 10


def worker_name(service: str, worker: str, owner: str) -> str:
    """Return the name of the job or instance of one worker, the same each time.

    Two workers never have the same: what is not legible of them is in a hash.

    Args:
        service: the option `service`, which names begin with.
        worker: the worker's id.
        owner: id of the ledger that ordered it.
    """
    said = hashlib.sha256(f"{owner}\n{worker}".encode()).hexdigest()[:_HASH]
    head = _plain(f"{service or 'outpost'}-{worker}")[: LONGEST - _HASH - 1].rstrip("-")
    return f"{head}-{said}"


def _plain(text: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return plain if plain[:1].isalpha() else f"o-{plain}".rstrip("-")


def worker_labels(worker: str, owner: str, digest: str) -> dict[str, str]:
    """Return the labels that say whose a job or instance is, and what it is to do."""
    return {WORKER: label(worker), OWNER: label(owner), DIGEST: label(digest)[:_SHOWN]}


def label(text: str) -> str:
    """Return a text as the value of a label; what does not fit is told apart by a hash."""
    plain = re.sub(r"[^a-z0-9_-]", "-", text.lower())
    if plain == text and len(plain) <= _LABEL:
        return plain
    said = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:_HASH]
    return f"{plain[: _LABEL - _HASH - 1]}-{said}"


def same_digest(labels: Mapping[str, str], digest: str) -> bool:
    """Whether labels are of the order with that digest."""
    return labels.get(DIGEST) == label(digest)[:_SHOWN]
