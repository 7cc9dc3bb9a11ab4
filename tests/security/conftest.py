"""A home, a rig and the real command line, for agents that mean harm.

What an agent brings away lies in `loot`, which it can write with a fence, too. Each agent notes in
`loot/did` what it could do; without a fence a test demands that the attack was really made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from peers import forked

from outpost_testing.processes import outliving

MAIN = "from outpost_manager.cli import main; main()"
#: What a command may take before it counts as held up, on a machine that is busy.
PATIENCE = 90.0
#: For agents: where their worker is kept, and a way to try what a fence may refuse.
PRELUDE = """
import json, os, signal, subprocess, sys, time
loot, home = os.environ["LOOT"], os.environ["REAL_HOME"]
folder = os.path.dirname(os.environ["OUTPOST_WORKER_DIR"])
work = os.path.join(folder, "work")

def did(what):
    with open(os.path.join(loot, "did"), "a") as file:
        file.write(what + "\\n")

def tried(what, act, *args):
    try:
        answer = act(*args)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return None
    did(what)
    return answer

def place(name, text):
    path = os.path.join(folder, name)
    with open(path + ".new", "w") as file:
        file.write(text)
    os.replace(path + ".new", path)

def git(*words):
    subprocess.run(["git", "-c", "user.name=e", "-c", "user.email=e@e", *words], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

def hold():
    end = time.monotonic() + 100
    while not os.path.exists(os.path.join(loot, "go")) and time.monotonic() < end:
        time.sleep(0.05)
"""


class Desk:
    """One user, with the real program.

    Args:
        folder: private and new.
        fence: as in the configuration.
    """

    def __init__(self, folder: Path, fence: str) -> None:
        self.folder = folder
        self.fence = fence
        self.home, self.loot = folder / "home", folder / "loot"
        self.state = self.home / "state"
        self.rig = self.home / "rig.git"
        for path in (self.home, self.loot):
            path.mkdir(mode=0o700)
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        self.env = {
            **kept, "HOME": str(self.home), "OUTPOST_STATE": str(self.state), "NO_COLOR": "1",
            "XDG_CONFIG_HOME": str(self.home / ".config"), "GIT_CONFIG_NOSYSTEM": "1",
            "A_TOKEN": "of-the-caller",
        }  # fmt: skip
        config = self.home / ".config" / "outpost" / "outposts.yaml"
        config.parent.mkdir(parents=True)
        config.write_text(f"outposts:\n  - {{name: local, type: local, fence: '{fence}'}}\n")
        (self.home / ".gitconfig").write_text("[user]\nname = t\nemail = t@example.invalid\n")
        self.git("init", "-q", "-b", "main", "--bare", str(self.rig), at=self.home)
        self.git("init", "-q", "-b", "main", "seed", at=self.home)
        (self.home / "seed" / "a").write_text("1\n")
        self.git("add", "-A", at=self.home / "seed")
        self.git("commit", "-qm", "s", at=self.home / "seed")
        self.git("push", "-q", str(self.rig), "main", at=self.home / "seed")

    def git(self, *words: str, at: Path | None = None) -> str:
        done = subprocess.run(
            ["git", *words], cwd=at or self.rig, env=self.env, check=True, capture_output=True,
            timeout=PATIENCE,
        )  # fmt: skip
        return done.stdout.decode(errors="replace").strip()

    def tip(self, branch: str) -> str:
        """Return a branch's commit on the rig; "" when there is none."""
        return self.git("for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}")

    def pushed(self) -> str:
        """Return all that any ref of the rig holds, as text."""
        return self.git("log", "--all", "-p", "--format=%H")

    def run(
        self, *words: str, at: Path | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `outpost`; one that does not come to its end fails the test.

        In a folder of others it is started from nothing: they may have something for that, too.
        """
        env = self.env | (env or {})
        if at is None:
            return forked.run([*words], cwd=self.home, env=env, timeout=PATIENCE)
        return subprocess.run(
            [sys.executable, "-c", MAIN, *words], cwd=at, env=env,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=PATIENCE, check=False,
        )  # fmt: skip

    def json(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def spawn(self, issue: str, code: str, *words: str, wait: bool = True) -> str:
        """Spawn an agent that runs Python; return what was printed, once it has ended."""
        agent = [sys.executable, "-I", "-S", "-c", PRELUDE + code]
        told = [f"LOOT={self.loot}", f"REAL_HOME={self.home}", f"RIG={self.rig}"]
        env = [word for one in told for word in ("--env", one)]
        done = self.run(
            "spawn", issue, "--rig", str(self.rig), "--title", "t", *env, *words,
            *(["--wait"] if wait else []), "--", *agent,
        )  # fmt: skip
        return done.stdout + done.stderr

    def worker(self, name: str) -> dict[str, Any]:
        """Return what `show` says of a worker."""
        said: dict[str, Any] = self.json("show", name)["worker"]
        return said

    def status(self, name: str) -> str:
        """Return the state of a worker, as it is told."""
        return str(self.worker(name)["status"])

    def until(self, true: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        end = time.monotonic() + seconds
        while not (answer := true()):
            assert time.monotonic() < end, "it never came true"
            time.sleep(0.1)
        return answer

    def said(self, what: str) -> bool:
        """Whether an agent has noted something."""
        did = self.loot / "did"
        return did.exists() and what in did.read_text().splitlines()

    def made(self, *what: str) -> None:
        """Demand that an attack was made, where nothing keeps the agent from making it."""
        if self.fence == "off":
            for each in what:
                assert self.said(each), f"{each} was not even tried"

    def go(self) -> None:
        """Let agents end that hold."""
        (self.loot / "go").touch()

    def folder_of(self, worker: str) -> Path:
        (found,) = self.state.glob(f"outposts/*/workers/{worker}")
        return found

    def trap(self, name: str) -> Path:
        """Return a program that leaves its environment in the loot when somebody runs it."""
        path = self.loot / name
        path.write_text(f'#!/bin/sh\nenv >"{self.loot}/ran"\ncat\n')
        path.chmod(0o755)
        return path

    def nothing_ran(self) -> None:
        ran = self.loot / "ran"
        assert not ran.exists(), ran.read_text()

    def close(self) -> None:
        self.go()
        living = [one["id"] for one in self.json("workers")["workers"]]
        if living:
            self.run("stop", *living, "--grace", "1")
        left = outliving(self.home)
        assert not left, left


@pytest.fixture(params=["auto", "off"], ids=["fence", "no fence"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    """A user whose agents have the best fence that works here, or none."""
    made = Desk(tmp_path, request.param)
    yield made
    made.close()
