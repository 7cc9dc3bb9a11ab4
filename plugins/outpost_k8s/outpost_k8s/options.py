"""The options of a Kubernetes outpost, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from outpost_k8s.settings import Settings


@dataclass(frozen=True, kw_only=True)
class K8sOptions(Settings):
    """Options of an outpost of type `k8s`."""

    def __post_init__(self) -> None:
        """Check what the types alone do not say.

        Raises:
            UsageError: a value is mistaken, or two do not go together; the configuration adds its
                line.
        """
        from outpost_k8s import checking  # its patterns cost time

        checking.check(self)

    def warnings(self, answer_timeout: float) -> Mapping[str, str]:  # noqa: ARG002 - the base's
        """Say what is valid but probably a mistake."""
        from outpost_k8s import checking

        return checking.warnings(self)

    def located(self, base: Path | None) -> K8sOptions:
        """Return these options with paths that no longer depend on where a program runs.

        Args:
            base: the folder that relative paths are relative to; None for the current one.
        """
        if self.kubeconfig is None:
            return self
        whole = (base or Path.cwd()) / self.kubeconfig.expanduser()
        return self if whole == self.kubeconfig else replace(self, kubeconfig=whole)
