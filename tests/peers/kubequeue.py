"""A stand-in for Kueue: its objects as they are defined, and a thread that admits Jobs.

Kueue itself (`peers.kueue`) is for labs of one's own, and decides itself. This one is told whom to
admit and whom to evict, in a cluster that others use too. What is seen from outside is what Kueue
does with Jobs that have its label: it makes a Workload for each, says in its conditions why it
waits, and lets the Job go on or suspends it again.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from peers.kubeapi import Api, ApiError
from peers.kueue import GROUP, true

#: The label of a Job that says in which queue it waits.
QUEUE: Final = f"{GROUP}/queue-name"
_API: Final = f"/apis/{GROUP}/v1beta2"
#: The kinds that it needs.
KINDS: Final = ("clusterqueues", "localqueues", "resourceflavors", "workloads")
_EVER: Final = "2026-01-01T00:00:00Z"
_POLL: Final = 0.1


class Queue:
    """A LocalQueue and its ClusterQueue, and who admits to it. Made by `Lab.kueue`.

    Attributes:
        name: of the LocalQueue.
        slots: how many Jobs may run at once.
    """

    def __init__(self, admin: Api, namespace: str, name: str, slots: int) -> None:
        self.name = name
        self.slots = slots
        self._admin = admin
        self._namespace = namespace
        self._cluster_queue = f"{namespace}-{name}"
        self._jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self._workloads = f"{_API}/namespaces/{namespace}/workloads"
        self._evicted: dict[str, str] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._failed: BaseException | None = None

    def evict(self, job: str, message: str = "Preempted to accommodate a workload") -> None:
        """Suspend a Job that was admitted; it waits until `readmit`."""
        self._evicted[job] = message

    def readmit(self, job: str) -> None:
        """Let a Job that was evicted be admitted again."""
        self._evicted.pop(job, None)

    def __enter__(self) -> Self:
        spec = {"resourceGroups": [], "namespaceSelector": {}}
        whole = {"apiVersion": f"{GROUP}/v1beta2", "kind": "ClusterQueue"}
        meta = {"metadata": {"name": self._cluster_queue}}
        self._admin.post(f"{_API}/clusterqueues", {**whole, **meta, "spec": spec})
        self._admin.post(
            f"{_API}/namespaces/{self._namespace}/localqueues",
            {
                "apiVersion": f"{GROUP}/v1beta2", "kind": "LocalQueue",
                "metadata": {"name": self.name}, "spec": {"clusterQueue": self._cluster_queue},
            },
        )  # fmt: skip
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._admin.delete(f"{_API}/clusterqueues/{self._cluster_queue}")
        if self._failed:
            raise self._failed

    def _run(self) -> None:
        while not self._over.wait(_POLL):
            try:
                self._look()
            except OSError:
                continue
            except ApiError as error:  # 404, 409: a Job that has just gone, or changed
                if error.status not in (404, 409, 429) and error.status < 500:
                    self._failed = error
                    return

    def _look(self) -> None:
        label = f"{QUEUE}={self.name}"
        jobs = self._admin.get(self._jobs, labelSelector=label)["items"]
        jobs.sort(key=lambda job: (job["metadata"]["creationTimestamp"], job["metadata"]["name"]))
        there = {one["metadata"]["name"]: one for one in self._admin.get(self._workloads)["items"]}
        free = self.slots
        for job in jobs:
            name = f"job-{job['metadata']['name']}"[:63]
            workload = there.get(name) or self._admin.post(self._workloads, self._new(name, job))
            if {"Complete", "Failed"} & true(job):
                self._say(workload, {"Finished": ("True", "Succeeded", "Job finished")})
                continue
            evicted = self._evicted.get(job["metadata"]["name"])
            if evicted is None and free > 0:
                free -= 1
                self._admit(job, workload)
            else:
                self._hold(job, workload, evicted)

    def _admit(self, job: Mapping[str, Any], workload: Mapping[str, Any]) -> None:
        given = f"Quota reserved in ClusterQueue {self._cluster_queue}"
        self._say(
            workload,
            {
                "QuotaReserved": ("True", "QuotaReserved", given),
                "Admitted": ("True", "Admitted", "The workload is admitted"),
                "Evicted": ("False", "QuotaReserved", given),
            },
            {
                "clusterQueue": self._cluster_queue,
                "podSetAssignments": [{"name": "main", "count": 1}],
            },
        )
        self._suspend(job, suspended=False)

    def _hold(
        self, job: Mapping[str, Any], workload: Mapping[str, Any], evicted: str | None
    ) -> None:
        waits = (
            "couldn't assign flavors to pod set main: insufficient unused quota for cpu in flavor "
            "default-flavor, 1 more needed"
        )
        said = {
            "QuotaReserved": ("False", "Pending", evicted or waits),
            "Admitted": ("False", "NoReservation", "The workload has no reservation"),
        }
        if evicted:
            said["Evicted"] = ("True", "Preempted", evicted)
        self._suspend(job, suspended=True)
        self._say(workload, said)

    def _new(self, name: str, job: Mapping[str, Any]) -> dict[str, Any]:
        meta = job["metadata"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"],
                 "uid": meta["uid"], "controller": True, "blockOwnerDeletion": True}  # fmt: skip
        spec = {
            "restartPolicy": "Never",
            "containers": job["spec"]["template"]["spec"]["containers"],
        }
        pods = {"name": "main", "count": 1, "template": {"spec": spec}}
        return {
            "apiVersion": f"{GROUP}/v1beta2", "kind": "Workload",
            "metadata": {"name": name, "ownerReferences": [owner],
                         "labels": {f"{GROUP}/job-uid": meta["uid"]}},
            "spec": {"queueName": self.name, "podSets": [pods], "active": True},
        }  # fmt: skip

    def _say(
        self,
        workload: Mapping[str, Any],
        said: Mapping[str, Sequence[str]],
        admission: Mapping[str, Any] | None = None,
    ) -> None:
        before = workload.get("status", {})
        conditions = {one["type"]: one for one in before.get("conditions", [])}
        for kind, (status, reason, message) in said.items():
            conditions[kind] = {"type": kind, "status": status, "reason": reason,
                                "message": message, "lastTransitionTime": _EVER}  # fmt: skip
        told = [conditions[kind] for kind in sorted(conditions)]
        finished = "Finished" in said
        kept = before.get("admission") if finished else admission
        if told == before.get("conditions") and bool(kept) == bool(before.get("admission")):
            return
        path = f"{self._workloads}/{workload['metadata']['name']}/status"
        self._admin.patch(path, {"status": {"conditions": told, "admission": kept}})

    def _suspend(self, job: Mapping[str, Any], *, suspended: bool) -> None:
        if bool(job["spec"].get("suspend")) != suspended:
            path = f"{self._jobs}/{job['metadata']['name']}"
            self._admin.patch(path, {"spec": {"suspend": suspended}})
