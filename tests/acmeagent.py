"""A package of somebody else that adds an agent: the one of the guide, installed beside us."""

from __future__ import annotations

import re
import stat
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "docs" / "guides" / "add-an-agent.md"
_BLOCK = re.compile(r"^```(\w+)(?: title=[^\n]+)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r'"""(\w+\.py): ')

#: The agent itself: prints lines as its reader knows them, and works.
ACME = """\
#!/bin/sh
echo 'acme: warming up' >&2
echo '{"type": "start", "session": "s-42", "model": "acme-large"}'
echo '{"type": "step", "in": 1200, "out": 80, "usd": 0.02}'
echo '{"type": "tool", "name": "shell", "arguments": {"command": "make it"}, "answer": "made"}'
echo '{"type": "ping"}'
echo '{"type": "words", "text": "All done."}'
echo '{"type": "step", "in": 300, "out": 20, "usd": 0.01}'
echo '{"type": "end"}'
"""
#: What people see of that.
TOLD = """\
acme: warming up
acme-large · session s-42
$ make it
  made
All done.
✓ 2 turns · 1,500 tokens in · 100 tokens out · $0.0300
"""
#: What it used, as the result says it.
USED = {
    "input_tokens": 1500, "output_tokens": 100, "cached_tokens": None, "cost_usd": 0.03,
    "turns": 2, "partial": False, "estimated": False, "model": "acme-large",
}  # fmt: skip


def install(site: Path, bin_: Path) -> None:
    """Write the package of the guide as an installer would, and its agent.

    Args:
        site: becomes a folder of packages.
        bin_: a folder on the agents' PATH.
    """
    site.mkdir(parents=True, exist_ok=True)
    found = _BLOCK.findall(GUIDE.read_text(encoding="utf-8"))
    for kind, text in found:
        if kind == "python" and (named := _NAME.match(text)):
            (site / named[1]).write_text(text)
    (project,) = [tomllib.loads(text) for kind, text in found if kind == "toml"]
    about = site / "acme_agent-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-agent\nVersion: 1.0\n")
    groups = project["project"]["entry-points"]
    (about / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
            for group, points in groups.items()
        )
    )
    bin_.mkdir(parents=True, exist_ok=True)
    program = bin_ / "acme"
    program.write_text(ACME)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
