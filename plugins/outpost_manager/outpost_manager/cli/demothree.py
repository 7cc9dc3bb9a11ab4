"""`outpost demo`: three workers side by side, one of which is killed and taken up again.

What it shows as typed is typed: each command is a process of its own, with a configuration and a
state in the demo's folder. What this process does besides is wait for what it shows next.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError, PlacementError
from outpost_core.types import State
from outpost_manager.cli import render
from outpost_manager.cli.demokit import MENDED, Outcome, Project, git, leave_nothing, log_of, say

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from outpost_manager.cli.session import Session
    from outpost_manager.manager import Manager

_CONFIG: Final = "outposts:\n  - {name: local, type: local, max_workers: 3}\n"
ISSUES: Final = {
    "greeting": "Correct the greeting",
    "readme": "Write a README",
    "tests": "Test the greeting",
}
#: the one that is killed.
_VICTIM: Final = "tests"
#: seconds for all of it, on a machine that is very busy.
_PATIENCE: Final = 240.0
#: a plain script in the place of Claude Code or Codex. It waits at its half as long as there is
#: something to see, and ends by itself where the demo was killed.
AGENT: Final = """\
#!/bin/sh
# A plain script in the place of an agent: it is told an issue, and changes files.
set -eu
echo "agent: $OUTPOST_ISSUE, attempt $OUTPOST_ATTEMPT"
case $OUTPOST_ISSUE in
greeting) sed 's/wrold/world/' hello.py > hello.new && mv hello.new hello.py ;;
readme) printf '# Hello\\nRun `python3 hello.py`.\\n' > README.md ;;
tests)
  if [ -e test_hello.py ]; then
    echo "agent: the first half of test_hello.py is there, I go on from it"
  else
    printf 'import subprocess\\n\\n' > test_hello.py
  fi ;;
esac
echo "agent: half is done"
n=0
while [ -e {hold} ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n + 1)); done
case $OUTPOST_ISSUE in
tests) cat >> test_hello.py <<'END'
def test_hello():
    said = subprocess.run(["python3", "hello.py"], capture_output=True, text=True)
    assert said.stdout.startswith("Hello")
END
esac
echo "agent: all is done"
"""


def show(session: Session, folder: Path) -> Outcome:
    """Run three orders at the local outpost.

    Args:
        session: of the command.
        folder: the demo's.

    Raises:
        PlacementError: there is no local outpost.
        OutpostError: a command failed, or something did not come in four minutes.
    """
    session.config, session.state = folder / "outposts.yaml", folder / "state"
    session.config.write_text(_CONFIG)
    queue = "queue" in session.plugin_commands(quiet=True)
    return session.run(lambda manager: _Show(session, manager, folder, queue).run())


def supervisor(state: Path, outpost: str, worker: str) -> int:
    """Return the process id of a worker's supervisor, as its folder has it.

    Args:
        state: the state folder, which nobody else has written to.
        outpost: a local one.
        worker: its id.
    """
    file = state / "outposts" / outpost / "workers" / worker / "supervisor.json"
    return int(json.loads(file.read_bytes())["pid"])


class _Show:
    """One run of it.

    Args:
        session: of the command.
        manager: an open manager on the demo's state.
        folder: the demo's.
        queue: whether there is a queue (the package outpost-mayor).
    """

    def __init__(self, session: Session, manager: Manager, folder: Path, queue: bool) -> None:
        self._session = session
        self._manager = manager
        self._project = Project(folder)
        self._hold = folder / "hold"
        self._queue = queue
        self._env = {
            **{name: value for name, value in os.environ.items() if name != "OUTPOST_SERVER"},
            "OUTPOST_CONFIG": str(folder / "outposts.yaml"),
            "OUTPOST_STATE": str(folder / "state"),
        }

    async def run(self) -> Outcome:
        (local,) = await self._manager.outposts()
        if local.state == "missing":
            raise PlacementError(local.detail, hint=local.hint)
        self._hold.touch()
        issues = (json.dumps({"issue": name, "title": said}) for name, said in ISSUES.items())
        self._project.make({
            "agent.sh": AGENT.replace("{hold}", shlex.quote(str(self._hold))),
            "issues.jsonl": "\n".join([*issues, ""]),
        })  # fmt: skip
        self._say("A throw-away git repository, with a remote and three issues in a file:")
        await self._type("cat", "issues.jsonl")
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._story()
        except TimeoutError:
            raise OutpostError(
                f"the demo was not done after {_PATIENCE:.0f} s",
                hint="outpost doctor; outpost demo --keep leaves what it has made",
            ) from None
        finally:
            self._hold.unlink(missing_ok=True)
            for worker in await self._manager.workers():
                await leave_nothing(self._manager, worker.id)

    async def _story(self) -> Outcome:
        order = ("--from-file", "issues.jsonl", "--max-agent-cost", "0", "--", "sh", "agent.sh")
        if self._queue:
            self._say("They go into the queue, and something works on it:")
            await self._type("outpost", "queue", "add", *order)
        else:
            self._say("A worker for each of them:")
            await self._type("outpost", "spawn", *order)
        async with self._worked_on():
            first = await self._begun()
            self._say("Three workers side by side, each in a working tree of its own:")
            await self._type("outpost", "workers")
            killed = first[_VICTIM]
            await self._kill(killed)
            self._say("That is noticed, and its half is kept as a checkpoint:")
            await self._type("outpost", "workers", "--all")
            self._say("It is taken up again from there, while the others end their work:")
            self._hold.unlink()
            again = ("outpost", "retry", _VICTIM)
            await self._type(*again, *(() if self._queue else ("--wait",)))
            names = [worker for issue, worker in first.items() if issue != _VICTIM]
            workers = await self._manager.wait([*names, f"{_VICTIM}.2"])
        lost = await self._manager.worker(killed)
        self._say("Three branches on the remote:")
        await self._type("git", "ls-remote", "--heads", "origin")
        log = await log_of(self._manager, workers[-1].id)
        branches = self._project.branches()
        diff = "\n".join(git(self._project.remote, "diff", f"main..{one}") for one in branches)
        right = MENDED in diff and "+import subprocess" in diff and "I go on from it" in log
        return Outcome(
            ok=(
                lost.state is State.LOST
                and all(one.state is State.DONE and self._project.has(one) for one in workers)
                and right
            ),
            workers=tuple(workers),
            branches=branches,
            diff=diff,
            log=log,
            killed=killed,
        )

    @asynccontextmanager
    async def _worked_on(self) -> AsyncIterator[None]:
        """Have `outpost queue run` work beside this process, where there is a queue."""
        if not self._queue:
            yield
            return
        self._say("  $ outpost queue run &")
        process = await self._start("outpost", "queue", "run")
        reading = asyncio.create_task(process.communicate())
        try:
            yield
            said, _ = await reading
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
            reading.cancel()
        if process.returncode:
            raise OutpostError(f"outpost queue run failed: {said.decode(errors='replace')}")

    async def _begun(self) -> dict[str, str]:
        """Return issue → worker once all of them are in the middle of their work."""
        found: dict[str, str] = {}
        async for event in self._manager.events(0):
            if event.kind == "spawned" and event.worker is not None:
                found[event.worker.rpartition(".")[0]] = event.worker
                if len(found) == len(ISSUES):
                    break
        for worker in found.values():
            text = b""
            async for chunk in self._manager.logs(worker, follow=True):
                text += chunk
                if b"half is done" in text:
                    break
        return found

    async def _kill(self, worker: str) -> None:
        """Kill a supervisor, as the kernel does where memory runs out, and see it noticed."""
        pid = supervisor(self._project.folder / "state", "local", worker)
        self._say(f"One of them is killed with all that it runs, as by a crash: {worker}")
        self._say(f"  $ kill -9 {pid}")
        os.kill(pid, signal.SIGKILL)
        await self._manager.wait([worker])

    async def _type(self, *words: str) -> None:
        """Run a command in the project, and show both it and what it prints.

        Raises:
            OutpostError: it failed.
        """
        self._say(f"  $ {shlex.join(words)}")
        process = await self._start(*words)
        try:
            said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        text = said.decode(errors="replace")
        if process.returncode:
            raise OutpostError(f"{shlex.join(words)} failed: {text.strip()}")
        for line in text.splitlines():
            self._say(f"  {render.clean(line)}".rstrip() or "  ")

    async def _start(self, *words: str) -> asyncio.subprocess.Process:
        program = [sys.executable, "-m", "outpost_manager"] if words[0] == "outpost" else [words[0]]
        return await asyncio.create_subprocess_exec(
            *program, *words[1:],
            cwd=self._project.tree, env=self._env, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip

    def _say(self, text: str) -> None:
        say(self._session, text)
