"""`outpost demo`: the main job for real, from an empty folder to a pushed branch and back."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from outpost_core.errors import OutpostError, PlacementError, UsageError
from outpost_core.types import State
from outpost_manager import jsonviews
from outpost_manager.cli import output, render
from outpost_manager.cli.demoplaces import DemoCommand, stage
from outpost_manager.cli.follow import follow, writer
from outpost_manager.cli.progress import Progress
from outpost_manager.cli.session import Session, command
from outpost_manager.cli.workers import end_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from outpost_core.types import Worker
    from outpost_manager.manager import Manager

ISSUE: Final = "demo-1"
#: a plain script in the place of Claude Code or Codex: reads its prompt, changes a file.
_AGENT: Final = """\
#!/bin/sh
set -eu
echo "agent: working on $OUTPOST_ISSUE, on branch $OUTPOST_BRANCH"
echo "agent: I was told: $(cat "$OUTPOST_PROMPT_FILE")"
sed 's/Hello, wrold/Hello, world/' hello.py > hello.new
mv hello.new hello.py
echo "agent: I fixed hello.py; it says now:"
cat hello.py
"""
_CONFIG: Final = "outposts:\n  - {name: local, type: local, max_workers: 1}\n"


@dataclass(kw_only=True)
class _Outcome:
    """What the demo shows at the end."""

    worker: Worker
    branch: str
    diff: str
    log: str

    @property
    def ok(self) -> bool:
        """Whether the remote has the very commit that the result names, with the change in it."""
        result = self.worker.result
        return (
            self.worker.state is State.DONE
            and result is not None
            and bool(result.commit)
            and self.branch.split("\t")[0] == result.commit
            and '+print("Hello, world")' in self.diff
            and "agent: I fixed hello.py" in self.log
        )


@command("demo", cls=DemoCommand)
@click.option("--keep", is_flag=True, help="Keep the folder with everything in it.")
def demo(session: Session, keep: bool, place: str | None = None) -> None:
    """Run the main job for real, in a throw-away folder.

    Makes a git repository with a remote, places an order, lets a script fix a typo as an agent
    would, and shows the branch, the diff, the log and the result. Uses the local outpost with a
    state of its own, or a stand-in for another kind of outpost that an installed package brings;
    your configuration and your workers are not touched.

    \b
    Example:
      outpost demo --keep
    """
    if shutil.which("git") is None:
        raise UsageError("git is not installed", hint="sudo apt-get install git")
    # what clears up behind a demo that was killed goes by the name
    folder = Path(tempfile.mkdtemp(prefix="outpost-demo-kept-" if keep else "outpost-demo-"))
    try:
        outcome = _run(session, folder, place)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)

    def data() -> object:
        return {
            "ok": outcome.ok,
            "worker": jsonviews.worker(outcome.worker),
            "diff": outcome.diff,
            "log": outcome.log,
            "folder": str(folder) if keep else None,
        }

    session.answer(data, lambda: _lines(outcome, folder if keep else None))
    click.get_current_context().exit(0 if outcome.ok else 1)


def _run(session: Session, folder: Path, place: str | None) -> _Outcome:
    _say(session, "A git repository with a remote, and a typo in it:")
    remote, work = _make_repository(folder)
    _say(session, f"  {work / 'hello.py'}: {(work / 'hello.py').read_text().strip()}")
    agent = folder / "agent.sh"
    agent.write_text(_AGENT)
    session.config, session.state = folder / "outposts.yaml", folder / "state"
    if place is None:
        told: AbstractContextManager[Mapping[str, str]] = nullcontext(
            {"config": _CONFIG, "rig": str(remote)}
        )
        command: tuple[str, ...] = ("sh", str(agent))
        typed = f"sh {agent}"
    else:  # where this folder is not
        told = stage(place, folder, remote)
        command, typed = ("sh", "-c", _AGENT), f'sh -c "$(cat {agent})"'
    with told as at:
        session.config.write_text(at["config"])
        for line in at.get("says", "").splitlines():
            _say(session, line)
        _say(session, "The order, as you would give it:")
        _say(
            session,
            f"  outpost spawn {ISSUE} --rig {at['rig']} --title 'Fix the greeting'"
            f" --prompt 'Fix the typo in hello.py' --max-agent-cost 0 --follow -- {typed}",
        )
        return session.run(lambda manager: _work(session, manager, remote, at["rig"], command))


async def _work(
    session: Session, manager: Manager, remote: Path, rig: str, command: tuple[str, ...]
) -> _Outcome:
    from outpost_manager.orders.making import OrderRequest

    (local,) = await manager.outposts()
    if local.state == "missing":
        raise PlacementError(local.detail, hint=local.hint)
    progress = Progress.of(session)
    progress.stage(ISSUE, "placing")
    order = await manager.order(
        OrderRequest(
            issue=ISSUE,
            rig=rig,
            title="Fix the greeting",
            prompt="Fix the typo in hello.py",
            command=command,
            timeout=120.0,
            max_agent_cost=0.0,
        )
    )
    await manager.spawn(order, progress=progress.event)
    try:
        if not session.json:
            await follow(manager, order.worker, writer(to_stderr=True), progress)
        (worker,) = await manager.wait([order.worker], timeout=180, on_change=progress.worker)
        progress.close()
        log = b"".join([chunk async for chunk in manager.logs(order.worker)])
    finally:
        await _leave_nothing(manager, order.worker)
    branch = worker.result.branch if worker.result else None
    return _Outcome(
        worker=worker,
        branch=_git(remote, "for-each-ref", "--format=%(objectname)%09%(refname)",
                    f"refs/heads/{branch}") if branch else "",
        diff=_git(remote, "diff", f"main..{branch}") if branch else "",
        log=log.decode(errors="replace"),
    )  # fmt: skip


async def _leave_nothing(manager: Manager, worker: str) -> None:
    """End and remove the worker, so that nothing outlives the folder."""
    try:
        await manager.stop(worker, 1.0)
        await manager.wait([worker], timeout=20)
        await manager.clean(worker, force=True)
    except OutpostError as error:
        output.echo(f"{worker}: {error}", err=True)


def _say(session: Session, text: str) -> None:
    session.note(text if text.startswith("  ") else output.style(text, bold=True))


def _lines(outcome: _Outcome, kept: Path | None) -> Iterator[str]:
    yield output.style("The branch on the remote:", bold=True)
    yield f"  {outcome.branch or 'there is none'}"
    yield output.style("The diff:", bold=True)
    for line in outcome.diff.splitlines():
        colour = {"+": "green", "-": "red"}.get(line[:1])
        yield "  " + output.style(render.clean(line), fg=colour)
    yield output.style("The log:", bold=True)
    for line in outcome.log.splitlines():
        yield f"  {render.clean(line)}"
    yield output.style("The result:", bold=True)
    yield f"  {end_line(outcome.worker)}"
    if kept is not None:
        yield f"  kept in {kept}"
    if not outcome.ok:
        yield output.style("The demo did not end as it should.", fg="red")
        yield "  → outpost doctor"


def _make_repository(folder: Path) -> tuple[Path, Path]:
    """Make a bare remote with one commit, and the working tree that pushed it."""
    remote, work = folder / "remote.git", folder / "project"
    work.mkdir()
    _git(folder, "init", "--quiet", "--bare", "--initial-branch=main", str(remote))
    _git(work, "init", "--quiet", "--initial-branch=main")
    (work / "hello.py").write_text('print("Hello, wrold")\n')
    _git(work, "add", "hello.py")
    _git(work, "commit", "--quiet", "--message=Say hello")
    _git(work, "push", "--quiet", str(remote), "main")
    return remote, work


def _git(folder: Path, *words: str) -> str:
    """Run git without the user's own configuration and return what it prints.

    Raises:
        OutpostError: it failed.
    """
    who = {"NAME": "Outpost demo", "EMAIL": "demo@localhost"}
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
        **{f"GIT_{role}_{key}": v for role in ("AUTHOR", "COMMITTER") for key, v in who.items()},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "LC_ALL": "C",
    }
    done = subprocess.run(
        ["git", "-C", str(folder), *words],
        env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    if done.returncode:
        raise OutpostError(f"git {words[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()
