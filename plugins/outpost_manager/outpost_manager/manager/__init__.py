"""The typed facade: one per program, async. Everything the command line does goes through it."""

from __future__ import annotations

from outpost_manager.manager.ending import Ending
from outpost_manager.manager.mailing import Mailing
from outpost_manager.manager.money import Money
from outpost_manager.manager.placing import Placing
from outpost_manager.manager.reloading import Reloading

__all__ = ["Manager"]


class Manager(Placing, Ending, Money, Mailing, Reloading):
    """What a program holds to work with outposts.

    Use it as an async context manager: no method blocks the event loop for the ledger, for git or
    for another program. Without an event loop it is a plain one, and `offloop.at_once` runs the
    methods that ask no outpost.

    Args:
        config: what is configured.
        plugins: what is installed.
        state: the state folder, for the ledger and the outposts' own files.
        environ: the environment, for secrets.
        cwd: where relative paths of orders start.

    Attributes:
        leave_observers: whoever opened this calls `finish_observers` himself, after his own output.
    """
