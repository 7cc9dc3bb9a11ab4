"""`scripts/kube-lab`: a Kubernetes cluster on this machine, to try things out."""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from kubelab.client import Client, LabError, start, tools
from kubelab.cluster import ctr_argv
from kubelab.guard import clean_up
from kubelab.plan import Options, Plan

_COMMANDS: Final = {
    "up": "start a cluster, and print how programs find it",
    "down": "end it; nothing is left of it",
    "status": "say whether it runs",
    "env": 'print the line that tells a shell where it is: eval "$(scripts/kube-lab env)"',
    "load": "let pods have an image of this machine's podman or docker, or of an archive that one "
    "of them saved; with imagePullPolicy IfNotPresent or Never",
    "kubectl": "look at it with kubectl",
}


def main() -> None:
    """Do what the command line says."""
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default=argparse.SUPPRESS, help="one of several (default)")
    parser = argparse.ArgumentParser(
        prog="kube-lab", parents=[named], description="A Kubernetes cluster on this machine."
    )
    commands = parser.add_subparsers(dest="do", required=True, metavar="COMMAND")
    adds = {
        do: commands.add_parser(do, parents=[named] if do != "kubectl" else [], help=text)
        for do, text in _COMMANDS.items()
    }
    adds["up"].add_argument("--fake-nodes", type=int, default=2, help="that kwok plays (2)")
    adds["up"].add_argument("--no-real-node", action="store_true", help="no kubelet")
    adds["load"].add_argument("image")
    adds["kubectl"].add_argument("words", nargs=argparse.REMAINDER, metavar="…")
    asked = parser.parse_args()
    try:
        _do(asked)
    except LabError as error:
        sys.exit(f"kube-lab: {error}")


def _do(asked: argparse.Namespace) -> None:
    folder = _folder(getattr(asked, "name", "default"))  # said before or behind the command
    client = _connect(folder)
    if asked.do == "up":
        if client is None:
            _sweep(folder)
            options = Options(fake_nodes=asked.fake_nodes, real_node=not asked.no_real_node)
            client = start(folder, options, leased=False, programs=tools())
        _tell(client)
    elif asked.do == "down":
        if client is not None:
            client.down()
    elif client is None:
        raise LabError("no lab runs; scripts/kube-lab up starts one")
    elif asked.do == "status":
        for part, pid in client.status()["parts"].items():
            print(f"{part:<12} {'runs' if pid else 'does not run'}")
    elif asked.do == "env":
        print(f"export KUBECONFIG={client.plan.kubeconfig}")
    elif asked.do == "load":
        _load(client, asked.image)
    else:
        env = {**os.environ, "KUBECONFIG": str(client.plan.kubeconfig)}
        os.execve(client.plan.program, [client.plan.program, "kubectl", *asked.words], env)


def _sweep(folder: Path) -> None:
    """Remove what is left of a lab that could not do that: the machine lost its power, say."""
    if folder.exists():
        with contextlib.suppress(OSError, ValueError):
            clean_up(Plan.load(folder))
        shutil.rmtree(folder, ignore_errors=True)


def _tell(client: Client) -> None:
    plan = client.plan
    print(f"# Kubernetes at {plan.server}; pods reach this machine at {plan.host_address}")
    if not plan.has_node:
        print("# without a real node, which root alone can have: pods run on kwok's nodes only")
    print(f"export KUBECONFIG={plan.kubeconfig}")


def _load(client: Client, image: str) -> None:
    if not client.plan.has_node:
        raise LabError("load: this lab has no real node, so nothing would run it")
    with tempfile.TemporaryDirectory() as work:
        archive = Path(image).absolute()
        if not archive.is_file():
            archive = Path(work) / "image.tar"
            _save(image, archive)
        print(client.run(*ctr_argv(client.plan), "images", "import", str(archive)), end="")


def _save(image: str, archive: Path) -> None:
    told = []
    for engine in ("podman", "docker"):
        if shutil.which(engine):
            done = subprocess.run(
                [engine, "save", "-o", archive, image], capture_output=True, text=True, check=False
            )
            if done.returncode == 0:
                return
            told.append(f"{engine}: {done.stderr.strip()}")
    raise LabError("\n".join([f"load: there is no image or archive {image}", *told]))


def _folder(name: str) -> Path:
    """Return the folder of a lab, below one that is nobody else's."""
    base = Path(os.environ.get("OUTPOST_KUBELAB_RUN") or f"/tmp/kubelab-{os.geteuid()}")
    base.mkdir(mode=0o700, exist_ok=True)
    if base.is_symlink() or base.stat().st_uid != os.geteuid():
        raise LabError(f"{base} is somebody else's; OUTPOST_KUBELAB_RUN names another folder")
    return base / name


def _connect(folder: Path) -> Client | None:
    try:
        return Client(folder)
    except OSError:
        return None


if __name__ == "__main__":
    main()
