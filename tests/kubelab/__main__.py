"""`scripts/kube-lab`: a Kubernetes cluster on this machine, to try things out."""

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Final

from kubelab.client import Client, LabError, start, tools
from kubelab.plan import Options

_USAGE: Final = """\
up      start a cluster, and print how programs find it
down    end it; nothing is left of it
status  say whether it runs
env     print the line that tells a shell where it is: eval "$(scripts/kube-lab env)"
load    load an image from an archive that docker or podman saved
"""


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        prog="kube-lab", description=_USAGE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("do", choices=("up", "down", "status", "env", "load"))
    parser.add_argument("archive", nargs="?", help="for load")
    parser.add_argument("--name", default="default", help="one of several labs (default: default)")
    parser.add_argument("--fake-nodes", type=int, default=2, help="nodes that kwok plays (2)")
    parser.add_argument("--no-real-node", action="store_true", help="no kubelet and containerd")
    asked = parser.parse_args()
    try:
        _do(asked)
    except LabError as error:
        sys.exit(f"kube-lab: {error}")


def _do(asked: argparse.Namespace) -> None:
    folder = _folder(asked.name)
    client = _connect(folder)
    if asked.do == "up":
        if client is None:
            shutil.rmtree(folder, ignore_errors=True)  # of a machine that lost its power
            options = Options(fake_nodes=asked.fake_nodes, real_node=not asked.no_real_node)
            client = start(folder, options, leased=False, programs=tools())
        _tell(client)
    elif asked.do == "status":
        for part, pid in client.status()["parts"].items() if client else ():
            print(f"{part:<12} {'runs' if pid else 'does not run'}")
        if client is None:
            sys.exit("no lab runs; scripts/kube-lab up")
    elif asked.do == "down":
        if client is not None:
            client.down()
    elif client is None:
        sys.exit("kube-lab: no lab runs; scripts/kube-lab up")
    elif asked.do == "env":
        print(f"export KUBECONFIG={client.plan.kubeconfig}")
    else:
        _load(client, asked.archive)


def _tell(client: Client) -> None:
    plan = client.plan
    print(f"# Kubernetes at {plan.server}; pods reach this machine at {plan.host_address}")
    if not plan.has_node:
        print("# without a real node, which root alone can have: pods run on kwok's nodes only")
    print(f"export KUBECONFIG={plan.kubeconfig}")


def _load(client: Client, archive: str | None) -> None:
    from kubelab.cluster import ctr_argv

    if archive is None or not Path(archive).is_file():
        raise LabError("load: name an archive that docker or podman saved")
    print(client.run(*ctr_argv(client.plan), "images", "import", os.path.abspath(archive)), end="")


def _folder(name: str) -> Path:
    base = os.environ.get("OUTPOST_KUBELAB_RUN") or f"/tmp/kubelab-{os.geteuid()}"
    return Path(base) / name


def _connect(folder: Path) -> Client | None:
    try:
        return Client(folder)
    except OSError:
        return None


if __name__ == "__main__":
    main()
