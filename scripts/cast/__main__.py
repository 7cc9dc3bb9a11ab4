"""Record the cast of the README from the real program, or check that the one that is there holds.

Usage: python scripts/cast [--check] [FILE]

What is typed is typed into a real shell in a throw-away repository, with the agent and the issues
of `outpost demo`; what is shown is what came. Waiting is cut, so that a round is at most 20 s.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from drawing import draw
from terminal import Terminal

from outpost_manager.cli.demokit import Project
from outpost_manager.cli.demothree import AGENT, ISSUES, supervisor

FILE: Final = Path(__file__).resolve().parents[2] / "docs" / "images" / "cast.svg"
#: so few that words are 9 pixels high on a phone of 390.
COLUMNS: Final = 62
LINES: Final = 22
#: seconds of a round.
MOST: Final = 19.5
TITLE: Final = (
    "Three workers are spawned, one is killed and taken up again from its checkpoint, and three"
    " branches are on the remote"
)
SPAWN: Final = "outpost spawn --from-file issues.jsonl -- sh agent.sh"
WATCH: Final = "outpost status --watch"
KILL: Final = "kill -9 {pid}  # the process of tests.1, as by a crash"
AGAIN: Final = "outpost spawn --from-file tests.jsonl --again -- sh agent.sh"
BRANCHES: Final = "git ls-remote --heads origin | cut -f2"


def record(folder: Path) -> Terminal:
    """Type the story in a folder, and return the terminal with its pictures."""
    hold = folder / "hold"
    hold.touch()
    lines = {name: json.dumps({"issue": name, "title": said}) for name, said in ISSUES.items()}
    project = Project(folder)
    project.make({
        "agent.sh": AGENT.replace("{hold}", str(hold)),
        "issues.jsonl": "\n".join([*lines.values(), ""]),
        "tests.jsonl": f"{lines['tests']}\n",
    })  # fmt: skip
    (folder / "inputrc").write_text("set enable-bracketed-paste off\n")
    env = {
        "HOME": str(folder),
        "INPUTRC": str(folder / "inputrc"),
        "LANG": "C.UTF-8",
        "OUTPOST_STATE": str(folder / "state"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TERM": "xterm-256color",
    }
    with Terminal(COLUMNS, LINES, env, project.tree) as terminal:
        try:
            terminal.type("cat issues.jsonl")
            del terminal.frames[:-1]  # a round begins with something to be seen
            terminal.linger(0.8)
            terminal.type(SPAWN)
            terminal.linger(0.6)
            terminal.begin(WATCH)
            terminal.wait(lambda: terminal.text().count(" working ") == len(ISSUES))
            terminal.linger(2.2)
            terminal.interrupt()
            terminal.type(KILL.format(pid=supervisor(folder / "state", "local", "tests.1")))
            terminal.linger(0.6)
            terminal.begin(WATCH)
            terminal.wait(lambda: "lost_process" in terminal.text() and " lost " in terminal.text())
            terminal.linger(2.2)
            terminal.interrupt()
            hold.unlink()
            terminal.type(AGAIN)
            terminal.linger(0.4)
            terminal.begin(WATCH)
            terminal.wait(lambda: terminal.text().count(" done ") >= len(ISSUES))
            terminal.linger(2.0)
            terminal.interrupt()
            terminal.type(BRANCHES)
            terminal.linger(3.0)
        finally:
            hold.unlink(missing_ok=True)
            subprocess.run(
                ["outpost", "stop", *(f"{name}.1" for name in ISSUES)],
                env=env, check=False, capture_output=True, timeout=60,
            )  # fmt: skip
            subprocess.run(
                ["outpost", "clean", "--force", *ISSUES],
                env=env, check=False, capture_output=True, timeout=60,
            )  # fmt: skip
    return terminal


def milestones(svg: str) -> list[str]:
    """Return what two recordings of the same program have in common: heads of tables, words."""
    said = set(re.findall(r"<text[^>]*>([^<]*)</text>", svg))
    known = re.compile(
        r"[A-Z]{4,}|done|working|lost|lost_process|outpost/[a-z]+|refs/\S+|outpost .*"
    )
    return sorted(text for text in said if known.fullmatch(text))


def main() -> None:
    """Write the cast, or say what is not as it is recorded now."""
    words = [word for word in sys.argv[1:] if word != "--check"]
    file = Path(words[0]) if words else FILE
    with tempfile.TemporaryDirectory(prefix="op") as folder:
        terminal = record(Path(folder))
    svg = draw(terminal.frames, COLUMNS, TITLE, MOST)
    if "--check" not in sys.argv:
        file.write_text(svg, encoding="utf-8")
        return
    there, now = milestones(file.read_text(encoding="utf-8")), milestones(svg)
    if there != now:
        changed = sorted({*there} ^ {*now})
        sys.exit(f"{file.name} shows another program: {changed}\n  → python scripts/cast")


main()
