"""Outside of a lab's namespaces: makes them and the cable to them, waits, and cleans up."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from kubelab import certificates
from kubelab.plan import Plan, is_root

_NUMBERS: Final = range(1, 255)
_CGROUPS: Final = Path("/sys/fs/cgroup")
_CLEANUP: Final = 30.0


def main() -> None:
    """Have the lab in the folder named, until its keeper ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and so through what is last
    plan = Plan.load(Path(sys.argv[1]))
    keeper = [sys.executable, "-S", "-m", "kubelab.keeper", str(plan.folder)]
    spaces = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--mount-proc", "--fork",
              "--kill-child=KILL"]  # fmt: skip
    dies_too = ["setpriv", "--pdeathsig", "KILL"]  # should this process be killed
    apart = plan.options.apart and is_root()
    process = subprocess.Popen(
        [*dies_too, *(spaces if apart else []), *keeper], stdin=subprocess.PIPE, text=True
    )
    try:
        if apart:
            plan = _connect(plan, _child(process))
            _groups(plan)
        else:
            plan = plan.numbered(0)
        certificates.make(plan)
        plan.save()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write("go\n")
            process.stdin.close()
        process.wait()
    finally:
        process.kill()
        process.wait()
        clean_up(plan)


def clean_up(plan: Plan) -> None:
    """Remove what does not end with the namespaces: control groups, and the files."""
    deadline = time.monotonic() + _CLEANUP
    groups = [one / plan.group for one in _controllers()] if plan.number else []
    while time.monotonic() < deadline:
        for group in groups:
            for folder, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
        shutil.rmtree(plan.folder, ignore_errors=True)
        if not any(path.exists() for path in (*groups, plan.folder)):
            return
        time.sleep(0.1)


def _child(process: subprocess.Popen[str]) -> int:
    """Return the process 1 of the namespaces, as it is called here."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        if found := children.read_text().split():
            spaces = [Path(f"/proc/{pid}/ns/net").readlink() for pid in ("self", found[0])]
            if spaces[0] != spaces[1]:
                return int(found[0])
        time.sleep(0.01)
    raise SystemExit("the namespaces could not be made; see above")


def _connect(plan: Plan, pid: int) -> Plan:
    """Lay the cable. Its name says which lab this is: the kernel gives it to one alone."""
    for number in _NUMBERS:
        plan = plan.numbered(number)
        made = subprocess.run(
            ["ip", "link", "add", plan.card, "type", "veth",
             "peer", "name", "eth0", "netns", str(pid)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode == 0:
            break
        if "exists" not in made.stderr:
            raise SystemExit(f"no cable to the lab: {made.stderr.strip()}")
    else:
        raise SystemExit("this machine has all the labs that it can have")
    for words in (
        f"addr add {plan.host_address}/24 dev {plan.card}",
        f"link set {plan.card} up",
        f"route add {plan.pods} via {plan.address} dev {plan.card}",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    return plan


def _controllers() -> list[Path]:
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [one for one in _CGROUPS.iterdir() if one.is_dir() and not one.is_symlink()]


def _groups(plan: Plan) -> None:
    for controller in _controllers():
        with contextlib.suppress(OSError):
            (controller / plan.group).mkdir(exist_ok=True)


if __name__ == "__main__":
    main()
