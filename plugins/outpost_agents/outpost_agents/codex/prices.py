"""Prices of the models, since the agent reports tokens and no money.

As they stood on 2026-07-24 in the list that LiteLLM keeps, which names the first of these pages:

- https://openai.com/api/pricing/
- https://github.com/BerriAI/litellm/blob/main/model_prices_and_context_window.json

What the figures mean is said at `Reader.prices`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from outpost_core.types import Price

PRICES: Mapping[str, Price] = {
    "": (5.0, 0.5, 30.0),
    "gpt-5.6-luna": (1.0, 0.1, 6.0),
    "gpt-5.6-terra": (2.5, 0.25, 15.0),
    "gpt-5.6": (5.0, 0.5, 30.0),
    "gpt-5.5-pro": (30.0, 3.0, 180.0),
    "gpt-5.5": (5.0, 0.5, 30.0),
    "gpt-5.4-pro": (30.0, 3.0, 180.0),
    "gpt-5.4-mini": (0.75, 0.075, 4.5),
    "gpt-5.4-nano": (0.2, 0.02, 1.25),
    "gpt-5.4": (2.5, 0.25, 15.0),
    "gpt-5.3": (1.75, 0.175, 14.0),
    "gpt-5.2-pro": (21.0, 21.0, 168.0),
    "gpt-5.2": (1.75, 0.175, 14.0),
    "gpt-5.1-codex-mini": (0.25, 0.025, 2.0),
    "gpt-5.1": (1.25, 0.125, 10.0),
    "gpt-5-pro": (15.0, 15.0, 120.0),
    "gpt-5-mini": (0.25, 0.025, 2.0),
    "gpt-5-nano": (0.05, 0.005, 0.4),
    "gpt-5": (1.25, 0.125, 10.0),
    "gpt-4.1-mini": (0.4, 0.1, 1.6),
    "gpt-4.1-nano": (0.1, 0.025, 0.4),
    "gpt-4.1": (2.0, 0.5, 8.0),
    "o4-mini": (1.1, 0.275, 4.4),
    "o3-mini": (1.1, 0.55, 4.4),
    "o3-pro": (20.0, 20.0, 80.0),
    "o3": (2.0, 0.5, 8.0),
}
