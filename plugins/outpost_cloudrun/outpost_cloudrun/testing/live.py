"""`make cloudrun-live`: proves with an account what otherwise only stand-ins have shown.

Deploys a service of its own, has workers run in each mode, cuts what can be cut from here, and
removes all that it made. It costs a few cents and a few minutes. What it needs to know is in the
environment; without that it does nothing and says so:

- `OUTPOST_LIVE_PROJECT`, `OUTPOST_LIVE_IMAGE`: the project, and the image of workers in a registry;
- `OUTPOST_LIVE_RIG`: URL of a repository that may be played with, where workers can push;
- `OUTPOST_LIVE_REGION`: us-central1 if not said;
- `OUTPOST_LIVE_GIT_CREDENTIALS`: the command that prints a token or a key for it, as words;
- `OUTPOST_LIVE_MODES`: `service job instance` if not said;
- `OUTPOST_LIVE_AUTH`, `OUTPOST_LIVE_ENDPOINT`: the options of these names.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from outpost_cloudrun import price
from outpost_cloudrun.admin.factory import open_admin
from outpost_cloudrun.connection.identity import Identity
from outpost_cloudrun.options import Auth, Billing, CloudRunOptions, Mode
from outpost_cloudrun.testing.keepers import end_keeper, signal_keeper
from outpost_core.options import option_fields

_NEEDED: Final = ("OUTPOST_LIVE_PROJECT", "OUTPOST_LIVE_IMAGE", "OUTPOST_LIVE_RIG")
_SCRIPT: Final = 'echo began; {more}; echo "$OUTPOST_ISSUE" > "$OUTPOST_ISSUE.txt"; echo ended'
_LOG: Final = "began\nended\n"
#: Seconds of one command, at most; a container may start slowly.
_PATIENCE: Final = 600.0
#: USD that all of it may cost in an hour.
_CAP: Final = 1.0


class UnprovedError(Exception):
    """Something is not as it is said to be."""


@dataclass(kw_only=True)
class Live:
    """One trial: its outposts, and what it has made.

    Args:
        folder: where it keeps everything.
        environ: see the module.
        pause: seconds that work takes, where it has to outlast something.
        made: issues whose branches are on the rig.
    """

    folder: Path
    environ: Mapping[str, str]
    pause: float = 90.0
    word: str = field(default_factory=lambda: f"live-{secrets.token_hex(3)}")
    made: list[str] = field(default_factory=list)

    @property
    def rig(self) -> str:
        """URL of the repository."""
        return self.environ["OUTPOST_LIVE_RIG"]

    @property
    def modes(self) -> list[str]:
        """The modes to be tried; each is the name of an outpost."""
        return self.environ.get("OUTPOST_LIVE_MODES", "service job instance").split()

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.folder / "outposts.yaml"

    def options(self, mode: str) -> CloudRunOptions:
        """Return the options of one outpost."""
        service = mode == "service"
        return CloudRunOptions(
            mode=Mode(mode),
            project=self.environ["OUTPOST_LIVE_PROJECT"],
            region=self.environ.get("OUTPOST_LIVE_REGION", "us-central1"),
            service=self.word,
            image=self.environ["OUTPOST_LIVE_IMAGE"],
            cpu=1.0,
            memory=2 << 30,
            billing=Billing.INSTANCE if service else Billing.REQUEST,
            request_timeout=self.pause / 2 if service else 3600.0,
            cost_cap_hourly=_CAP,
            git_credentials=tuple(
                shlex.split(self.environ.get("OUTPOST_LIVE_GIT_CREDENTIALS", ""))
            ),
            auth=Auth(self.environ.get("OUTPOST_LIVE_AUTH", "auto")),
            endpoint=self.environ.get("OUTPOST_LIVE_ENDPOINT", ""),
        )

    def write(self) -> None:
        """Write the configuration: an outpost for each mode."""
        outposts = []
        for mode in self.modes:
            own = self.options(mode)
            said = {
                field.name: field.show(getattr(own, field.name))
                for field in option_fields(CloudRunOptions)
                if getattr(own, field.name) != field.default
            }
            outposts.append({"name": mode, "type": "cloudrun", **said})
        # JSON is YAML
        self.config.write_text(json.dumps({"outposts": outposts}, indent=1))

    # --- the command line -----------------------------------------------------------------------

    def outpost(self, *words: str, allowed: Sequence[int] = (0,)) -> str:
        """Run a command of `outpost`; raises UnprovedError where it fails."""
        env = {
            **self.environ,
            "OUTPOST_CONFIG": str(self.config),
            "OUTPOST_STATE": str(self.folder / "state"),
        }
        done = subprocess.run(
            [sys.executable, "-m", "outpost_manager", *words],
            env=env, cwd=self.folder, capture_output=True, text=True, check=False,
            timeout=_PATIENCE,
        )  # fmt: skip
        if done.returncode not in allowed:
            raise UnprovedError(
                f"outpost {shlex.join(words)}: {(done.stderr or done.stdout).strip()}"
            )
        return done.stdout

    def spawn(self, mode: str, what: str, more: str, *, wait: bool = True) -> dict[str, Any]:
        """Order something at an outpost, and return its worker."""
        issue = f"{self.word}-{what}"
        if issue not in self.made:
            self.made.append(issue)
        words = ["--rig", self.rig, "--on", mode, "--timeout", f"{self.pause * 3:g}s"]
        words += ["--title", what, "--max-agent-cost", "0", *(["--wait"] if wait else [])]
        said = self.outpost(
            "--json", "spawn", issue, *words, "--", "sh", "-c", _SCRIPT.format(more=more)
        )
        if wait:
            return self.worker(issue)
        worker: dict[str, Any] = json.loads(said)["spawned"][0]["worker"]
        return worker

    def worker(self, issue: str) -> dict[str, Any]:
        """Return a worker as `outpost show` has it."""
        found: dict[str, Any] = json.loads(self.outpost("--json", "show", issue))["worker"]
        return found

    def check_done(self, worker: Mapping[str, Any]) -> str:
        """Check that a worker is done, with its log and its branch; return what it cost."""
        issue = str(worker["issue"])
        expect(worker["status"] == "done", f"{issue} is {worker['status']}: {worker['message']}")
        log = self.outpost("logs", issue)
        expect(log == _LOG, f"the log of {issue} is {log!r}")
        ref = f"refs/heads/{worker['branch']}"
        there = git("ls-remote", self.rig, ref).split()
        expect(there[:1] == [worker["commit"]], f"{ref} is {there[:1]}, not {worker['commit']}")
        cost = worker["cost_usd"]
        expect(cost is not None and cost > 0, f"{issue} cost {cost}")
        return f"{worker['commit'][:12]}, {cost:.6f} USD"

    def _looked_at(self, issue: str) -> dict[str, Any]:
        """Return a worker as its outpost shows it now."""
        self.outpost("workers", allowed=(0, 5))
        return self.worker(issue)

    # --- what is tried ----------------------------------------------------------------------------

    def deploy(self) -> str:
        """Deploy the service, twice: the second time there is nothing to do."""
        found = ""
        for mode in self.modes:
            self.outpost("bootstrap", mode, allowed=(0, 1))
            said = json.loads(
                self.outpost("--json", "bootstrap", mode, "--dry-run", allowed=(0, 1))
            )
            left = [step["name"] for step in said["steps"] if step["state"] == "would"]
            expect(not left, f"bootstrap {mode} would still do {left}")
            found = ", ".join(f"{step['name']} {step['state']}" for step in said["steps"])
        return found

    def main_job(self, mode: str) -> str:
        """A worker does its work, its branch arrives, and its price is within what was said."""
        worker = self.spawn(mode, f"{mode}-job", "true")
        said = self.check_done(worker)
        worst = price.hour(self.options(mode)).busy
        expect(worker["cost_usd"] < worst, f"it cost {worker['cost_usd']}, over {worst} an hour")
        return said

    def again(self, mode: str) -> str:
        """The same order is the same worker."""
        first = self.worker(f"{self.word}-{mode}-job")
        second = self.spawn(mode, f"{mode}-job", "true")
        expect(first["commit"] == second["commit"], "another worker has run")
        return str(second["id"])

    def long(self, mode: str) -> str:
        """Work goes on over the end of a request, and through a keeper that is killed."""
        worker = self.spawn(mode, f"{mode}-long", f"sleep {self.pause:g}", wait=False)
        state = self.folder / "state" / "outposts" / mode
        end = time.monotonic() + self.pause / 3
        while time.monotonic() < end:
            time.sleep(0.2)
        expect(signal_keeper(state, signal.SIGKILL), "there was no keeper to kill")
        self.outpost("wait", str(worker["issue"]))
        return self.check_done(self.worker(str(worker["issue"])))

    def stop(self, mode: str) -> str:
        """A worker that is stopped ends."""
        worker = self.spawn(mode, f"{mode}-stop", "sleep 3600", wait=False)
        issue = str(worker["issue"])
        end = time.monotonic() + _PATIENCE
        while (found := self._looked_at(issue))["status"] != "working":
            expect(found["finished_at"] is None, f"it is {found['status']}: {found['message']}")
            expect(time.monotonic() < end, f"it is {found['status']}")
            time.sleep(0.5)
        self.outpost("stop", issue)
        self.outpost("wait", issue, allowed=(0, 1))
        found = self.worker(issue)
        expect(found["status"] == "stopped", f"it is {found['status']}: {found['message']}")
        return f"{found['cost_usd']} USD"

    def trials(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """Yield all of it, in its order."""
        yield "deploy", self.deploy
        for mode in self.modes:
            for name, trial in (
                ("main job", self.main_job),
                ("the same order", self.again),
                ("long work, a killed keeper", self.long),
                ("stop", self.stop),
            ):
                yield f"{mode}: {name}", lambda trial=trial, mode=mode: trial(mode)  # type: ignore[misc]

    # --- the end ----------------------------------------------------------------------------------

    def clean(self) -> list[str]:
        """Remove all that was made; return what could not be removed."""
        left = []
        for issue in self.made:
            try:
                self.outpost("stop", issue, allowed=(0, 4))
                self.outpost("wait", issue, allowed=(0, 1, 4))
                self.outpost("clean", issue, allowed=(0, 4))
            except (UnprovedError, subprocess.TimeoutExpired) as error:
                left.append(f"{issue}: {error}")
        refs = git(
            "ls-remote", self.rig, f"refs/heads/*{self.word}-*", f"refs/outpost/*{self.word}-*"
        )
        names = [line.split()[1] for line in refs.splitlines()]
        if names:
            git("push", "--quiet", self.rig, *(f":{name}" for name in names))
        for mode in self.modes:
            end_keeper(self.folder / "state" / "outposts" / mode)
        try:
            asyncio.run(self._delete_service())
        except Exception as error:  # noqa: BLE001 - whatever it was, it is told
            left.append(f"service {self.word}: {error}")
        return left

    async def _delete_service(self) -> None:
        options = self.options(self.modes[0])
        async with open_admin(options, Identity(options)) as admin:
            operation = await admin.delete_service(self.word)
            if operation is not None:
                await admin.wait(operation, 120.0)


def expect(true: bool, why: str) -> None:
    """Raise UnprovedError where something is not so."""
    if not true:
        raise UnprovedError(why)


def git(*words: str) -> str:
    """Run git with the user's own settings, and return what it says."""
    env = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(["git", *words], env=env, capture_output=True, text=True, check=False)
    expect(done.returncode == 0, f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout


def run(live: Live, say: Callable[[str], None]) -> bool:
    """Try all of it, and remove what was made; whether everything was as it is said to be.

    Args:
        live: the trial.
        say: is told each line.
    """
    good = True
    live.write()
    try:
        for name, trial in live.trials():
            begun = time.monotonic()
            try:
                detail = trial()
            except (UnprovedError, subprocess.TimeoutExpired) as error:
                good = False
                say(f"✗ {name}: {error}")
            else:
                say(f"✓ {name} ({time.monotonic() - begun:.0f} s): {detail}")
    finally:
        left = live.clean()
        for one in left:
            say(f"✗ not removed: {one}")
    return good and not left


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="outpost-live-") as name:
        yield Path(name)


def main() -> int:
    """Run the trial; 0 when all was well, or when there is no account to try it with."""
    missing = [name for name in _NEEDED if not os.environ.get(name)]
    if missing:
        sys.stderr.write(
            f"Nothing was tried: {', '.join(missing)} not set. It needs a project of Google Cloud,"
            " an image and a repository:\n  docs/guides/cloudrun.md\n"
        )
        return 0
    with _folder() as folder:
        done = run(Live(folder=folder, environ=os.environ), lambda line: print(line, flush=True))
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
