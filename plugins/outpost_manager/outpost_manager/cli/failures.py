"""Where every error of the command line ends: what is printed, and the exit code.

For people an error goes to standard error, with its hint. With `--json` it is the document on
standard output, `{"error": {"code", "type", "message", "hint"}}`, so that a program always finds
exactly one document (of a command that prints a stream of documents: one last line) on one
stream. `code` is the exit code.

========  ==================================================================================
exit code  meaning
========  ==================================================================================
0          it worked; of a worker: its work is done
1          the work failed (or Outpost itself did: the message says which)
2          a mistake in the command line or in the configuration; nothing was changed
3          no outpost could take the order
4          no such worker, issue or outpost
5          an outpost could not be reached; nothing is known of its workers
130        Ctrl-C; workers keep running
141        whoever read the output went away (`| head`), as for every Unix program
========  ==================================================================================
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from outpost_core.errors import OutpostError
from outpost_manager.cli import output
from outpost_manager.cli.session import Session, print_json
from outpost_manager.errorview import error_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130
BROKEN_PIPE = 141


def report(error: BaseException, *, json: bool) -> int:
    """Print an error and return the exit code."""
    if os.environ.get("OUTPOST_DEBUG") and not isinstance(error, click.ClickException):
        import traceback

        output.echo("".join(traceback.format_exception(error)), err=True)
    shape = _usage(error) if isinstance(error, click.ClickException) else error_shape(error)
    if json:
        print_json({"error": shape})
        return int(shape["code"])
    text = str(error) if isinstance(error, OutpostError) else shape["message"]
    if not isinstance(error, OutpostError) and shape["hint"]:
        text += f"\n  → {shape['hint']}"
    output.echo(output.error(text), err=True)
    return int(shape["code"])


def interrupted(session: Session | None) -> int:
    """Say what continues after Ctrl-C and return the exit code."""
    if session is not None and session.going_on:
        output.echo(session.going_on, err=True)
    return INTERRUPTED


def wants_json(args: Sequence[str]) -> bool:
    """Return whether `--json` was said, even if the rest of the command line is wrong."""
    before = list(args)
    return "--json" in (before[: before.index("--")] if "--" in before else before)


def silence() -> int:
    """Give up on standard output for good (its reader has gone) and return the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    return BROKEN_PIPE


def _usage(error: click.ClickException) -> dict[str, Any]:
    ctx, message = getattr(error, "ctx", None), error.format_message()
    if isinstance(error, click.MissingParameter):  # click puts each choice on a line of its own
        message = " ".join(message.split())
    return {
        "code": error.exit_code, "type": "UsageError", "message": message,
        "hint": f"{ctx.command_path} --help" if ctx is not None else "",
    }  # fmt: skip
