"""`outpost token`: who may ask the mayor over the network."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from outpost_manager.cli import render
from outpost_manager.cli.session import Group, Session, command
from outpost_manager.jsonviews import moment
from outpost_mayor.api import tokens

if TYPE_CHECKING:
    from pathlib import Path

token = Group(
    "token",
    short_help="Say who may ask the mayor over the network.",
    help="Say who may ask the mayor over the network (outpost serve --listen).\n\n"
    "A token has a role: `view` looks, `work` also starts, stops and moves work, `admin` may do"
    " all. Only its hash is kept.\n\n"
    "\b\nExamples:\n  outpost token add ada --role work\n  outpost token list\n"
    "  outpost token remove ada",
)


@command("add")
@click.argument("name")
@click.option("--role", required=True, type=click.Choice(tokens.ROLES),
              help="What it may do.")  # fmt: skip
def add(session: Session, name: str, role: str) -> None:
    """Make a token, and show it once.

    \b
    Example:
      outpost token add ada --role work
    """
    made = tokens.add(_state(session), name, role)
    session.answer(lambda: {"name": name, "role": role, "token": made}, lambda: [made])
    session.note(f"  → it is shown this once; {render.clean(name)} sets it as OUTPOST_TOKEN")


@command("list")
def list_(session: Session) -> None:
    """List the tokens, without what they are.

    \b
    Example:
      outpost token list --json
    """
    found = tokens.read(_state(session))
    session.answer(
        lambda: {"tokens": [*map(_shape, found)]},
        lambda: (
            render.table(
                ("name", "role", "ends with", "made"),
                [
                    (one.name, one.role, one.last4 or "-", render.ago(one.created_at))
                    for one in found
                ],
            )
            if found
            else ["no tokens: outpost token add NAME --role ROLE makes one"]
        ),
    )


@command("remove")
@click.argument("name")
def remove(session: Session, name: str) -> None:
    """Take a token away; whoever has it is refused from now on.

    \b
    Example:
      outpost token remove ada
    """
    gone = tokens.remove(_state(session), name)
    session.answer(
        lambda: {"removed": _shape(gone)}, lambda: [f"{render.clean(gone.name)} is refused now"]
    )


def _state(session: Session) -> Path:
    from outpost_shared.paths import state_dir

    return session.state or state_dir(os.environ)


def _shape(one: tokens.Token) -> dict[str, Any]:
    return {
        "name": one.name,
        "role": one.role,
        "last4": one.last4,
        "created_at": moment(one.created_at),
    }


for each in (add, list_, remove):
    token.add_command(each)
