"""Issues out of beads: title, text, priority, estimate and labels by `bd show ID --json`."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from outpost_core.errors import NotFoundError, OutpostError, UsageError
from outpost_core.types import Issue
from outpost_manager.config.town import town_around
from outpost_shared import private

#: Seconds that `bd` may take.
BD_TIMEOUT = 10.0

_SECTIONS = (
    ("Design", "design"),
    ("Acceptance criteria", "acceptance_criteria"),
    ("Notes", "notes"),
)
_UNKNOWN = ("no issue found", "not found", "no issues found")
#: Beginnings of the names of variables that are meant for bd.
_FOR_BD = ("BEADS_", "BD_", "GT_")
_NO_DATABASE = "no beads database"
#: What `gt sling` writes at the head of a description, for itself: the keys of gastown 1.0
#: (internal/beads/fields.go), each also with "-" or nothing in the place of "_".
_ATTACHED = re.compile(
    r"(attached[_-]?(molecule|formula|at|args|vars)|dispatched[_-]?by|no[_-]?merge|review[_-]?only"
    r"|mode|convoy([_-]?id)?|merge[_-]?strategy|convoy[_-]?owned|formula[_-]?vars)\s*:",
    re.IGNORECASE,
)


def parse_bd_show(stdout: str) -> Issue | None:
    """Read the issue that `bd show ID --json` printed.

    Args:
        stdout: an array of issues (what bd prints), one issue (what its documentation says) or
            an envelope `{"schema_version": 1, "data": …}` around either
            (`BD_JSON_ENVELOPE=1`).

    Returns:
        The first issue, or None when there is none in it. Its text is the description followed
        by the design, the acceptance criteria and the notes, each under its own heading.
    """
    try:
        found: Any = json.loads(stdout)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict) and "data" in found and "id" not in found:
        found = found["data"]
    if isinstance(found, list):
        found = found[0] if found else None
    if not isinstance(found, dict):
        return None
    labels = found.get("labels")
    try:
        return Issue(
            id=_text(found, "id"),
            title=" ".join(_text(found, "title").split()),
            text=_whole_text(found),
            priority=_priority(found.get("priority")),
            estimate=_seconds(found.get("estimated_minutes")),
            labels=tuple(str(label) for label in labels) if isinstance(labels, list) else (),
            kind=_text(found, "issue_type") or "task",
        )
    except UsageError:  # an id that is none
        return None


def _text(found: dict[str, Any], key: str) -> str:
    value = found.get(key)
    return value.strip() if isinstance(value, str) else ""


def _whole_text(found: dict[str, Any]) -> str:
    parts = [_without_attachments(_text(found, "description"))]
    for heading, key in _SECTIONS:
        if text := _text(found, key):
            parts.append(f"## {heading}\n\n{text}")
    return "\n\n".join(filter(None, parts))


def _without_attachments(text: str) -> str:
    """Return a description without the lines that `gt sling` put at its head.

    They stay in beads. A head that only looks like one (`mode: dark`) is the author's.
    """
    lines = text.splitlines()
    head = 0
    while head < len(lines) and _ATTACHED.match(lines[head]):
        head += 1
    slung = any(line.lower().startswith(("attached", "dispatched")) for line in lines[:head])
    return "\n".join(lines[head:]).strip() if slung else text


def _priority(value: object) -> int:
    """Return 0 to 4 from `1`, `"1"` or `"P1"`; what is none of these counts as the usual 2."""
    digits = str(value).strip().upper().removeprefix("P")
    return int(digits) if digits in ("0", "1", "2", "3", "4") else 2


def _seconds(minutes: object) -> float | None:
    if isinstance(minutes, int | float) and 0 < minutes < 10**9:
        return minutes * 60.0
    return None


def find(issue_id: str, rig: str | None) -> Issue | None:
    """Ask `bd` in the rig's folder, then in the current one.

    Only where `bd` is on PATH and a `.beads` folder is there or above that nobody else could
    write. A clone may have a
    `.beads` without a database (bd looks no further than the clone's root), so the next one
    above is asked; in a Gas Town every one up to the town's, which reaches all its rigs.

    Raises:
        NotFoundError: the id is only a part of one that bd knows.
        OutpostError: `bd` failed or did not answer in time.
    """
    import shutil

    bd = shutil.which("bd")
    if bd is None:
        return None
    seen: set[Path] = set()
    for start in (rig, os.curdir):
        if start and os.path.isdir(start):  # noqa: PTH112 - never raises, as Path does
            issue = _look_up(bd, issue_id, Path(start).resolve(), seen)
            if issue is not None:
                return issue
    return None


def _look_up(bd: str, issue_id: str, start: Path, seen: set[Path]) -> Issue | None:
    """Ask bd in the folders with beads from `start` upward that were not asked before."""
    town = town_around(start)
    for folder in (start, *start.parents):
        if folder in seen or not (folder / ".beads").is_dir() or not _is_ours(folder / ".beads"):
            continue
        seen.add(folder)
        shown = _show(bd, issue_id, folder)
        issue = parse_bd_show(shown or "")
        if issue is not None and issue.id == issue_id:
            return issue
        if issue is not None:  # bd takes a part of an id, too
            raise NotFoundError(
                f"{issue_id} is not a whole id; bd knows {issue.id} (in {folder})",
                hint=f"outpost spawn {issue.id}",
            )
        if shown is not None and (town is None or folder == town):
            return None
    return None


def _is_ours(beads: Path) -> bool:
    """Whether nobody else could have written a folder of beads: in one of /tmp, bd is not run."""
    try:
        private.check(str(beads))
    except OSError:
        return False
    return True


def _environment() -> dict[str, str]:
    """Return what bd gets of our environment: the repository's settings for it may be a stranger's.

    No key of an agent or a cloud is among it, and what is meant for bd is.
    """
    from outpost_shared.programs import base_env

    own = {name: value for name, value in os.environ.items() if name.startswith(_FOR_BD)}
    # a look-up must leave nothing running
    return {**base_env(os.environ), **own, "BEADS_NO_DAEMON": "1"}


def _show(bd: str, issue_id: str, folder: Path) -> str | None:
    """Return what bd prints; "" when it knows no such issue, None when it has no database there.

    Raises:
        OutpostError: it failed otherwise, or took longer than `BD_TIMEOUT`.
    """
    process = subprocess.Popen(
        [bd, "show", issue_id, "--json"],
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=BD_TIMEOUT)
    except BaseException as error:
        from outpost_shared.children import signal_group

        signal_group(process.pid)  # its helpers hold our pipes, too
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise OutpostError(
                f"bd did not show {issue_id} within {BD_TIMEOUT:g} s (in {folder})",
                hint="run it there by hand, or give the issue's text with --prompt",
            ) from None
        raise
    stdout = out.decode("utf-8", "replace")
    if process.returncode == 0:
        return stdout
    said = err.decode("utf-8", "replace").strip() or stdout.strip()
    if _NO_DATABASE in (stdout + said).lower():
        return None
    if any(words in (stdout + said).lower() for words in _UNKNOWN):
        return ""
    raise OutpostError(
        f"bd show {issue_id} failed with exit code {process.returncode} (in {folder}):"
        f" {' '.join(said.split())[:300]}",
        hint="run it there by hand, or give the issue's text with --prompt",
    )
