"""Completion in the shell: names of outposts from the configuration, ids from the ledger.

Runs at every press of Tab: no outpost is asked, and nothing is said or written when something is
wrong.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, TypeAlias

from outpost_manager.cli.session import current
from outpost_manager.offloop import at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import click
    from click.shell_completion import CompletionItem

    from outpost_core.types import Worker

    #: `(choice, what it is)`
    Choices: TypeAlias = Iterable[tuple[str, str | None]]
    Completer: TypeAlias = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

#: no shell shows more in a useful way.
_LIMIT = 500
#: where `OrderCommand` puts the words after `--`, in a context's `meta`.
AFTER_DASHES = "outpost.after_dashes"


def _choices(find: Callable[[click.Context], Choices]) -> Completer:
    """Make a completer of a function that finds all choices."""

    @functools.wraps(find)
    def complete(
        ctx: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from outpost_shared.harmless import clean

        try:
            found = [*find(ctx)]
        except Exception:  # noqa: BLE001 - a shell shows no errors of completion
            return []
        said = set(ctx.params.get("workers") or ())
        return [
            CompletionItem(choice, help=what and clean(what))
            for choice, what in found
            if choice.lower().startswith(incomplete.lower())
            and choice not in said
            and clean(choice) == choice  # a shell reads lines
        ]

    return complete


def _of_kind(kind: str) -> Completer:
    """Make a completer that leaves it to the shell: `file` or `dir`."""

    def complete(
        _ctx: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type=kind)]

    return complete


@_choices
def workers(ctx: click.Context) -> Choices:
    """Complete the id of any worker that was not cleaned."""
    return _ids(_known(ctx))


@_choices
def active_workers(ctx: click.Context) -> Choices:
    """Complete the id of a worker that has not ended."""
    return _ids(_known(ctx, active=True))


@_choices
def issues(ctx: click.Context) -> Choices:
    """Complete an issue that there is a worker for."""
    return [(issue, None) for issue in dict.fromkeys(worker.issue for worker in _known(ctx))]


@_choices
def outposts(ctx: click.Context) -> Choices:
    """Complete the name of a configured outpost."""
    config, _, _ = current(ctx).load_config()
    return [(entry.name, entry.type) for entry in config.outposts]


@_choices
def addresses(ctx: click.Context) -> Choices:
    """Complete the outpost that an address for mail begins with."""
    config, _, _ = current(ctx).load_config()
    return [(f"{entry.name}:", entry.type) for entry in config.outposts]


@_choices
def undelivered(ctx: click.Context) -> Choices:
    """Complete the id of mail that is not delivered."""
    with current(ctx).manager() as manager:
        if not (manager.state / "ledger.db").exists():
            return []
        letters = at_once(manager.outbox())
    return [(one.id, f"to {one.outpost}:{one.message.to}") for one in letters]


@_choices
def types(ctx: click.Context) -> Choices:
    """Complete an installed outpost type."""
    backends = current(ctx).plugins().backends
    return [(name, backend.summary) for name, backend in backends.items()]


@_choices
def plugins(ctx: click.Context) -> Choices:
    """Complete the entry point of a plugin."""
    return [(report.entry_point, report.label) for report in current(ctx).plugins().reports]


@_choices
def agents(ctx: click.Context) -> Choices:
    """Complete the name of an agent, built in or from a plugin."""
    with current(ctx).manager() as manager:
        presets = manager.agents()
    return [(name, preset.summary) for name, preset in presets.items()]


@_choices
def priorities(_ctx: click.Context) -> Choices:
    """Complete a priority."""
    return [(f"P{number}", None) for number in range(5)]


folders = _of_kind("dir")
_files = _of_kind("file")


def command_words(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a word of the command after `--` as a file; issues before it are not known."""
    return _files(ctx, param, incomplete) if AFTER_DASHES in ctx.meta else []


def _ids(found: Iterable[Worker]) -> Choices:
    """Return what names each worker: where an issue has the same id, the id says what it is."""
    found = [*found]
    issues = {worker.issue for worker in found}
    return [
        (
            f"worker:{worker.id}" if worker.id in issues else worker.id,
            f"{worker.state.value} at {worker.outpost}",
        )
        for worker in found
    ]


def _known(ctx: click.Context, *, active: bool | None = None) -> list[Worker]:
    with current(ctx).manager() as manager:
        if not (manager.state / "ledger.db").exists():
            return []
        return at_once(manager.ledger.workers(active=active, limit=_LIMIT))
