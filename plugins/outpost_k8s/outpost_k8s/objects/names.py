"""What a worker's objects are called and marked with at the cluster. Pure."""

from __future__ import annotations

import hashlib
import re
from typing import Final

#: Words of labels and annotations; https://kubernetes.io/docs/reference/labels-annotations-taints/
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
NAME: Final = "app.kubernetes.io/name"
MANAGER: Final = "outpost"
WORKER_NAME: Final = "outpost-worker"
QUEUE: Final = "kueue.x-k8s.io/queue-name"
SAFE_TO_EVICT: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict"
DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"

#: Label: which worker it is, by the hash of its id.
WORKER: Final = "outpost/worker"
#: Annotations: id, digest of the order, id of the ledger that ordered it, hash of the Job's spec,
#: what of the order a later command needs, the grace of a stop that was asked for, and whether its
#: repository travels.
ID: Final = "outpost/id"
DIGEST: Final = "outpost/digest"
OWNER: Final = "outpost/owner"
SPEC: Final = "outpost/spec"
ORDER: Final = "outpost/order"
STOP: Final = "outpost/stop"
#: Annotation: who asked for that stop, for people.
STOPPED_BY: Final = "outpost/stopped-by"
HOSTED: Final = "outpost/hosted"

#: Beginnings of keys of labels and annotations that are Outpost's own.
OWN_PREFIXES: Final = ("outpost/", "outpost.")

#: What all of a namespace's workers are found by.
SELECTOR: Final = f"{MANAGED_BY}={MANAGER},{NAME}={WORKER_NAME}"

#: The container's name, and the user and group that the image runs as.
CONTAINER: Final = "worker"
USER: Final = 10001

_SLUG: Final = 36
_NOT_IN_SLUGS: Final = re.compile(r"[^a-z0-9]+")


def job_name(worker: str) -> str:
    """Return the name of a worker's Job and Secret: a DNS label of at most 55 characters.

    A pod's name is the Job's with six characters behind it, and has 63.

    Args:
        worker: its id; any text has a name, and two ids never the same one.
    """
    slug = _NOT_IN_SLUGS.sub("-", worker.lower())[:_SLUG].strip("-")
    return "-".join(part for part in ("outpost", slug, worker_hash(worker)) if part)


def worker_hash(worker: str) -> str:
    """Return the value of the label WORKER: 10 hex digits of the SHA-256 of the id."""
    return hashlib.sha256(worker.encode(errors="surrogatepass")).hexdigest()[:10]


def worker_selector(worker: str) -> str:
    """Return what one worker's Job, pods and Secret are found by."""
    return f"{SELECTOR},{WORKER}={worker_hash(worker)}"
