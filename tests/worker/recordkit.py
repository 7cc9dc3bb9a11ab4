"""Programs that want the same worker, each in a process of its own, let go at the same moment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from outpost_worker.record.kinds import Claim

OWNER = "a" * 16
DIGEST = "d" * 64

_PROGRAM = """
import json, sys
from outpost_core import wire
from outpost_core.types import Result, State
from outpost_worker.record.kinds import Claim
{make}
sys.stdout.write("ready\\n"); sys.stdout.flush()
sys.stdin.readline()
try:
    print(json.dumps(act(record, *sys.argv[1:])))
except Exception as error:
    print(json.dumps({{"error": type(error).__name__, "said": str(error)}}))
"""
#: How a program there makes `record` on a rig.
ON_RIG = """
from outpost_worker.record.places import on_rig
record = on_rig({rig!r}, {root!r}, {owner!r}, {credentials!r})
"""


def claim(worker: str = "gt-1.1", instance: int = 1, leg: int = 1, digest: str = DIGEST) -> Claim:
    """Return a claim of one of many instances."""
    return Claim(worker=worker, digest=digest, owner=OWNER, instance=f"{instance:02x}", leg=leg)


def program(make: str, act: str) -> str:
    """Return the text of a program that makes a record and acts on it.

    Args:
        make: makes `record`.
        act: defines `act(record, *arguments)`, whose JSON it prints.
    """
    return _PROGRAM.format(make=f"{make}\n{act}")


def start(
    text: str, *arguments: str, environ: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start one program; it waits to be let go."""
    return subprocess.Popen(
        [sys.executable, "-c", text, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environ or {})},
    )


def race(starters: Sequence[Callable[[], subprocess.Popen[str]]]) -> list[dict[str, object]]:
    """Start programs, let them go together, and return what each has printed."""
    running = [starter() for starter in starters]
    try:
        for each in running:
            assert each.stdout
            assert each.stdout.readline() == "ready\n"
        for each in running:
            assert each.stdin
            each.stdin.write("go\n")
            each.stdin.flush()
        return [json.loads(each.communicate(timeout=120)[0]) for each in running]
    finally:
        for each in running:
            each.kill()
            each.wait()
            for pipe in (each.stdin, each.stdout):
                if pipe:
                    pipe.close()


def bare_rig(path: Path, *options: str) -> Path:
    """Make an empty repository that stands for a rig."""
    subprocess.run(["git", "init", "-q", "--bare", *options, str(path)], check=True)
    return path


def refs(rig: Path) -> dict[str, str]:
    """Return all refs of a rig."""
    told = subprocess.run(
        ["git", "-C", str(rig), "for-each-ref", "--format=%(refname) %(objectname)"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return dict(line.split(" ") for line in told.stdout.splitlines())


def hook(rig: Path, name: str, script: str) -> None:
    """Let a rig run a hook."""
    path = rig / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
