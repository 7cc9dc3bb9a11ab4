"""Where `outpost demo` can do its job besides this machine: what installed packages bring.

A package names such a place by an entry point of the group `outpost.demo`, whose name is the flag:
`cloudrun = "outpost_cloudrun.testing.demo:processes"` is `outpost demo --cloudrun`. It is a
function of the demo's folder and of the bare repository there, and returns a context manager. That
yields a mapping with `config`, the text of a configuration with one outpost, `rig`, the address of
the repository for workers at that outpost, and `says`, what a person is told of it. When it is
left, nothing of it stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import click

from outpost_core.errors import OutpostError, UsageError
from outpost_manager.cli.session import Command
from outpost_manager.plugins.advice import with_extras

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

GROUP: Final = "outpost.demo"


class DemoCommand(Command):
    """A command with a flag for each place that is installed."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the options, those of places among them."""
        first, *rest = super().get_params(ctx)
        return [first, *(_flag(name, package) for name, package in _names()), *rest]


def stage(name: str, folder: Path, remote: Path) -> AbstractContextManager[Mapping[str, str]]:
    """Return a place, not yet set up.

    Args:
        name: its flag, without the dashes.
        folder: the demo's.
        remote: the bare repository there.

    Raises:
        UsageError: what it needs is not installed.
    """
    for entry in _entries():
        if entry.name == name:
            try:
                make = cast(
                    "Callable[[Path, Path], AbstractContextManager[Mapping[str, str]]]",
                    entry.load(),
                )
            except ImportError as error:
                package = entry.dist.name if entry.dist is not None else entry.value
                raise UsageError(
                    f"outpost demo --{name} needs more than is installed: {error}",
                    hint=with_extras(package, "testing,server"),
                ) from error
            return make(folder, remote)
    raise OutpostError(f"there is no place {name}")


def _flag(name: str, package: str) -> click.Option:
    return click.Option(
        [f"--{name}", "place"], flag_value=name, default=None,
        help=f"Do it at a place of this machine that {package} brings.",
    )  # fmt: skip


def _names() -> list[tuple[str, str]]:
    return sorted(
        (entry.name, entry.dist.name if entry.dist is not None else "a package")
        for entry in _entries()
        if entry.name.replace("-", "").isalnum()
    )


def _entries() -> Any:
    from importlib_metadata import entry_points

    return entry_points(group=GROUP)
