"""Looking at delivered work: `diff` and `checkout`."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Final

import click

from outpost_core.errors import OutpostError
from outpost_manager.cli import complete, render
from outpost_manager.cli.session import Session, command, print_json
from outpost_manager.offloop import at_once

if TYPE_CHECKING:
    from outpost_manager.manager import Manager
    from outpost_manager.review import Work

#: What to do where a server is asked: its work is on the rig, or lies there.
_FETCH: Final = (
    "outpost show says from here which branch of the rig it is: git fetch it; or say it there"
)


def _work(session: Session, ref: str) -> tuple[Manager, Work]:
    from outpost_manager.review import work_of

    async def work(manager: Manager) -> tuple[Manager, Work]:
        worker = await manager.worker(ref)
        kept_under = manager.fleet.kept_under(worker.outpost)
        return manager, await manager.ledger.read(work_of, worker, kept_under)

    return session.run(work)


@command("diff", instead=_FETCH)
@click.argument("issue", shell_complete=complete.issues)
@click.option("--stat", is_flag=True, help="Only which files, and how much.")
@click.option("--name-only", is_flag=True, help="Only the names of the files.")
def diff(session: Session, issue: str, stat: bool, name_only: bool) -> None:
    """Show what a worker did, against its base.

    Its delivered branch, or the unpushed work that was rescued.

    ISSUE is an issue, for its newest attempt, or a worker's id. Works in any folder, and changes
    no clone. On a terminal with git's own pager and colours.

    \b
    Example:
      outpost diff gt-1
    """
    from outpost_manager.review import compared, diff_command, diff_words

    if stat and name_only:
        raise click.UsageError("give one of --stat and --name-only")
    manager, work = _work(session, issue)
    more = ["--stat"] if stat else ["--name-only"] if name_only else []
    colour = click.get_current_context().color is not False
    with compared(work, at_once(manager.around())) as found:
        argv = diff_command(found, more)
        if not session.json:
            sys.stdout.flush()
            if found.base == found.commit:
                session.note(f"{found.commit[:12]} is in its base already; nothing differs")
                session.note(f"  → git show {found.commit[:12]}, in a clone")
            if sys.stdout.isatty():
                from outpost_manager.cli import pager

                _check(
                    pager.show(found.folder, "diff", diff_words(found, more), colour=colour), b""
                )
                return
            _check(subprocess.run(argv, check=False).returncode, b"")
            return
        out = subprocess.run(argv, capture_output=True, check=False)
        _check(out.returncode, out.stderr)
        print_json(
            {
                "worker": work.worker.id,
                "branch": work.branch,
                "base": found.base,
                "commit": found.commit,
                "diff": out.stdout.decode("utf-8", "replace"),
            }
        )


def _check(code: int, said: bytes) -> None:
    if code > 0:  # a pager that was left early ends git by a signal
        words = said.decode("utf-8", "replace").strip()
        raise OutpostError(f"git diff ended with {code}" + (f": {words}" if words else ""))


@command("checkout", instead=_FETCH)
@click.argument("issue", shell_complete=complete.issues)
def checkout(session: Session, issue: str) -> None:
    """Switch this clone to a delivered branch.

    The branch is fetched first. Refused where changes are not committed, and where your own branch
    of that name has other commits.

    \b
    Example:
      outpost checkout gt-1
    """
    from outpost_manager.review import check_out

    manager, work = _work(session, issue)
    around = at_once(manager.around())
    commit = check_out(work, around)
    branch = work.branch or ""
    folder = str(around.top) if around else ""
    session.answer(
        lambda: {
            "worker": work.worker.id, "branch": branch, "commit": commit, "folder": folder,
        },
        lambda: [render.clean(f"{folder} is on {branch} at {commit[:12]}")],
    )  # fmt: skip
    session.note(f"  → outpost diff {work.worker.issue} shows the work; git switch - goes back")
