"""Mayors of tests: real programs over a state folder and a configuration of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from peers import forked

#: Seconds that a condition may take to come true, on a machine that is busy.
PATIENCE = 60.0
LOCAL = "outposts:\n  - {name: local, type: local, mode: process, max_workers: 50}\n"


def until(true: Callable[[], object], what: str = "") -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, what or "it did not come true"
        time.sleep(0.02)


class Town:
    """A folder with a configuration and a state folder.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self.config = folder / "outposts.yaml"
        self.state = folder / "state"
        self.home = folder / "home"
        self.home.mkdir()
        self.config.write_text(LOCAL)
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("OUTPOST", "XDG_"))},
            "HOME": str(self.home),
        }

    @property
    def chosen(self) -> list[str]:
        """The options that say which configuration and state folder are meant."""
        return ["--config", str(self.config), "--state", str(self.state)]

    def argv(self, *words: str) -> list[str]:
        """Return the command line of a command here."""
        return [sys.executable, "-m", "outpost_manager", *self.chosen, *words]

    def ended(
        self, *words: str, env: Mapping[str, str] = MappingProxyType({})
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return forked.run(
            [*self.chosen, *words], env={**self.env, **env}, cwd=Path.cwd(), timeout=PATIENCE * 2
        )

    def run(self, *words: str, code: int = 0, env: Mapping[str, str] = MappingProxyType({})) -> str:
        """Run a command to its end; return what it printed."""
        done = self.ended(*words, env=env)
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def json(self, *words: str) -> Any:
        """Run a command with `--json`; return its answer."""
        return json.loads(self.run("--json", *words))

    def events(self, kind: str, of: str = "") -> list[dict[str, Any]]:
        """Return the events of a kind, without asking any outpost."""
        found = self.json("events", "--limit", "100000")["events"]
        return [e for e in found if e["kind"] == kind and of in ("", e["worker"])]

    def runs(self) -> bool:
        """Whether a mayor runs here, and its services do."""
        done = self.ended("serve", "--status", "--json")
        return bool(json.loads(done.stdout)["services"])

    @contextmanager
    def mayor(self, *words: str, **env: str) -> Iterator[Mayor]:
        """Run a mayor while the block is entered."""
        mayor = Mayor(self, words, env)
        try:
            yield mayor
        finally:
            mayor.kill()


class Mayor:
    """A mayor that runs; its log is kept."""

    def __init__(self, town: Town, words: tuple[str, ...], env: dict[str, str]) -> None:
        town.state.mkdir(mode=0o700, exist_ok=True)
        self._path = town.state.parent / f"mayor-{time.monotonic_ns()}.log"
        with self._path.open("wb") as log:
            self.process = subprocess.Popen(
                town.argv("serve", *words), env={**town.env, **env}, stderr=log,
                stdout=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    @property
    def log(self) -> str:
        """What it has said."""
        return self._path.read_text()

    def hears(self, text: str) -> None:
        """Wait until it has said something."""
        until(lambda: text in self.log or self.process.poll() is not None, text)
        assert text in self.log, self.log

    def ready(self) -> None:
        """Wait until it runs."""
        self.hears("the mayor runs")

    def end(self) -> int:
        """Tell it to end; return its exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)
