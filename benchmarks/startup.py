"""(a) How long a person waits for `outpost list` and `outpost --help`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import Row, median_of, ms

#: The least that a plugin-based command line can do: its floor.
BARE = """\
import click, pluggy
from importlib_metadata import entry_points
pm = pluggy.PluginManager("outpost")
@click.group()
def cli(): "A bare program."
@cli.command("list")
def list_(): click.echo("local")
for entry in entry_points(group="outpost"):
    pm.register(entry.load())
cli()
"""


def measure(runs: int = 31) -> list[Row]:
    """Time both against the bare program, alternating so that drift hits all alike."""
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE)
        environ = {**os.environ, "OUTPOST_STATE": f"{folder}/state", "HOME": folder}
        outpost = str(Path(sys.executable).parent / "outpost")

        def timed(*argv: str) -> float:
            def run() -> None:
                subprocess.run(argv, check=True, env=environ, stdout=subprocess.DEVNULL, cwd=folder)

            run()
            return median_of(run, runs)

        rows = []
        for word in ("--help", "list"):
            floor = timed(sys.executable, str(bare), word)
            ours = timed(outpost, word)
            rows.append(
                Row(
                    what=f"`outpost {word}`, wall",
                    ours=ms(ours),
                    against=f"bare click + pluggy + entry points {ms(floor)}",
                    ratio=ours / floor,
                    goal="≤ 1.5 ×",
                    met=ours / floor <= 1.5,
                )
            )
        return rows
