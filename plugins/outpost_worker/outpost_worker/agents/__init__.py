"""One room for each kind of agent whose output Outpost can read: a file, and a line here.

A reader is told the records of one agent's JSON lines as they come, and knows at every moment
what the agent has said of its outcome, its session and what it used. Nothing of this is imported
for a plain command.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from outpost_worker.agents.record import Reader

#: `Agent.output` → module here and class in it.
KINDS = {
    "claude-stream-json": ("claude", "Claude"),
    "codex-json": ("codex", "Codex"),
    "gemini-json": ("gemini", "Gemini"),
    "opencode-json": ("opencode", "Opencode"),
}


def reader(
    kind: str,
    prices: Mapping[str, Sequence[float]] | None = None,
    env: Mapping[str, str] | None = None,
    began: float = 0.0,
) -> Reader:
    """Return a new reader of one agent's output.

    Args:
        kind: `Agent.output`; of `plain` and unknown kinds nothing is ever known.
        prices: `Agent.prices`.
        env: the agent's environment, for what it writes beside its output.
        began: when this attempt began; what such files hold from before does not count.
    """
    import importlib

    module, name = KINDS.get(kind, ("record", "Reader"))
    made: type[Reader] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return made(prices or {}, env or {}, began)
