"""`outpost demo --PLACE`: one order at a stand-in that an installed package brings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from outpost_core.errors import PlacementError
from outpost_core.types import State
from outpost_manager.cli.demokit import MENDED, TYPO, Outcome, Project, leave_nothing, log_of, say
from outpost_manager.cli.demokit import git as _git
from outpost_manager.cli.demoplaces import stage
from outpost_manager.cli.follow import follow, writer
from outpost_manager.cli.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from outpost_manager.cli.session import Session
    from outpost_manager.manager import Manager

_ISSUE: Final = "demo-1"
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


def show(session: Session, folder: Path, place: str) -> Outcome:
    """Run one order there, and follow it.

    Args:
        session: of the command.
        folder: the demo's.
        place: the flag without its dashes.
    """
    project = Project(folder)
    say(session, "A git repository with a remote, and a typo in it:")
    project.make({})
    say(session, f"  {project.tree / 'hello.py'}: {TYPO.strip()}")
    agent = folder / "agent.sh"
    agent.write_text(_AGENT)
    session.config, session.state = folder / "outposts.yaml", folder / "state"
    with stage(place, folder, project.remote) as at:
        session.config.write_text(at["config"])
        for line in at.get("says", "").splitlines():
            say(session, line)
        say(session, "The order, as you would give it:")
        say(
            session,
            f"  outpost spawn {_ISSUE} --rig {at['rig']} --title 'Fix the greeting'"
            " --prompt 'Fix the typo in hello.py' --max-agent-cost 0 --follow"
            f' -- sh -c "$(cat {agent})"',
        )
        return session.run(lambda manager: _work(session, manager, project, at["rig"]))


async def _work(session: Session, manager: Manager, project: Project, rig: str) -> Outcome:
    from outpost_manager.orders.making import OrderRequest

    (there,) = await manager.outposts()
    if there.state == "missing":
        raise PlacementError(there.detail, hint=there.hint)
    progress = Progress.of(session)
    progress.stage(_ISSUE, "placing")
    order = await manager.order(
        OrderRequest(
            issue=_ISSUE,
            rig=rig,
            title="Fix the greeting",
            prompt="Fix the typo in hello.py",
            command=("sh", "-c", _AGENT),
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
        log = await log_of(manager, order.worker)
    finally:
        await leave_nothing(manager, order.worker)
    branch = worker.result.branch if worker.result else None
    diff = _git(project.remote, "diff", f"main..{branch}") if branch else ""
    fixed = MENDED in diff and "agent: I fixed hello.py" in log
    return Outcome(
        ok=worker.state is State.DONE and project.has(worker) and fixed,
        workers=(worker,),
        branches=project.branches(),
        diff=diff,
        log=log,
    )
