"""What the reader of a section is given: the way from YAML to values, and errors with a place."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from outpost_core.errors import ConfigError
    from outpost_core.options import OptionField
    from outpost_manager.config.yamlnodes import Node


class Reading(Protocol):
    """One file on its way to a `Config`."""

    def entries(self, node: Node | None, complaint: str) -> Sequence[Node]:
        """Return the maps of a list; none where the section is missing or empty.

        Args:
            node: the section.
            complaint: what is said when it is no list of maps.
        """

    def name_of(self, node: Node, what: str, taken: Collection[str]) -> str:
        """Return `name` of an entry, checked, and not one of those that are taken."""

    def values(
        self,
        node: Node,
        what: str,
        fields: Sequence[OptionField],
        known: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Convert the entries of a map to the fields of a dataclass."""

    def keys(self, node: Node, what: str, allowed: Iterable[str]) -> None:
        """Refuse what is no map, and keys that it cannot have."""

    def keep_origins(self, prefix: str, node: Node) -> None:
        """Remember where each value of a map was written."""

    def error(self, message: str, node: Node, *, hint: str = "") -> ConfigError:
        """Return a mistake with its place."""

    def secret_error(self, message: str, node: Node, *, hint: str = "") -> ConfigError:
        """Return a mistake with its place, and without the line that may hold a secret."""
