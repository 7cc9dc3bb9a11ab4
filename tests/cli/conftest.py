from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from ourplugins import ours
from peers import forked

from outpost_core.discovery import PluginReport
from outpost_core.hookspecs import hookimpl
from outpost_manager.cli.app import cli
from outpost_manager.cli.session import Session
from outpost_testing import FakeOptions, FakeOutpost, fake_backend

#: the real program.
MAIN = "from outpost_manager.cli import main; main()"
#: the command line with the type `fake`, as a program of its own.
PROGRAM = """\
from outpost_manager.cli.app import cli
from outpost_manager.cli.session import Session
from outpost_core.discovery import PluginReport, Plugins
from outpost_agents import plugin as agents
from outpost_manager import plugin as manager
from outpost_testing import fake, plugin as kit
plugins = Plugins.load([])
for name, plugin in {"agents": agents, "manager": manager, "kit": kit, "fake": fake}.items():
    plugins.add(plugin, PluginReport(entry_point=name))
cli.main(prog_name="outpost", obj=Session(plugins))
"""


class Cli:
    """The command line on two fake outposts, `here` and `there`, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "outposts.yaml"
        self.state = folder / "state"
        self.config.write_text(
            "outposts:\n"
            "  - {name: here, type: fake, max_workers: 4}\n"
            "  - {name: there, type: fake}\n"
        )
        self.here = FakeOutpost("here", FakeOptions(max_workers=4))
        self.there = FakeOutpost("there")
        self.plugins: list[object] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    def run(self, *args: str, stdin: str | None = None) -> Result:
        backend = fake_backend({"here": self.here, "there": self.there})

        class Package:
            @hookimpl
            def outpost_backends(self) -> dict[str, Any]:
                return {"fake": backend}

        plugins = ours()
        plugins.add(Package(), PluginReport(entry_point="fake", package="fakes", version="1.2"))
        for number, plugin in enumerate(self.plugins):
            plugins.add(plugin, PluginReport(entry_point=f"more-{number}"))
        words = ["--config", str(self.config), "--state", str(self.state), *args]
        more: dict[str, Any] = {"prog_name": "outpost", "obj": Session(plugins)}
        return CliRunner().invoke(cli, words, input=stdin, **more)

    def ok(self, *args: str, code: int = 0, stdin: str | None = None) -> str:
        """Run, demand the exit code, and return standard output."""
        result = self.run(*args, stdin=stdin)
        assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
        return result.stdout

    def json(self, *args: str, code: int = 0, stdin: str | None = None) -> Any:
        """Run with `--json` and return the one document on standard output."""
        return json.loads(self.ok("--json", *args, code=code, stdin=stdin))

    def spawn(self, issue: str, *args: str) -> Any:
        """Spawn a bare command at `here`; return the answer's one entry."""
        said = self.json("spawn", issue, "--no-rig", "--on", "here", *args, "--", "true")
        (spawned,) = said["spawned"]
        return spawned

    def start(self, *args: str, config: bool = True, **more: Any) -> subprocess.Popen[bytes]:
        """Start the program, with standard output and error as pipes."""
        chosen = ["--config", str(self.config)] if config else []
        words = [*chosen, "--state", str(self.state), *args]
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},
        )
        self.processes.append(process)
        return process

    def close(self) -> None:
        """End what a failed test left."""
        for process in self.processes:
            with process:
                process.kill()


@pytest.fixture
def outpost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    for name in list(os.environ):
        if name.startswith("OUTPOST_") or name in ("NO_COLOR", "COLUMNS", "GT_ROOT"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    cli_ = Cli(tmp_path)
    yield cli_
    cli_.close()


def git(*words: str, cwd: object = None) -> str:
    return subprocess.run(
        ["git", *words], cwd=cwd, check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


@pytest.fixture
def rig(outpost: Cli, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bare repository with one commit, and the real program on the local outpost."""
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "t")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "t@example.com")
    outpost.config.write_text("outposts:\n  - {name: local, type: local, mode: process}\n")
    bare, clone = outpost.folder / "rig.git", outpost.folder / "clone"
    git("init", "-q", "--bare", "-b", "main", str(bare))
    git("clone", "-q", str(bare), str(clone))
    git("checkout", "-q", "-B", "main", cwd=clone)
    (clone / "one").write_text("1\n")
    git("add", "one", cwd=clone)
    git("commit", "-q", "-m", "one", cwd=clone)
    git("push", "-q", "origin", "main", cwd=clone)

    def run(*words: str, cwd: Path = outpost.folder) -> subprocess.CompletedProcess[str]:
        options = ["--config", str(outpost.config), "--state", str(outpost.state)]
        return forked.run([*options, *words], env={**os.environ}, cwd=cwd, timeout=120)

    run.bare, run.clone = bare, clone
    return run
