"""A Kubernetes cluster for tests and for trying things out, of this machine alone.

`.ci/kubelab` builds its programs. A *lab* is one such cluster that runs: a real etcd, API server,
controller manager and scheduler; nodes that kwok plays; and, where root may make one, a node with a
real kubelet, containerd and runc. As root, all of it is in namespaces of its own, which end with
their first process: no process, mount, or network card can outlive it.

plan.py          what one lab is: its addresses, ports, folders, options
certificates.py  who is who in it
parts.py         the command line of each part, and the files that it reads
keeper.py        the first process in the namespaces: starts, watches, kills; listens on a socket
guard.py         stays outside: makes the namespaces and the cable to them, and cleans up
client.py        starts a lab, and speaks with its keeper
__main__.py      scripts/kube-lab

Only the standard library is imported: any Python 3.11 runs it.
"""
