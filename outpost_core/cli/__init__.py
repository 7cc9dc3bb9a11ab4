"""The command line: `outpost`.

`app` holds the group and the table of commands; every other module holds one family of commands
and is imported when one of them is used. Nothing here decides anything: commands turn words into
calls of `outpost_core.manager` and answers into words.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit with its code."""
    from outpost_core.cli.app import cli

    cli.main(prog_name="outpost")
