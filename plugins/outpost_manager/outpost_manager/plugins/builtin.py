"""The plugins that Outpost itself brings: registered as those of others are, and shown so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from outpost_manager.config.policy import DefaultPolicy

if TYPE_CHECKING:
    from outpost_manager.config.model import Config


def own_plugins(config: Config) -> Mapping[str, object]:
    """Return the plugins of the manager, by the names under which they are registered."""
    return {"default-policy": DefaultPolicy(config.policy)}
