"""`outpost add cloudrun`: the price of an hour is shown, and nothing is written without a word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from outpost_cloudrun import price
from outpost_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outpost_cloudrun.options import CloudRunOptions
    from outpost_core.backend import BuildContext, Dialogue


async def introduce(
    name: str,
    options: CloudRunOptions,
    context: BuildContext,  # noqa: ARG001 - nothing is asked of Google, and nothing kept
    dialogue: Dialogue,
) -> Mapping[str, Any]:
    """Show what an outpost costs, and ask whether it is to be added at that.

    Who gives a cap has said what it may cost, and is not asked.

    Args:
        name: what the outpost will be called.
        options: its options.
        context: not needed.
        dialogue: who may be asked.

    Raises:
        UsageError: nobody has said yes.
    """
    where = options.region or options.url
    hour = price.hour(options)
    dialogue.say(f"{name} ({where}): {hour}")
    if hour.is_free:
        return {}
    dialogue.say(_limits(options))
    agreed = dialogue.trust or options.cost_cap_hourly is not None
    if not agreed and not dialogue.confirm(f"Add {name} at that price?"):
        raise UsageError(
            f"nobody has agreed to the price of {name}",
            hint="give a limit (--cost-cap-hourly USD), or answer the question on a terminal",
        )
    return {}


def _limits(options: CloudRunOptions) -> str:
    """Say how much it can come to."""
    cap, most = options.cost_cap_hourly, options.max_workers
    if cap is not None:
        return f"never more than {cap:g} USD in any hour (cost_cap_hourly)"
    if most is None:
        return "nothing limits it: --max-workers and --cost-cap-hourly do"
    busy = price.hour(options).busy
    containers = -(-most // options.concurrency)
    text = f"at most {busy * containers:.2f} USD an hour while {most} workers run"
    return f"{text}; --cost-cap-hourly sets a limit in USD"
