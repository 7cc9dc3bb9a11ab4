"""Make the issue readable by `bd` in the working tree, where a `bd` that can is installed.

The host owns the writes to beads, and an order carries its issue's text anyway. So all that is
done here is local: nothing is committed or pushed, no tracked file changes, no daemon starts.

Up to 0.50, `bd` keeps issues as `.beads/issues.jsonl` in git beside a database of its own, which
a fresh working tree does not have. `bd show` makes it from that file; `bd sync --import-only`
refuses where there is none (seen with 0.47.1), and a full `bd sync` would commit and push. From
0.51 on, issues live in Dolt at the host; there is nothing in the tree to import.
"""

from __future__ import annotations

import os

from outpost_shared.programs import git_env
from outpost_worker.repository.git import surroundings

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds that one `bd` command may take.
BD_TIMEOUT = 20.0
#: The first version that keeps no issues in git.
_DOLT = (0, 51)
#: What `bd` writes beside the tracked files. Beads' own `.gitignore` names most of it, but not
#: every repository has one.
_EXCLUDED = (
    *("*.db", "*.db-*", "*.db?*", "daemon.*", "daemon-*", "bd.sock*", ".local_version"),
    *("last-touched", ".sync.lock", "sync_base.jsonl", "redirect", "export-state/"),
)


def provide(work: str, issue: str, report: Callable[[str], None]) -> str:
    """Let `bd show ISSUE` work in the tree.

    Args:
        work: the working tree, with its `.git` folder.
        issue: the issue's id.
        report: told what is being done.

    Returns:
        what came of it, as a sentence; "" for a rig without beads. Nothing is raised: the order
        carries the issue.
    """
    if not os.path.isdir(os.path.join(work, ".beads")):
        return ""
    with open(os.path.join(work, ".git/info/exclude"), "a", encoding="utf-8") as file:
        file.writelines(f"/.beads/{pattern}\n" for pattern in _EXCLUDED)
    report("importing beads")
    code, printed = _bd(work, "--version")
    if code is None:
        return "bd is not installed here; the order carries the issue"
    version = next((word for word in printed.split() if word[0].isdigit()), "")
    if _number(version) >= _DOLT:
        return f"bd {version} keeps issues at the host; the order carries the issue"
    # The sandbox mode would do without the import as well.
    code, printed = _bd(work, "--no-daemon", "--no-auto-flush", "show", issue, "--json")
    # An unknown issue is an error on stderr, and exit code 0.
    if code == 0 and f'"id":"{issue}"' in printed.replace(" ", ""):
        return f"bd {version} has the issue"
    last = printed.strip().rpartition("\n")[2][-200:]
    return f"bd {version} does not have the issue ({last}); the order carries it"


def _number(version: str) -> tuple[int, ...]:
    """Return `0.47.1` as numbers; what cannot be read counts as new, and is left alone."""
    parts = version.split("-", maxsplit=1)[0].split(".")[:2]
    return tuple(int(part) for part in parts) if all(p.isdigit() for p in parts) else _DOLT


def _bd(work: str, *args: str) -> tuple[int | None, str]:
    """Return exit code and output of `bd ARGS`; the code is None when it is not installed."""
    import subprocess

    # what the tree holds is the rig's: no key gets there, and git under bd reaches no remote
    env = {**git_env(surroundings(), remote=False), "BEADS_NO_DAEMON": "1"}
    try:
        done = subprocess.run(
            ["bd", *args],
            cwd=work,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=BD_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, f"no end within {BD_TIMEOUT:g} s"
    except OSError:
        return None, ""
    return done.returncode, done.stdout.decode(errors="replace")
