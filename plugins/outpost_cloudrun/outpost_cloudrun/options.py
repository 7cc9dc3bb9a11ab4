"""The options of a Cloud Run outpost, checked."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from outpost_cloudrun import price
from outpost_cloudrun.settings import Auth, Billing, KeepWarm, Mode, Settings

__all__ = ["Auth", "Billing", "CloudRunOptions", "KeepWarm", "Mode"]


@dataclass(frozen=True, kw_only=True)
class CloudRunOptions(Settings):
    """Options of an outpost of type `cloudrun`."""

    def __post_init__(self) -> None:
        """Check what the types alone do not say.

        Raises:
            UsageError: a value is mistaken, or two do not go together; the configuration adds its
                line.
        """
        from outpost_cloudrun import checking  # its patterns cost time

        checking.check(self)

    def warnings(self, answer_timeout: float) -> Mapping[str, str]:  # noqa: ARG002 - the base's
        """Say what is valid but probably a mistake."""
        from outpost_cloudrun import checking

        return checking.warnings(self)

    def located(self, base: Path | None) -> CloudRunOptions:
        """Return these options with paths that no longer depend on where a program runs.

        Args:
            base: the folder that relative paths are relative to; None for the current one.
        """
        if self.key_file is None:
            return self
        whole = (base or Path.cwd()) / self.key_file.expanduser()
        return self if whole == self.key_file else replace(self, key_file=whole)

    def as_started(self, **then: object) -> CloudRunOptions:
        """Return these options with others that held when a worker was started.

        They are not checked again: what was valid then, and what is valid now, need not go together
        in a file.

        Args:
            then: options by name.
        """
        options = copy.copy(self)
        for name, value in then.items():
            object.__setattr__(options, name, value)
        return options

    def standing_cost(self) -> float:
        """Return the USD an hour that a minimum instance costs with nothing to do."""
        return price.standing(self)
