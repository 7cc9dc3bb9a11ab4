"""Completion in the shell: names of outposts from the configuration, ids from the ledger.

Runs at every press of Tab: no outpost is asked, and nothing is said or written when something is
wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from outpost_core.cli.session import current

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

    from outpost_core.types import Worker

#: no shell shows more in a useful way.
_LIMIT = 500


def workers(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the id of any worker that was not cleaned."""
    return _workers(ctx, incomplete, active=None)


def active_workers(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the id of a worker that has not ended."""
    return _workers(ctx, incomplete, active=True)


def outposts(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a configured outpost."""
    from click.shell_completion import CompletionItem

    try:
        config, _, _ = current(ctx).load_config()
    except Exception:  # noqa: BLE001 - a shell shows no errors of completion
        return []
    return [
        CompletionItem(entry.name, help=entry.type)
        for entry in config.outposts
        if entry.name.startswith(incomplete)
    ]


def agents(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of an agent, built in or from a plugin."""
    from click.shell_completion import CompletionItem

    try:
        presets = current(ctx).manager().agents()
    except Exception:  # noqa: BLE001 - a shell shows no errors of completion
        return []
    return [
        CompletionItem(name, help=preset.summary)
        for name, preset in presets.items()
        if name.startswith(incomplete)
    ]


def _workers(ctx: click.Context, incomplete: str, *, active: bool | None) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    try:
        found = _from_ledger(ctx, active)
    except Exception:  # noqa: BLE001 - a shell shows no errors of completion
        return []
    said = set(ctx.params.get("workers") or ())
    return [
        CompletionItem(w.id, help=f"{w.state.value} at {w.outpost}")
        for w in found
        if w.id.startswith(incomplete) and w.id not in said
    ]


def _from_ledger(ctx: click.Context, active: bool | None) -> list[Worker]:
    manager = current(ctx).manager()
    if not (manager.state / "ledger.db").exists():
        return []
    return manager.ledger.workers(active=active, limit=_LIMIT)
