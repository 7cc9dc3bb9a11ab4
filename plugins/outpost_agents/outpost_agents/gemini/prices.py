"""Prices of the models, since the agent reports tokens and no money.

As they stood on 2026-07-24 in the list that LiteLLM keeps, which names the first of these pages:

- https://ai.google.dev/gemini-api/docs/pricing
- https://github.com/BerriAI/litellm/blob/main/model_prices_and_context_window.json

What the figures mean is said at `Reader.prices`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from outpost_core.types import Price

PRICES: Mapping[str, Price] = {
    "": (2.0, 0.2, 12.0),
    "gemini-3.6-flash": (1.5, 0.15, 7.5),
    "gemini-3.5-flash-lite": (0.3, 0.03, 2.5),
    "gemini-3.5-flash": (1.5, 0.15, 9.0),
    "gemini-3.1-flash-lite": (0.25, 0.025, 1.5),
    "gemini-3.1-pro": (2.0, 0.2, 12.0),
    "gemini-3-flash": (0.5, 0.05, 3.0),
    "gemini-3-pro": (2.0, 0.2, 12.0),
    "gemini-2.5-flash-lite": (0.1, 0.01, 0.4),
    "gemini-2.5-flash": (0.3, 0.03, 2.5),
    "gemini-2.5-pro": (1.25, 0.125, 10.0),
}
